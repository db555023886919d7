"""A server that speaks PostgreSQL's protocol, and misbehaves as it is told."""
import contextlib
import re
import socket
import struct
import threading
import time

SSL_REQUEST, CANCEL_REQUEST = 80877103, 80877102
PARAMETERS = {"server_version": "15.20", "client_encoding": "UTF8", "standard_conforming_strings": "on"}


def message(kind, body=b""):
    return kind + struct.pack("!I", len(body) + 4) + body


def text(value):
    return str(value).encode() + b"\0"


READY = message(b"Z", b"I")
COPY_OUT = message(b"H", struct.pack("!bh", 0, 0))
COPY_BOTH = message(b"W", struct.pack("!bh", 0, 0))
COPY_IN = message(b"G", struct.pack("!bh", 1, 0))
NOTICE = message(b"N", b"SNOTICE\0VNOTICE\0C00000\0M" + text("x" * 1000) + b"\0")
NOTIFICATION = message(b"A", struct.pack("!I", 1) + text("channel") + text("x" * 1000))
PARAMETER = message(b"S", text("application_name") + text("x" * 1000))


def complete(tag="SELECT 0"):
    return message(b"C", text(tag))


def columns(n):
    body = struct.pack("!h", n)
    for i in range(n):
        body += text(f"c{i}") + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0)
    return message(b"T", body)


def row(*values):
    body = struct.pack("!h", len(values))
    for value in values:
        data = str(value).encode()
        body += struct.pack("!i", len(data)) + data
    return message(b"D", body)


def rows(*all_rows):
    """A whole answer."""
    return columns(len(all_rows[0])) + b"".join(row(*r) for r in all_rows) + complete() + READY


class Endless:
    """
    Begins as it is told, and then goes on with the same until nobody reads it any more: as fast as it
    can, or once in so many seconds.
    """

    def __init__(self, again, begin=b"", every=0.0):
        self.begin = begin
        self.again = again if every else again * (65536 // len(again) + 1)
        self.every = every


class FakeServer:
    """
    Answers each statement by the first pattern in answers that is found in it, else with otherwise.  An
    answer is bytes, Endless, or None for silence; greeting likewise, in place of a login that goes well.
    Counts what has come: connections, cancels, statements.
    """

    def __init__(self, answers=(), otherwise=complete("OK") + READY, greeting=b""):
        self.answers = [(re.compile(pattern, re.S), answer) for pattern, answer in answers]
        self.otherwise = otherwise
        self.greeting = greeting
        self.connections = 0
        self.cancels = 0
        self.statements = []
        self._closing = False
        self._clients = []
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def uri(self):
        return f"postgresql://u@127.0.0.1:{self.port}/db"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._closing = True
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self):
        while not self._closing:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            self._clients.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            self._threads[-1].start()

    def _serve(self, client):
        with client, contextlib.suppress(OSError, EOFError):
            if self._log_in(client):
                self._talk(client)

    @staticmethod
    def _read(client, n):
        data = b""
        while len(data) < n:
            piece = client.recv(n - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def _log_in(self, client):
        while True:
            length, code = struct.unpack("!II", self._read(client, 8))
            self._read(client, length - 8)
            if code == CANCEL_REQUEST:
                self.cancels += 1
                return False
            if code != SSL_REQUEST:
                break
            client.sendall(b"N")
        self.connections += 1
        if self.greeting:
            self._answer(client, self.greeting)
            return False
        client.sendall(message(b"R", struct.pack("!I", 0)))
        for name, value in PARAMETERS.items():
            client.sendall(message(b"S", text(name) + text(value)))
        client.sendall(message(b"K", struct.pack("!II", self.connections, 1)) + READY)
        return True

    def _talk(self, client):
        statement = ""
        while True:
            kind, length = struct.unpack("!cI", self._read(client, 5))
            body = self._read(client, length - 4)
            if kind == b"X":
                return
            if kind in b"QP":
                statement = body.strip(b"\0").decode(errors="replace")
            if kind == b"P":
                client.sendall(message(b"1") + message(b"2"))
            if kind in b"QS":
                self.statements.append(statement)
                self._answer(client, self._find(statement))

    def _find(self, statement):
        for pattern, answer in self.answers:
            if pattern.search(statement):
                return answer
        return self.otherwise

    def _answer(self, client, answer):
        if answer is None:
            while client.recv(4096):
                pass
        elif isinstance(answer, Endless):
            client.sendall(answer.begin)
            while not self._closing:
                client.sendall(answer.again)
                time.sleep(answer.every)
        else:
            client.sendall(answer)
