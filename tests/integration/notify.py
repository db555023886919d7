"""A supervisor's side of sd_notify(3)."""
import contextlib
import socket
import threading

from waiting import Deadline, seconds


class NotifySocket:
    def __init__(self, path):
        self.path = str(path)
        self.messages = []
        self._changed = threading.Condition()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            try:
                data = self._sock.recv(65536)
            except OSError:
                return
            if not data:
                return
            with self._changed:
                self.messages += data.decode().splitlines()
                self._changed.notify_all()

    def close(self):
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()

    def mark(self):
        with self._changed:
            return len(self.messages)

    def wait(self, start, since=0, count=1, timeout=20):
        """The count-th line from position since on that begins with start."""
        return self._wait(lambda line: line.startswith(start), start, since, count, timeout)

    def wait_status(self, part, timeout=20):
        """A status line that has this in it."""

        def is_it(line):
            return line.startswith("STATUS=") and part in line

        return self._wait(is_it, part, 0, 1, timeout)

    def _wait(self, is_it, wanted, since, count, timeout):
        deadline = Deadline(timeout)
        with self._changed:
            while True:
                found = [line for line in self.messages[since:] if is_it(line)]
                if len(found) >= count:
                    return found[count - 1]
                if deadline.passed():
                    raise AssertionError(f"no {wanted!r} among {self.messages[since:]}")
                self._changed.wait(deadline.left())


class SilentNotifySocket:
    """One that reads only when it is asked to.  fill() leaves no room in its queue."""

    def __init__(self, path):
        self.path = str(path)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)

    def fill(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.sendto(b"junk", self.path)

    def take(self):
        """Everything that is there now, junk left out."""
        messages = []
        self._sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self._sock.recv(65536).decode())
        return [m for m in messages if m != "junk"]

    def next(self, timeout=20):
        """The next change of state: no junk, no status, no watchdog."""
        self._sock.settimeout(seconds(timeout))
        while True:
            message = self._sock.recv(65536).decode()
            if message != "junk" and not message.startswith(("STATUS=", "WATCHDOG=")):
                return message

    def close(self):
        self._sock.close()
