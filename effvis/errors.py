"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """Something that the user gave is wrong; the message says where and what it is, and how to fix it.

    Args:
        where: the file (or command) at fault.
        key: the place inside it, e.g. ``annotations[3].segmentations[0]`` or ``train.lr``.
        problem: what is wrong, in a few words.
        remedy: what the user can do about it.

    Commands catch it, print it on one line and exit with code 2; it never carries a traceback to the user.
    """

    def __init__(self, where: object, key: str, problem: str, remedy: str):
        self.where, self.key, self.problem, self.remedy = str(where), key, problem, remedy
        super().__init__(f"{self.where}: {key}: {problem}. {remedy}")

    def __reduce__(self):
        # Exceptions unpickle from their args alone; errors cross process boundaries in Ray tasks.
        return (type(self), (self.where, self.key, self.problem, self.remedy))
