"""A web server on the loopback interface that fails on request: it breaks off, drops its features, or changes its file."""

import contextlib
import hashlib
import http.server
import re
import threading
from email.utils import formatdate


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site = self.server
        site.requests.append(self.headers)
        plan = site.plans.pop(0) if site.plans else site.always
        if "status" in plan:
            self.send_error(plan["status"])
            return
        if "content" in plan:
            site.content = plan["content"]
        start, wanted = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = site.ignores_if_range or self.headers.get("If-Range") == self.version()[1]
        if wanted and site.ranges and same:
            start = int(wanted[1])
            if start >= len(site.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        else:
            self.send_response(200)
        if site.versioned:
            self.send_header(*self.version())
        body = site.content[start:]
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:plan.get("breaks_after")])
        if "breaks_after" in plan:
            self.close_connection = True
        if "sleeps" in plan:
            self.wfile.flush()
            site.woken = site.wake.wait(10) or True

    def version(self):
        """The version's header and value; content of another size has another date."""
        site = self.server
        if site.dated:
            return "Last-Modified", formatdate(1_700_000_000 + len(site.content), usegmt=True)
        return "ETag", f'{"W/" * site.weak}"{hashlib.sha256(site.content).hexdigest()[:12]}"'

    def log_message(self, *_):
        pass


class Site(http.server.ThreadingHTTPServer):
    """A server of one file that answers by ``plans``, request by request, then by ``always``."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.plans, self.always, self.requests = content, [], {}, []
        self.ranges = self.versioned = True
        self.ignores_if_range = self.chunked = self.dated = self.weak = self.woken = False
        self.wake = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pth"

    def handle_error(self, *_):  # a client that hangs up is part of the test
        pass


@contextlib.contextmanager
def serving(content):
    """Runs a ``Site`` of one file."""
    with Site(content) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            site.wake.set()
            site.shutdown()
            thread.join()
