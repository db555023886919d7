"""A spool whose disk takes seconds for each call, or whose batches are many: nobody else stands still."""
import pathlib
import signal
import struct
import threading
import time
import uuid

import pytest

import spoolfile
from backlogs import nowhere
from disks import shim, shim_library  # noqa: F401 (fixtures)
from faults import Load, assert_all_there_once, settle
from notify import NotifySocket
from waiting import wait_until
from wire import Sender, T0, frame, series

HANG = "4"  # seconds, for every call
FOR_EVER = "3600"
TURN_MS = 500  # ten times what is seen on a quiet machine
MANY = 100_000


@pytest.fixture
def notify_socket(tmp_path):
    sock = NotifySocket(tmp_path / "notify")
    yield sock
    sock.close()


def check_turns(collector):
    statistics = collector.statistics()
    print("turns", statistics["turn_ms_max"], statistics["turn_ms_p99"])
    assert statistics["turn_ms_max"] < TURN_MS
    return statistics


# ---- a disk that hangs ----


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"buffer__keep": "1 hour"}], ids=["plain", "keep"])
def test_disk_that_takes_seconds_for_each_call(new_collector, database, shim, notify_socket, settings):
    """Batches go past it to the database; the supervisor is told that all is well; SIGTERM ends it."""
    collector = new_collector(
        database,
        env={**shim.env, "NOTIFY_SOCKET": notify_socket.path, "WATCHDOG_USEC": "2000000"},
        batch__interval=0.2,
        buffer__sync="always",
        **settings,
    ).start()
    collector.wait_event("database_connected")
    with Load(collector.address, level=2) as load:
        load.wait_more(20)
        shim.on("hang", HANG)
        mark = notify_socket.mark()
        said = collector.wait_event("spool_slow", timeout=60)
        assert said["level"] == "warning" and said["call"] and said["seconds"] >= 2
        load.wait_more(100)
        notify_socket.wait("WATCHDOG=1", since=mark, count=3, timeout=60)
        check_turns(collector)
        mark = collector.mark()
        collector.send_signal(signal.SIGTERM)
        collector.wait_event("stopping", since=mark)
    assert collector.wait(timeout=60) == 0
    shim.off("hang")
    second = new_collector(database, **settings).start()
    settle(second)
    assert second.stop() == 0
    assert_all_there_once(database, load)


@pytest.mark.slow
def test_hanging_disk_and_no_database_fill_memory_and_no_more(new_collector, own_cluster, shim):
    """Senders are read up to memory_limit, then wait; once the disk is back nothing is missing."""
    database = own_cluster.database("postgres")
    collector = new_collector(
        database, env=shim.env, buffer__memory_limit="16M", batch__max_bytes="1M"
    ).start()
    shim.on("hang", FOR_EVER)
    count = 1_000_000  # 30 MB: more than memory_limit and sockets hold
    sender = threading.Thread(
        target=collector.send,
        args=(series("m", count),),
        kwargs={"timeout": 120, "send_buffer": 1 << 16},
    )
    sender.start()
    try:
        collector.wait_event("buffer_full", timeout=60)
        statistics = check_turns(collector)
        assert 16 << 20 <= statistics["memory_bytes"] < 17 << 20
        assert sender.is_alive()
    finally:
        own_cluster.start()  # what was read goes on to the database
        sender.join()
    settle(collector, timeout=120)
    assert collector.stop(timeout=60) == 0
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(count, count)]


@pytest.mark.slow
def test_what_neither_disk_nor_database_took_is_said(new_collector, shim):
    collector = new_collector(database__uri=nowhere(), env=shim.env).start()
    shim.on("hang", FOR_EVER)
    collector.send(series("m", 1000))
    assert collector.stop(timeout=60) == 1
    assert collector.find("metrics_lost")[0]["rows"] == 1000


@pytest.mark.slow
def test_level_1_waits_for_the_disk_alone(new_collector, own_cluster, shim):
    """The answer comes when the disk has it, and no sooner; others are answered at level 2."""
    database = own_cluster.database("postgres")
    collector = new_collector(database, env=shim.env, buffer__sync="always").start()
    shim.on("hang", "1")
    with collector.sender(timeout=60) as sender:
        sender.send(series("m", 10))
        assert sender.sync(1) == 0
    statistics = check_turns(collector)
    assert statistics["syncs_level1"] == 1 and statistics["stored"] == 0
    collector.kill9()
    shim.off("hang")
    own_cluster.start()
    second = new_collector(database).start()
    assert second.wait_event("spool_recovered")["rows"] == 10
    database.wait_count(10)


