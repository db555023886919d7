"""What senders send, and what becomes of it."""
import datetime
import math
import os
import shutil
import signal
import struct
import subprocess
import threading

import pytest

import wire
from cluster import Sqlite
from faults import settle
from programs import is_sanitized
from waiting import seconds
from wire import T0, TIME_MAX, frame, series

HOUR = 3600 * wire.MICROSECONDS


def utc(time_us):
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return epoch + datetime.timedelta(microseconds=time_us)


def shell(command):
    """Starts it, in a session of its own."""
    if not shutil.which("nc"):
        pytest.skip("skipped: nc is not installed")
    return subprocess.Popen(["bash", "-c", command], start_new_session=True)


def values_of(store, name):
    sql = "SELECT value FROM metrics WHERE metric_name = '%s' ORDER BY value" % name
    return [row[0] for row in store.rows(sql)]


# ---- the description's two examples ----


def test_python_example(start_collector, database):
    collector = start_collector(database)
    collector.send(wire.PYTHON_EXAMPLE)
    database.wait_count(1)
    assert database.rows("SELECT time, metric_name, value FROM metrics") == [
        (utc(1686787200000000), "metric", 3.14159)
    ]


@pytest.mark.parametrize("nc", ["nc -N", "nc"], ids=["closing", "staying"])
def test_shell_example(start_collector, database, nc):
    collector = start_collector(database)
    example = shell(f"echo -ne '{wire.SHELL_EXAMPLE}' | {nc} 127.0.0.1 {collector.port}")
    try:
        database.wait_count(1)
    finally:
        if nc == "nc":  # it stays connected
            os.killpg(example.pid, signal.SIGTERM)
        example.wait(seconds(30))
    time_us, _, name, value = struct.unpack("!QB6sd", wire.SHELL_EXAMPLE_BYTES)
    assert database.rows("SELECT time, metric_name, value FROM metrics") == [
        (utc(time_us), name.decode(), value)
    ]


def test_both_examples_while_nc_stays_connected(start_collector, database):
    """Nothing waits for the end of the connection: the batch interval is enough."""
    collector = start_collector(database)
    with collector.sender() as sender:
        sender.send(wire.PYTHON_EXAMPLE + wire.SHELL_EXAMPLE_BYTES)
        database.wait_count(2)


# ---- refused frames ----

REFUSED = {
    "empty name": (frame("", 1), "empty_name"),
    "sync frame of level 0": (wire.sync_frame(0), "empty_name"),
    "sync frame of level 3": (wire.sync_frame(3), "empty_name"),
    "no UTF-8": (frame(b"caf\xe9", 1), "invalid_utf8"),
    "overlong UTF-8": (frame(b"a\xc0\xafb", 1), "invalid_utf8"),
    "surrogate": (frame(b"\xed\xa0\x80", 1), "invalid_utf8"),
    "past U+10FFFF": (frame(b"\xf4\x90\x80\x80", 1), "invalid_utf8"),
    "cut UTF-8": (frame(b"ab\xe2\x82", 1), "invalid_utf8"),
    "NUL": (frame(b"a\0b", 1), "control_byte"),
    "line feed": (frame("a\nb", 1), "control_byte"),
    "unit separator": (frame("\x1f", 1), "control_byte"),
    "year 10000": (frame("late", 1, TIME_MAX + 1), "timestamp_range"),
    "greatest timestamp": (frame("latest", 1, 2**64 - 1), "timestamp_range"),
}


@pytest.mark.parametrize("bad, reason", REFUSED.values(), ids=REFUSED.keys())
def test_refused_among_good(start_collector, sqlite_store, bad, reason):
    collector = start_collector(sqlite_store)
    with collector.sender() as sender:
        sender.send(frame("before", 1) + bad + frame("after", 2))
        event = collector.wait_event("frame_refused")
        assert event["reason"] == reason
        assert event["frame"] == bad.hex()
        assert event["client"] == "127.0.0.1:%d" % sender.sock.getsockname()[1]
        assert event["level"] == "warning"
        sender.send(frame("later", 3))
        assert sender.finish() == b""
    sqlite_store.wait_count(3)
    assert values_of(sqlite_store, "later") == [3]
    statistics = collector.statistics()
    assert statistics["refused"] == statistics["refused_" + reason] == 1
    assert statistics["received"] == 3


