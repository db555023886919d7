"""What the fault tests share: a load that outlives the daemon, a proxy that cuts, the two checks."""
import socket
import threading

import wire
from waiting import wait_until

PIECE = 250


class Load:
    """
    Senders that go on through every fault.  Each sends pieces of metrics with values of their own and
    a sync frame behind each; what was answered is remembered.  What was sent and not answered is never
    sent again, so that each value may be stored once at the most.
    """

    def __init__(self, address, senders=3, level=1):
        self.address = address
        self.level = level
        self.acknowledged = []  # (first, end) of values
        self._next = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(senders)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _piece(self):
        with self._lock:
            first = self._next
            self._next += PIECE
        return first

    def _talk(self, sender):
        while not self._stop.is_set():
            first = self._piece()
            sender.send(wire.series(f"load.{first // PIECE % 20}", PIECE, first=first))
            sender.sync(self.level, first)
            with self._lock:
                self.acknowledged.append((first, first + PIECE))

    def _run(self):
        while not self._stop.is_set():
            try:
                with wire.Sender(self.address, timeout=60) as sender:
                    self._talk(sender)
            except (OSError, AssertionError):
                self._stop.wait(0.01)  # the daemon is away: that is the point

    def count(self):
        with self._lock:
            return len(self.acknowledged)

    def wait_more(self, pieces, timeout=60):
        target = self.count() + pieces
        wait_until(lambda: self.count() >= target, timeout, "acknowledged pieces")


def assert_all_there_once(database, load):
    """The two checks: no acknowledged metric is missing, and no metric is there twice."""
    values = sorted(int(v) for (v,) in database.rows("SELECT value FROM metrics"))
    stored = set(values)
    assert len(values) == len(stored), "duplicates"
    for first, end in load.acknowledged:
        missing = [v for v in range(first, end) if v not in stored]
        assert not missing, f"acknowledged, but not there: {missing[:5]} of {first}..{end}"


def ledger_of(database, before=None):
    """The numbers of the batches in the ledger: all, or those that were stored before an instant."""
    sql = f"SELECT batch FROM {database.ledger} WHERE stored_at < coalesce(%s::timestamptz, 'infinity')"
    return {n for (n,) in database.rows(sql, before)}


def settle(collector, timeout=60):
    """Until the daemon has nothing left to store."""
    return collector.wait_statistics(timeout, buffered=0)


class Proxy:
    """
    Stands between daemon and server, and cuts a connection once a number of bytes went one way:
    cut_after(direction, n) arms it, "up" to the server, "down" from it.  cut_at(marker) cuts in place of
    what the server sends with these bytes in it.  Bytes beyond the cut are swallowed, as when a
    network goes away; then both ends are reset.
    """

    def __init__(self, target_port):
        self.target_port = target_port
        self._cuts = 0
        self._armed = None
        self._marker = None
        self._pairs = []
        self._lock = threading.Lock()
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self._closing = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self):
        self._closing = True
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join()

    @property
    def cuts(self):
        """How many were made; both ends of each connection are closed."""
        with self._lock:
            return self._cuts

    def cut_after(self, direction, count):
        with self._lock:
            self._armed = [direction, count]

    def cut_now(self):
        """Every connection of this moment."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self._cut(*pair)

    def cut_at(self, marker):
        with self._lock:
            self._marker = marker

    def wait_cut(self, number, timeout=30):
        wait_until(lambda: self.cuts >= number, timeout, f"cut {number}")

    def _accept(self):
        while not self._closing:
            try:
                down, _ = self._sock.accept()
            except OSError:
                return
            try:
                up = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                down.close()
                continue
            with self._lock:
                self._pairs.append((down, up))
            for source, sink, direction in ((down, up, "up"), (up, down, "down")):
                threading.Thread(
                    target=self._pump, args=(source, sink, direction), daemon=True
                ).start()

    def _allowed(self, direction, data):
        """How many bytes of data may pass; fewer means cut."""
        size = len(data)
        with self._lock:
            if self._marker and direction == "down" and self._marker in data:
                self._marker = None
                return 0
            if not self._armed or self._armed[0] != direction:
                return size
            if self._armed[1] >= size:
                self._armed[1] -= size
                return size
            allowed, self._armed = self._armed[1], None
            return allowed

    def _pump(self, source, sink, direction):
        try:
            while data := source.recv(65536):
                allowed = self._allowed(direction, data)
                if allowed < len(data):
                    self._send_last(sink, data[:allowed])
                    self._cut(source, sink)
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(source, sink)

    @staticmethod
    def _send_last(sink, data):
        try:
            sink.sendall(data)
        except OSError:  # that end has gone by itself; the cut counts all the same
            pass

    def _cut(self, *socks):
        with self._lock:
            self._close(*socks, linger=b"\1\0\0\0\0\0\0\0")  # a reset, not an orderly end
            self._cuts += 1

    @staticmethod
    def _close(*socks, linger=None):
        for sock in socks:
            try:
                if linger:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()


def lose_commit_answers(collector, proxy, database):
    """Five times the server has committed, and says so; the daemon never hears it.  Stops the daemon."""
    for number in range(5):
        with collector.sender(timeout=60) as sender:
            proxy.cut_at(b"COPY 10\0")
            sender.send(wire.series("cut", 10, first=number * 10))
            assert sender.sync(2) == 0
        assert proxy.cuts == number + 1
    assert collector.statistics()["batches_repeated"] == 5
    assert collector.stop() == 0
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(50, 50)]
    assert collector.stopped["stored"] == 50
