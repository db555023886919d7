"""Whoever does not read what the daemon writes holds up nobody: log readers, journald, supervisors."""
import os
import pty
import signal
import termios

import pytest

import wire
from journald import Journald
from notify import SilentNotifySocket
from programs import is_sanitized
from waiting import BESIDE_OTHERS, wait_until
from wire import series

MANY = 200_000  # metrics; their lines are several times what pipe and ring hold
# Ten times what is seen on a quiet machine, where lines are made 30 ms long until the buffer is full.
TURN_MS = 10_000 if is_sanitized() else 1000 if BESIDE_OTHERS else 500


@pytest.fixture
def silent_notify_socket(tmp_path):
    sock = SilentNotifySocket(tmp_path / "notify")
    yield sock
    sock.close()


@pytest.fixture
def journald():
    stand_in = Journald()
    try:
        stand_in.check()
        yield stand_in
    finally:
        stand_in.close()


def stopped_by_ctrl_s():
    """A terminal; what is written to it stays there until Ctrl-Q."""
    master, slave = pty.openpty()
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST  # lines end as they were written
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    return master, slave


def send_burst(address, store):
    with wire.Sender(address, timeout=120) as sender:
        sender.send(series("m", MANY))
        assert sender.sync(2) == 0
    assert store.count() == MANY


def check_that_nobody_waited(collector):
    """Once the log is read again."""
    lost = collector.wait_event("log_lost")
    assert lost["level"] == "warning"
    statistics = collector.statistics()
    assert 0 < statistics["turn_ms_p99"] <= statistics["turn_ms_max"] < TURN_MS
    assert collector.stop() == 0
    received = len(collector.find("metric_received"))
    lost = sum(e["lines"] for e in collector.find("log_lost"))
    assert 0 < received < MANY
    assert received + lost >= MANY  # lines of other events may be among them


@pytest.mark.slow
@pytest.mark.threads
def test_pipe_that_nobody_reads(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, log__metrics=True)
    collector.hold_log()
    send_burst(collector.address, sqlite_store)
    collector.release_log()
    check_that_nobody_waited(collector)


@pytest.mark.slow
def test_terminal_that_was_stopped(new_collector, sqlite_store):
    collector = new_collector(sqlite_store, log__metrics=True)
    terminal = stopped_by_ctrl_s()
    collector.start(terminal=terminal)
    address = collector.address
    os.write(terminal[0], b"\x13")  # Ctrl-S
    send_burst(address, sqlite_store)
    os.write(terminal[0], b"\x11")  # Ctrl-Q
    check_that_nobody_waited(collector)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_stop_while_nobody_reads(new_collector, sqlite_store, kind):
    collector = new_collector(sqlite_store, log__metrics=True)
    terminal = stopped_by_ctrl_s() if kind == "terminal" else None
    collector.start(terminal=terminal)
    address = collector.address
    collector.hold_log()
    if terminal:
        os.write(terminal[0], b"\x13")
    send_burst(address, sqlite_store)
    collector.send_signal(signal.SIGTERM)
    assert collector.process.wait(30) == 0
    collector.release_log()
    assert not collector.find("stopped")  # it had no way to say so


@pytest.mark.slow
@pytest.mark.threads
def test_journald_that_does_not_read(new_collector, sqlite_store, journald, notify_socket):
    collector = new_collector(
        sqlite_store,
        log__target="journal",
        log__metrics=True,
        launcher=journald.launcher,
        env={"NOTIFY_SOCKET": notify_socket.path},
        listen=[f"unix:{journald.run}/socket"],
    )
    collector.start(wait=None)
    notify_socket.wait("READY=1")
    address = f"unix:{journald.run}/socket"
    send_burst(address, sqlite_store)
    mark = notify_socket.mark()
    collector.send_signal(signal.SIGHUP)  # which looks for the journal anew
    notify_socket.wait("READY=1", since=mark)

    journald.read()
    assert int(journald.wait_event("log_lost")["LINES"]) > 0
    collector.send_signal(signal.SIGUSR2)
    statistics = journald.wait_event("statistics")
    assert float(statistics["TURN_MS_MAX"]) < TURN_MS
    assert int(statistics["STORED"]) == MANY

    journald.stop_reading()
    send_burst_again = series("m", 1000, first=MANY)
    with wire.Sender(address) as sender:
        sender.send(send_burst_again)
        assert sender.sync(2) == 0
    assert collector.stop() == 0
    assert sqlite_store.count() == MANY + 1000
    assert not collector.events  # nothing of it came to standard error


@pytest.mark.slow
def test_supervisor_that_does_not_read(start_collector, database, silent_notify_socket):
    """What it could not be told at once it is told later, in order; the log says who was waited for."""
    sock = silent_notify_socket
    sock.fill()
    collector = start_collector(
        database, env={"NOTIFY_SOCKET": sock.path, "WATCHDOG_USEC": "200000"}
    )
    assert collector.wait_event("supervisor_stalled")["level"] == "warning"
    collector.reload()
    with collector.sender() as sender:
        sender.send(series("m", 100))
        assert sender.sync(2) == 0
    assert collector.statistics()["turn_ms_max"] < TURN_MS
    assert [m.partition("\n")[0] for m in (sock.next(), sock.next(), sock.next())] == [
        "READY=1",
        "RELOADING=1",
        "READY=1",
    ]
    assert collector.wait_event("supervisor_resumed")["seconds"] >= 1
    wait_until(lambda: any("database ok" in m for m in sock.take()), what="a status line")

    blocker = database.connect()
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
    collector.send(series("m", 100, first=100))
    sock.fill()
    collector.send_signal(signal.SIGTERM)
    collector.wait_event("stopping")
    assert sock.next() == "STOPPING=1"
    blocker.rollback()
    blocker.close()
    assert collector.wait() == 0
    database.wait_count(200)
