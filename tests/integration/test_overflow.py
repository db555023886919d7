"""A full buffer: each policy, in memory only and with a spool, while the database is away."""
import threading

import pytest

import wire
from waiting import seconds
from wire import frame, series

FRAME_SIZE = len(frame("m", 0))
PATIENT = {"timeout": 60, "send_buffer": 1 << 16}  # for those who are held back
READ_SIZE = 1 << 19  # more than the daemon takes in before it looks at its limits again
SMALL = {"batch__max_bytes": "64K", "buffer__memory_limit": "256K"}
LIMITS = {
    "memory only": {"buffer__spool": "", **SMALL},
    # Memory is given up once its content is on disk; here that is at once.
    "with spool": {"buffer__spool_limit": "1M", "buffer__sync": "never", **SMALL},
}
limits = pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())


def assert_contiguous(database, first, last):
    count = last - first + 1
    assert database.rows(
        "SELECT count(*), count(DISTINCT value), min(value), max(value) FROM metrics"
    ) == [(count, count, first, last)]


def assert_well_used(collector, rows):
    """Nothing is dropped as long as there is much room."""
    room = 1 << 20 if collector.conf["buffer.spool"] else 1 << 18
    assert rows * FRAME_SIZE > room // 2


@limits
@pytest.mark.threads
def test_block_stalls_senders_and_loses_nothing(start_collector, own_cluster, limits):
    count = 600_000  # more than the socket buffers between hold
    database = own_cluster.database("postgres")
    collector = start_collector(database, batch__max_rows=5000, **limits)
    data = series("m", count)
    thread = threading.Thread(target=collector.send, args=(data,), kwargs=PATIENT)
    thread.start()
    try:
        event = collector.wait_event("buffer_full")
        assert event["level"] == "warning"
        statistics = collector.statistics()
        assert statistics["dropped"] == 0
        assert statistics["received"] < count
        assert statistics["memory_bytes"] <= 256 * 1024 + READ_SIZE
        assert statistics["spool_bytes"] <= 1024 * 1024 + READ_SIZE
        assert thread.is_alive()
    finally:
        own_cluster.start()
        thread.join()
    collector.wait_event("buffer_drained", timeout=60)
    database.wait_count(count, timeout=60)
    assert_contiguous(database, 0, count - 1)
    assert collector.stop() == 0
    assert collector.stopped["stored"] == count


@limits
def test_drop_oldest_keeps_the_newest(start_collector, own_cluster, limits):
    count = 150_000
    database = own_cluster.database("postgres")
    collector = start_collector(
        database, batch__max_rows=1000, buffer__overflow="drop_oldest", **limits
    )
    collector.send(series("m", count))
    statistics = collector.wait_statistics(received=count)
    dropped = statistics["dropped"]
    assert 0 < dropped < count
    assert statistics["buffered"] == count - dropped
    assert_well_used(collector, count - dropped)
    collector.wait_event("metrics_dropped")
    own_cluster.start()
    database.wait_count(count - dropped, timeout=60)
    assert_contiguous(database, dropped, count - 1)
    assert collector.stop() == 0
    assert collector.stopped["dropped"] == dropped


@limits
def test_drop_newest_keeps_the_oldest(start_collector, own_cluster, limits):
    count = 150_000
    database = own_cluster.database("postgres")
    collector = start_collector(
        database, batch__max_rows=1000, buffer__overflow="drop_newest", **limits
    )
    collector.send(series("m", count))
    statistics = collector.wait_statistics(received=count)
    dropped = statistics["dropped"]
    assert 0 < dropped < count
    assert statistics["buffered"] == count - dropped
    assert_well_used(collector, count - dropped)
    own_cluster.start()
    database.wait_count(count - dropped, timeout=60)
    assert_contiguous(database, 0, count - dropped - 1)
    collector.send(frame("m", count))  # there is room again
    database.wait_count(count - dropped + 1)
    assert collector.stop() == 0
    assert collector.stopped["dropped"] == dropped


def test_dropped_metrics_get_no_answer(start_collector, own_cluster):
    collector = start_collector(
        own_cluster.database("postgres"),
        buffer__overflow="drop_newest",
        buffer__spool="",
        **SMALL,
    )
    collector.send(series("m", 50_000))
    collector.wait_event("metrics_dropped")
    for level in (1, 2):
        with collector.sender() as sender:
            sender.send(frame("lost", 1) + wire.sync_frame(level, 7))
            assert sender.read_to_end() == b""
    collector.stop_at_once()


def test_a_backlog_on_disk_does_not_need_memory(start_collector, own_cluster):
    """Far more than memory_limit waits, and arrives."""
    count = 300_000
    database = own_cluster.database("postgres")
    collector = start_collector(database, batch__max_rows=5000, **SMALL)
    collector.send(series("m", count))
    collector.wait_statistics(
        buffered=count,
        spool_bytes=lambda n: n >= count * FRAME_SIZE,
        memory_bytes=lambda n: n <= 256 * 1024 + READ_SIZE,
    )
    own_cluster.start()
    database.wait_count(count, timeout=60)
    assert_contiguous(database, 0, count - 1)


def test_reload_of_the_policy_frees_paused_clients(start_collector, own_cluster):
    """The buffer stays full: only the policy can let those go on whom "block" has paused."""
    count = 600_000
    database = own_cluster.database("postgres")
    collector = start_collector(database, buffer__spool="", **SMALL)
    data = series("m", count)
    thread = threading.Thread(target=collector.send, args=(data,), kwargs=PATIENT)
    thread.start()
    try:
        collector.wait_event("buffer_full")
        collector.write_conf(buffer__overflow="drop_newest")
        collector.reload()
        thread.join(seconds(60))
        assert not thread.is_alive()
    finally:
        own_cluster.start()
        thread.join()
    statistics = collector.wait_statistics(received=count)
    assert statistics["dropped"] > 0
