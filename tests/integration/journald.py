"""A journald that reads when it is asked to, on a /run of the daemon's own."""
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading

import pytest

from waiting import Deadline

_UNSHARE = ["unshare", "--mount", "--propagation", "private"]
if os.geteuid() != 0:
    _UNSHARE += ["--map-root-user"]


def parse(data):
    """A datagram of the native protocol, see systemd.io/JOURNAL_NATIVE_PROTOCOL."""
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        fields[key.decode()] = value.decode()
    return fields


class Journald:
    """launcher starts the daemon where this is its journal."""

    def __init__(self):
        self.run = tempfile.mkdtemp(prefix="run-", dir="/tmp")  # short: it is a socket's address
        directory = os.path.join(self.run, "systemd", "journal")
        os.makedirs(directory)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(os.path.join(directory, "socket"))
        self.launcher = [*_UNSHARE, "sh", "-c", f'mount --bind {self.run} /run && exec "$0" "$@"']
        self.entries = []
        self._changed = threading.Condition()
        self._thread = None

    def check(self):
        """Skips the test where nobody may have a /run of its own."""
        result = subprocess.run([*self.launcher, "true"], capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"skipped: no mount namespace here: {result.stderr.strip()}")

    def read(self):
        """Reads from now on."""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            data = self._sock.recv(1 << 20)
            if data == b"stop":
                return
            with self._changed:
                self.entries.append(parse(data))
                self._changed.notify_all()

    def stop_reading(self):
        if self._thread:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"stop", self._sock.getsockname())
            self._thread.join()
            self._thread = None

    def wait_event(self, name, timeout=30):
        deadline = Deadline(timeout)
        with self._changed:
            while True:
                found = [e for e in self.entries if e.get("EVENT") == name]
                if found:
                    return found[0]
                assert not deadline.passed(), f"no {name} among {self.entries[-20:]}"
                self._changed.wait(deadline.left())

    def close(self):
        self.stop_reading()
        self._sock.close()
        shutil.rmtree(self.run)
