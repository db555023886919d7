"""metric-send, against the daemon."""
import resource
import subprocess

import pytest

from programs import is_sanitized, metric_send_path
from waiting import seconds


@pytest.fixture
def metric_send():
    path = metric_send_path()
    assert path, "set METRIC_SEND to the program to test"

    def run(*args, text=None, memory=None):
        def limit():
            if memory and not is_sanitized():
                resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

        return subprocess.run(
            [path, *args],
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds(60),
            preexec_fn=limit,
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


@pytest.mark.parametrize("add", [65536, 131072, 1 << 32, 1 << 64])
def test_a_port_is_no_other_one_modulo_65536(start_collector, sqlite_store, metric_send, add):
    collector = start_collector(sqlite_store)
    result = metric_send(f"127.0.0.1:{collector.port + add}", "m", "1")
    assert result.returncode == 2
    assert "65535" in result.stderr
    assert collector.statistics()["clients_total"] == 0


@pytest.mark.parametrize("port", ["0", "-1", "+9999", " 9999", "99x", "0x270f"])
def test_a_port_is_digits(metric_send, port):
    assert metric_send(f"127.0.0.1:{port}", "m", "1").returncode == 2


@pytest.mark.parametrize("value", ["1e999", "-1e999", "1e-999", "0x1p99999", "", "1,5", "1x"])
def test_a_value_is_what_was_written(start_collector, sqlite_store, metric_send, value):
    collector = start_collector(sqlite_store)
    result = metric_send("-s", "2", collector.address, "m", value)
    assert result.returncode == 1
    assert "value" in result.stderr
    assert collector.statistics()["received"] == 0


def test_infinity_is_sent_where_it_is_written(start_collector, database, metric_send):
    collector = start_collector(database)
    lines = "a inf\nb -Infinity\nc nan\nd 1e308\ne 5e-324\n"
    assert metric_send("-s", "2", collector.address, text=lines).returncode == 0
    values = dict(database.rows("SELECT metric_name, value::text FROM metrics"))
    assert values == {"a": "Infinity", "b": "-Infinity", "c": "NaN", "d": "1e+308", "e": "5e-324"}


@pytest.mark.parametrize("time", ["-1", "+1", "1.5", "1e3", "253402300800000000", str(1 << 64)])
def test_a_timestamp_is_microseconds(start_collector, sqlite_store, metric_send, time):
    collector = start_collector(sqlite_store)
    result = metric_send("-s", "2", collector.address, text=f"a 1 {time}\nb 1\n")
    assert result.returncode == 1
    assert "timestamp" in result.stderr and "line 1" in result.stderr
    assert sqlite_store.rows("SELECT metric_name FROM metrics") == [("b",)]


@pytest.mark.parametrize("line", ["a" * (64 << 20), "x 1\0 2"], ids=["long", "NUL"])
def test_a_line_that_is_none_costs_only_itself(
    start_collector, sqlite_store, metric_send, line
):
    """In little memory, too, where the line would not fit."""
    collector = start_collector(sqlite_store)
    text = f"a 1\n{line}\nb 2\n"
    result = metric_send("-s", "2", collector.address, text=text, memory=32 << 20)
    assert result.returncode == 1
    assert "line 2 was left out" in result.stderr
    assert sqlite_store.count() == 2