@pytest.mark.slow
def test_what_only_the_disk_has_holds_up_nothing_else(new_collector, own_cluster, shim):
    """A backlog that memory has given up is to be read back, and that hangs: the rest is stored."""
    database = own_cluster.database("postgres")
    settings = dict(
        database__connections=1, buffer__memory_limit="2M", batch__max_bytes="256K", batch__interval=0.1
    )
    collector = new_collector(database, env=shim.env, **settings).start()
    backlog = 200_000  # 6 MB
    collector.send(series("backlog", backlog), timeout=60)
    collector.wait_statistics(buffered=backlog)
    shim.on("hang", FOR_EVER)
    own_cluster.start()
    with collector.sender(timeout=60) as sender:
        for i in range(10):
            sender.send(series("fresh", 100, first=i * 100))
            assert sender.sync(2) == 0
    statistics = check_turns(collector)
    assert 0 < statistics["buffered"] < backlog
    assert collector.stop(timeout=60) == 0
    assert not collector.find("metrics_lost")
    shim.off("hang")
    second = new_collector(database, **settings).start()
    settle(second, timeout=120)
    assert database.rows(
        "SELECT metric_name, count(*), count(DISTINCT value) FROM metrics GROUP BY 1 ORDER BY 1"
    ) == [("backlog", backlog, backlog), ("fresh", 1000, 1000)]


# ---- many batches ----


def leave_batches(directory, suffix):
    """MANY batches of one metric each, as an earlier run has left them."""
    collector = uuid.UUID((directory / "identity").read_text().splitlines()[1]).bytes
    for number in range(1, MANY + 1):
        one = frame("kept", number, T0 + number)
        block = spoolfile.BLOCK_MAGIC + struct.pack("!II", len(one), 1)
        block += struct.pack("!I", spoolfile.crc32c(block + one)) + one
        size = spoolfile.HEADER_SIZE + len(block)
        (directory / spoolfile.name(number, suffix)).write_bytes(
            spoolfile.header(number, collector)
            + spoolfile.summary(1, 1, size, T0 + number, T0 + number)
            + block
        )


@pytest.fixture
def many(new_collector):
    """many(suffix) makes a spool with MANY batches, and returns it."""

    def make(suffix):
        collector = new_collector(name="first", database__uri=nowhere()).start()
        assert collector.stop() == 0
        directory = pathlib.Path(collector.conf["buffer.spool"])
        (directory / "sequence").write_text(sequence(2 * MANY))
        leave_batches(directory, suffix)
        return directory

    return make


def sequence(number):
    return f"{number} {spoolfile.crc32c(str(number).encode()):08x}\n"


def ask_all_the_time(address, ended, times):
    """Round trips of level 1 until the end; each takes a second at the most."""
    with Sender(address, timeout=60) as sender:
        while not ended.is_set():
            start = time.monotonic()
            sender.send(frame("fresh", 1))
            assert sender.sync(1) == 0
            times.append(time.monotonic() - start)


@pytest.mark.slow
def test_100000_kept_batches_are_sent_again(new_collector, database, many):
    """A server that was restored lacks all of them."""
    directory = many(".stored")
    collector = new_collector(
        database,
        buffer__spool=directory,
        buffer__keep="1 day",
        buffer__sync="always",
        database__connections=1,
    ).start()
    ended, times = threading.Event(), []
    asker = threading.Thread(target=ask_all_the_time, args=(collector.address, ended, times))
    asker.start()
    try:
        assert collector.wait_event("batches_requeued", timeout=60)["count"] == MANY
        begun = time.monotonic()
        statistics = collector.wait_statistics(timeout=60, recovered=MANY)
        taken = time.monotonic() - begun
        wait_until(lambda: len(times) > 100, 60, "answers")
    finally:
        ended.set()
        asker.join()
    print("back in", taken, "answers", len(times), max(times), "turns", statistics["turn_ms_max"])
    assert statistics["turn_ms_max"] < TURN_MS
    assert max(times) < 10 * 1.0
    assert collector.stop_at_once() == 0
    stored, distinct = database.rows(
        "SELECT count(*), count(DISTINCT value) FROM metrics WHERE metric_name = 'kept'"
    )[0]
    assert 0 < stored == distinct


@pytest.mark.slow
def test_100000_waiting_batches_hold_nobody_up(new_collector, database, many):
    """They wait at start; level 2 of fresh metrics and prunes of kept files go on beside them."""
    directory = many(".batch")
    collector = new_collector(
        database, buffer__spool=directory, buffer__keep="1 second", database__connections=2
    ).start()
    assert collector.wait_event("spool_recovered")["batches"] == MANY
    with collector.sender(timeout=60) as sender:
        for token in range(100):
            sender.send(frame("fresh", token))
            assert sender.sync(2, token) == 0
    check_turns(collector)
    assert collector.stop_at_once() == 0
