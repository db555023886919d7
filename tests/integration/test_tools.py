"""metric-send, against the daemon."""
import subprocess

import pytest

from programs import metric_send_path
from waiting import seconds


@pytest.fixture
def metric_send():
    path = metric_send_path()
    assert path, "set METRIC_SEND to the program to test"

    def run(*args, text=None):
        return subprocess.run(
            [path, *args], input=text, capture_output=True, text=True, timeout=seconds(60)
        )

    return run


def test_one_metric(start_collector, store, metric_send):
    collector = start_collector(store)
    result = metric_send("-s", "2", collector.address, "cpu.load", "0.5", "1000000")
    assert (result.returncode, result.stderr) == (0, "")
    assert store.rows("SELECT metric_name, value FROM metrics") == [("cpu.load", 0.5)]


@pytest.mark.parametrize("level", ["1", "2"])
def test_lines(start_collector, database, metric_send, level):
    collector = start_collector(database)
    lines = "".join(f"m{i} {i}\n" for i in range(1000))
    result = metric_send("-s", level, collector.address, text=lines)
    assert (result.returncode, result.stderr) == (0, "")
    database.wait_count(1000)


def test_lines_that_make_no_sense(start_collector, sqlite_store, metric_send):
    collector = start_collector(sqlite_store)
    result = metric_send("-s", "2", collector.address, text="a 1\nb\nc x\n\nd 2\n")
    assert result.returncode == 1
    assert "line 2" in result.stderr and "line 3" in result.stderr
    assert sqlite_store.count() == 2


def test_refused_ones_are_told(start_collector, sqlite_store, metric_send):
    collector = start_collector(sqlite_store, timestamps__max_future="1 hour")
    result = metric_send("-s", "1", collector.address, "m", "1", "250000000000000000")
    assert result.returncode == 1
    assert "refused" in result.stderr


def test_over_a_unix_socket(start_collector, sqlite_store, metric_send, tmp_path):
    collector = start_collector(sqlite_store, listen=[f"unix:{tmp_path}/s"])
    assert metric_send("-s", "2", collector.address, "m", "1").returncode == 0
    assert sqlite_store.count() == 1


def test_nobody_listens(metric_send):
    result = metric_send("127.0.0.1:1", "m", "1")
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr
