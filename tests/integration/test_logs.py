"""The log as operators and programs read it.  That each line is JSON is checked everywhere."""
import math
import time

import pytest

import wire
from waiting import wait_until
from wire import T0_TEXT, frame, series


def test_life_of_a_daemon(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    collector.send(frame("m", 1))
    sqlite_store.wait_count(1)
    assert collector.stop() == 0
    names = [e["event"] for e in collector.events]
    wanted = ["starting", "listening", "ready", "batch_stored", "stopping", "stopped"]
    assert [name for name in names if name in wanted] == wanted
    assert "database_connected" in names
    for event in collector.events:
        assert list(event)[:3] == ["event", "timestamp", "level"]
    times = [e["timestamp"] for e in collector.events]
    assert times == sorted(times)
    assert set(collector.stopped) >= {"received", "stored", "buffered", "rejected", "dropped"}


def test_times_are_utc(start_collector):
    collector = start_collector(env={"TZ": "Asia/Kathmandu"})
    now = time.strftime("%Y-%m-%dT%H:", time.gmtime())
    before = time.strftime("%Y-%m-%dT%H:", time.gmtime(time.time() - 60))
    assert collector.events[0]["timestamp"][:14] in (now, before)


def test_metric_received(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, log__metrics=True)
    with collector.sender() as sender:
        sender.send(frame("température", 0.1) + frame("nan", math.nan) + frame('q"\\', -math.inf))
        event = collector.wait_event("metric_received", metric="température")
        assert event["value"] == 0.1
        assert event["client"] == "127.0.0.1:%d" % sender.sock.getsockname()[1]
        assert event["time"] == T0_TEXT
        assert "nan" in str(collector.wait_event("metric_received", metric="nan")["value"]).lower()
        collector.wait_event("metric_received", metric='q"\\')


def test_metrics_are_not_logged_unless_asked(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, log__level="debug")
    collector.send(frame("m", 1))
    collector.wait_event("client_disconnected")
    assert not collector.find("metric_received")


def test_refused_bytes_are_escaped(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    bad = frame(b'\xff"\\\n\x1b[31m\0', 1)
    collector.send(bad)
    event = collector.wait_event("frame_refused")
    assert event["frame"] == bad.hex()
    assert "\ufffd" in event["metric"]


def start_silent(new_collector, store, directory, **settings):
    """Whose log says too little to wait for: it is ready when its socket is there."""
    path = directory / "silent.sock"
    collector = new_collector(store, listen=[f"unix:{path}"], **settings).start(wait=None)
    address = f"unix:{path}"

    def listens():
        try:
            wire.connect(address).close()
            return True
        except OSError:
            return False

    wait_until(listens)
    return collector, address


@pytest.mark.parametrize("level", ["error", "warning", "notice"])
def test_level(new_collector, sqlite_store, tmp_path, level):
    collector, address = start_silent(new_collector, sqlite_store, tmp_path, log__level=level)
    with wire.Sender(address) as sender:
        sender.send(frame("", 1) + frame("m", 1))
        assert sender.sync(2) == 1
    assert collector.stop() == 0
    assert bool(collector.find("frame_refused")) == (level != "error")
    assert {e["level"] for e in collector.events} <= {"error", "warning", "notice"}


def test_repeated_warnings_are_limited(start_collector, sqlite_store):
    """No count is lost: what was left out is told by the next, or a second later."""
    count = 5000
    collector = start_collector(sqlite_store)
    collector.send((frame("", 1) * 50 + frame("m", 1)) * (count // 50))

    def told():
        events = collector.find("frame_refused", reason="empty_name")
        return sum(1 + e.get("suppressed", 0) for e in events)

    collector.wait_statistics(refused=count)
    collector.wait_event("frame_refused", suppressed=lambda n: n)
    wait_until(lambda: told() >= count, what=told)
    assert told() == count
    assert len(collector.find("frame_refused")) < 20


def test_kinds_are_limited_apart(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    collector.send(frame("", 1) * 20 + frame(b"\xff", 1) + frame("\n", 1))
    for reason in ("empty_name", "invalid_utf8", "control_byte"):
        collector.wait_event("frame_refused", reason=reason)


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "0<&- 1>&- 2>&-"])
def test_a_lost_log_stops_nothing(new_collector, database, tmp_path, closed):
    """And no file of the daemon's takes the place of stderr."""
    launcher = ["/bin/sh", "-c", f'exec "$0" "$@" {closed}']
    collector, address = start_silent(new_collector, database, tmp_path, launcher=launcher)
    with wire.Sender(address) as sender:
        sender.send(frame("", 1) * 10 + series("m", 100))
        assert sender.sync(2) == 10
    assert collector.stop() == 0
    assert database.count() == 100
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b'"event"' not in path.read_bytes(), path
