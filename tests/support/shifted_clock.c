/* Preloaded into a process, it moves the time of day by as many seconds as the file $CLOCK_OFFSET says, which it reads again
   after 50 ms: what a process sees when somebody sets the machine's clock. The monotonic clock goes on undisturbed, as it
   does then. Whoever waits until a time of day says it in the moved time and the kernel knows the true one alone, so the
   waits are moved back: without that each wait of a clock that was set back ends at once, and Ray's loops turn without
   rest, as they do on no machine whose clock was really set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#define A_TIME_OF_DAY 1000000000  /* seconds; a deadline of the monotonic clock, which counts from the start, is less */

typedef int (*get_time)(clockid_t, struct timespec *);

static int real_time(clockid_t clock, struct timespec *now)
{
    static get_time real;
    if (!real)
        real = (get_time)dlsym(RTLD_NEXT, "clock_gettime");
    return real(clock, now);
}

static long offset(void)
{
    static __thread long seconds, read_at = -1;  /* of each thread, so that none waits for another */
    struct timespec now;
    real_time(CLOCK_MONOTONIC, &now);
    long at = now.tv_sec * 20 + now.tv_nsec / 50000000;
    if (at != read_at) {
        const char *path = getenv("CLOCK_OFFSET");
        FILE *file = path ? fopen(path, "r") : NULL;
        if (file) {
            if (fscanf(file, "%ld", &seconds) != 1)
                seconds = 0;
            fclose(file);
        }
        read_at = at;
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = real_time(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    static int (*real)(struct timeval *, void *);
    if (!real)
        real = dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(now, zone);
    if (!failed)
        now->tv_sec += offset();
    return failed;
}

time_t time(time_t *where)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}

static const struct timespec *true_deadline(const struct timespec *deadline, struct timespec *moved)
{
    if (!deadline || deadline->tv_sec < A_TIME_OF_DAY)
        return deadline;
    *moved = *deadline;
    moved->tv_sec -= offset();
    return moved;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline)
{
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec moved;
    if (!real)  /* without a version dlsym finds the one of before 2003, of conditions of another size */
        real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real)
        real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    return real(condition, mutex, true_deadline(deadline, &moved));
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    struct timespec moved;
    va_list list;
    long a[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (!real)
        real = dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME))
        a[3] = (long)true_deadline((const struct timespec *)a[3], &moved);
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