def test_all_refusals_at_once(start_collector, database):
    collector = start_collector(database)
    mixed = b"".join(frame("good", i) + bad for i, (bad, _) in enumerate(REFUSED.values()))
    collector.send(mixed)
    database.wait_count(len(REFUSED))
    statistics = collector.statistics()
    assert statistics["refused"] == len(REFUSED)
    for reason in {reason for _, reason in REFUSED.values()}:
        expected = sum(reason == r for _, r in REFUSED.values())
        assert statistics["refused_" + reason] == expected


def test_timestamp_window(start_collector, sqlite_store):
    collector = start_collector(
        sqlite_store, timestamps__max_age="1 hour", timestamps__max_future="1 hour"
    )
    now = int(datetime.datetime.now().timestamp() * wire.MICROSECONDS)
    refused = frame("old", 1, now - 2 * HOUR) + frame("future", 2, now + 2 * HOUR)
    collector.send(refused + frame("now", 3, now) + frame("recent", 4, now - HOUR // 2))
    sqlite_store.wait_count(2)
    assert collector.wait_event("frame_refused", reason="timestamp_window")["metric"] == "old"
    assert collector.statistics()["refused_timestamp_window"] == 2


@pytest.mark.parametrize(
    "unit, per_second, reason",
    [("nanoseconds", 10**9, "timestamp_range"), ("milliseconds", 1000, "timestamp_window")],
)
def test_wrong_unit_is_named(start_collector, sqlite_store, unit, per_second, reason):
    collector = start_collector(sqlite_store, timestamps__max_age="1 day")
    now = int(datetime.datetime.now().timestamp())
    collector.send(frame("wrong", 1, now * per_second))
    assert unit in collector.wait_event("frame_refused", reason=reason)["hint"]
    collector.send(frame("old", 1, (now - 2 * 86400) * wire.MICROSECONDS))
    assert "hint" not in collector.wait_event("frame_refused", metric="old")


def test_extremes_are_stored(start_collector, store):
    collector = start_collector(store)
    names = ["n" * 255, "température °C", "メトリック", "😀", "a b", "quote\"'\\", "\x7f"]
    frames = [frame(name, i) for i, name in enumerate(names)]
    frames += [frame("first", 0, 0), frame("last", 0, TIME_MAX)]
    collector.send(b"".join(frames))
    store.wait_count(len(names) + 2)
    for i, name in enumerate(names):
        quoted = name.replace("'", "''").replace("%", "%%")
        assert values_of(store, quoted) == [i]
    sql = "SELECT CAST(time AS text) FROM metrics WHERE metric_name = '%s'"
    assert store.value(sql % "first")[:10] == "1970-01-01"
    assert store.value(sql % "last")[:26].replace("T", " ") == "9999-12-31 23:59:59.999999"
    assert collector.statistics()["refused"] == 0


SPECIAL_VALUES = {
    "nan": math.nan,
    "inf": math.inf,
    "minus_inf": -math.inf,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "minus_zero": -0.0,
}


def test_special_values_are_stored(start_collector, store):
    collector = start_collector(store)
    collector.send(b"".join(frame(name, value) for name, value in SPECIAL_VALUES.items()))
    store.wait_count(len(SPECIAL_VALUES))
    for name, value in SPECIAL_VALUES.items():
        (stored,) = values_of(store, name)
        if not math.isnan(value):
            assert stored == value
        elif isinstance(store, Sqlite):
            assert stored is None  # SQLite has no NaN
        else:
            assert math.isnan(stored)


# ---- strangers ----

HTTP_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9999\r\nUser-Agent: scanner\r\n" + (
    b"X-Header: something that makes the request longer than a few frames\r\n" * 200
)
TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(range(256)) * 20


@pytest.mark.parametrize("stranger", [HTTP_REQUEST, TLS_HELLO], ids=["http", "tls"])
def test_strangers_are_closed(start_collector, sqlite_store, stranger):
    collector = start_collector(sqlite_store, max_invalid_frames=3)
    with collector.sender() as sender:
        sender.send_in_vain(stranger)
        assert sender.read_to_end() == b""
    event = collector.wait_event("client_disconnected")
    assert event["reason"] == "protocol_error"
    assert event["refused"] == 3
    assert event["level"] == "warning"
    collector.send(frame("good", 1))
    sqlite_store.wait_count(1)
    assert collector.statistics()["clients_protocol_error"] == 1


def test_only_refusals_in_a_row_close(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, max_invalid_frames=100)
    bad = frame("", 1)
    with collector.sender() as sender:
        sender.send((bad * 99 + frame("good", 1)) * 3)
        sqlite_store.wait_count(3)
        sender.send_in_vain(bad * 100 + frame("too late", 1) * 1000)
        assert sender.read_to_end() == b""
    collector.wait_event("client_disconnected", reason="protocol_error", refused=397)
    assert collector.statistics()["received"] == 3


# ---- pieces ----


@pytest.mark.parametrize("size", [1, 8, 9, 17, 22])
def test_truncated_frame(start_collector, sqlite_store, size):
    collector = start_collector(sqlite_store)
    part = frame("metric", 1)[:size]
    collector.send(frame("whole", 1) + part)
    event = collector.wait_event("frame_refused")
    assert event["reason"] == "truncated_frame"
    assert event["frame"] == part.hex()
    sqlite_store.wait_count(1)
    statistics = collector.statistics()
    assert (statistics["truncated_frames"], statistics["truncated_bytes"]) == (1, size)


def test_frames_may_come_byte_by_byte(start_collector, sqlite_store):
    """Each byte is read before the next is sent, so every split happens."""
    collector = start_collector(sqlite_store)
    data = frame("a", 1) + frame("", 2) + frame("long.name", 3)
    with collector.sender() as sender:
        for i in range(len(data)):
            sender.send(data[i : i + 1])
            collector.wait_statistics(bytes_received=i + 1)
    sqlite_store.wait_count(2)
    assert values_of(sqlite_store, "long.name") == [3]
    assert collector.statistics()["refused_empty_name"] == 1


def test_frames_of_every_length_across_the_ends_of_reads(start_collector, database):
    """Several times what the daemon reads at once, in one go."""
    collector = start_collector(database)
    names = ["n" * length for length in range(1, 256)]
    collector.send(b"".join(frame(name, i) for i in range(20) for name in names))
    database.wait_count(20 * 255)
    assert database.rows(
        "SELECT length(metric_name), count(*), sum(value) FROM metrics GROUP BY 1 ORDER BY 1"
    ) == [(length, 20, 190) for length in range(1, 256)]


# ---- much ----


@pytest.mark.threads
def test_a_million_frames_from_several_senders(start_collector, database):
    senders, each = 4, (25_000 if is_sanitized() else 250_000)
    collector = start_collector(database, database__connections=2)
    blocks = [series(f"load.{i}", each) for i in range(senders)]
    threads = [threading.Thread(target=collector.send, args=(block,)) for block in blocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle(collector, timeout=120)
    assert collector.stop() == 0
    assert collector.stopped["received"] == collector.stopped["stored"] == senders * each
    assert database.rows(
        "SELECT metric_name, count(*), sum(value), min(value), max(value) FROM metrics"
        " GROUP BY metric_name ORDER BY metric_name"
    ) == [
        (f"load.{i}", each, each * (each - 1) / 2, 0, each - 1) for i in range(senders)
    ]
    assert database.value(f"SELECT sum(rows) FROM {database.ledger}") == senders * each
    assert (
        database.value(
            "SELECT count(*) FROM metrics WHERE time <> to_timestamp(%s)"
            " + value * interval '1 microsecond'",
            T0 // wire.MICROSECONDS,
        )
        == 0
    )
