"""A supervisor's side of sd_notify(3)."""
import socket
import threading

from waiting import Deadline


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
        deadline = Deadline(timeout)
        with self._changed:
            while True:
                found = [m for m in self.messages[since:] if m.startswith(start)]
                if len(found) >= count:
                    return found[count - 1]
                if deadline.passed():
                    raise AssertionError(f"no {start!r} among {self.messages[since:]}")
                self._changed.wait(deadline.left())
