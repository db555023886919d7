"""The wire protocol as a sender of the description's speaks it, and sockets to send it over."""
import socket
import struct

from waiting import seconds

MICROSECONDS = 1_000_000
T0 = 1_750_000_000 * MICROSECONDS  # 2025-06-15T15:06:40Z
T0_TEXT = "2025-06-15T15:06:40.000000Z"
TIME_MAX = 253402300799_999999  # the end of the year 9999
ANSWER = struct.Struct("!QBQ")

# The two examples of the project's description.
PYTHON_EXAMPLE = struct.pack("!Q B {}s d".format(6), 1686787200000000, 6, b"metric", 3.14159)
SHELL_EXAMPLE = r"\x00\x00\x01\x88\xD2\xE9\xA0\x00\x06metric\x40\x49\x0F\xDB\x00\x00\x00\x00"
SHELL_EXAMPLE_BYTES = bytes.fromhex("00000188d2e9a000066d6574726963") + bytes.fromhex(
    "40490fdb00000000"
)


def frame(name, value, time_us=T0):
    if isinstance(name, str):
        name = name.encode()
    return struct.pack("!QB%dsd" % len(name), time_us, len(name), name, value)


def sync_frame(level, token=0):
    return struct.pack("!QB7sB", token, 0, b"MCSYNC\0", level)


def series(name, count, first=0, time_us=T0):
    """Frames with the values first, first + 1, ..., each a microsecond after the one before."""
    name = name.encode()
    pack = struct.Struct("!QB%dsd" % len(name)).pack
    size = len(name)
    return b"".join(pack(time_us + i, size, name, i) for i in range(first, first + count))


def connect(address, timeout=20, receive_buffer=None, send_buffer=None):
    """address as the daemon logs it: 127.0.0.1:9999, [::1]:9999, unix:/path."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        target = address[len("unix:") :]
        if target.startswith("@"):
            target = "\0" + target[1:]
    else:
        host, _, port = address.rpartition(":")
        sock = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET)
        target = (host.strip("[]"), int(port))
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if send_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    sock.settimeout(seconds(timeout))
    try:
        sock.connect(target)
    except OSError:
        sock.close()
        raise
    return sock


class Sender:
    """One connection to the daemon."""

    def __init__(self, address, **options):
        self.sock = connect(address, **options)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def send(self, data):
        self.sock.sendall(data)

    def send_in_vain(self, data):
        """The daemon may close before it has all of it."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def close(self):
        self.sock.close()

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def read_exactly(self, size):
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, f"closed by the daemon after {len(data)} of {size} bytes"
            data += piece
        return data

    def read_to_end(self):
        """Everything until the daemon closes; a reset is an end, too."""
        data = b""
        while True:
            try:
                piece = self.sock.recv(65536)
            except ConnectionResetError:
                return data
            if not piece:
                return data
            data += piece

    def read_answer(self):
        """(token, refused)"""
        token, zero, refused = ANSWER.unpack(self.read_exactly(ANSWER.size))
        assert zero == 0
        return token, refused

    def sync(self, level, token=1):
        """Asks and waits; returns the number of refused frames."""
        self.send(sync_frame(level, token))
        answered, refused = self.read_answer()
        assert answered == token
        return refused

    def finish(self):
        """Half-closes and waits until the daemon has read everything; returns what it said."""
        self.half_close()
        return self.read_to_end()
