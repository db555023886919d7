"""Each setting acts with each store, or it is said that it does not: here against real ones.

check_conf_effect.c has the same table for the configuration alone.
"""
import os
import re
import subprocess
import time

import pytest

from collector import environment, render
from programs import ROOT, daemon_path
from waiting import seconds, wait_until
from wire import MICROSECONDS, frame

DAY = 86400

# What no store makes a difference to; each has tests of its own.
EVERYWHERE = """
    listen max_clients client_timeout max_invalid_frames allow
    batch.interval batch.max_rows batch.max_bytes
    buffer.memory_limit buffer.spool buffer.spool_limit buffer.sync buffer.overflow buffer.keep
    timestamps.max_age timestamps.max_future
    database.uri database.create database.migrate database.connect_timeout database.ledger_keep senders.keep
    log.level log.target log.metrics
""".split()

# Values for a run, and with which stores they act.
SETTINGS = {
    "database.password_file": (None, {"postgres", "timescaledb"}),  # its path is the run's
    "database.connections": (2, {"postgres", "timescaledb"}),
    "database.timescaledb": ({"timescaledb": "require", "sqlite": "require", "postgres": "auto"},
                             {"postgres", "timescaledb"}),
    "database.citus": ({"timescaledb": "auto", "sqlite": "require", "postgres": "auto"},
                       {"postgres", "timescaledb"}),
    "table.chunk_interval": ("2 days", {"postgres", "timescaledb"}),
    "table.retention": ("30 days", {"sqlite", "postgres", "timescaledb"}),
    "table.compress_after": ("3 days", {"timescaledb"}),
    "table.rollups": (["1 hour"], {"timescaledb"}),
    "table.direct_compress": ("auto", {"timescaledb"}),
    "table.max_new_chunks": (3, {"postgres", "timescaledb"}),
}


def keys():
    """Of the sample file, which make check compares with the table of settings."""
    found, section = [], ""
    with open(os.path.join(ROOT, "metric-collectord.conf"), encoding="utf-8") as file:
        for line in file:
            if opened := re.match(r"([a-z_]+) \{", line):
                section = opened[1] + "."
            elif line.startswith("}"):
                section = ""
            elif key := re.match(r"\t?#([a-z_]+) = ", line):
                found.append(section + key[1])
    return found


def test_each_key_is_in_a_class():
    assert sorted([*EVERYWHERE, *SETTINGS]) == sorted(keys())


@pytest.fixture(params=["sqlite", "postgres", "timescaledb"])
def place(request):
    """(name, store)"""
    if request.param == "timescaledb":
        cluster = request.getfixturevalue("timescale_cluster")
        fresh = cluster.create_database()
        yield request.param, fresh
        cluster.execute(f'DROP DATABASE "{fresh.name}" WITH (FORCE)')
    else:
        fixture = {"sqlite": "sqlite_store", "postgres": "database"}[request.param]
        yield request.param, request.getfixturevalue(fixture)


def settings_for(name, tmp_path):
    password = tmp_path / "password"
    password.write_text("unused\n", encoding="utf-8")
    values = {key: value for key, (value, _) in SETTINGS.items()}
    values["database.password_file"] = str(password)
    return {
        key.replace(".", "__"): value[name] if isinstance(value, dict) else value
        for key, value in values.items()
    }


def ago(days):
    return int((time.time() - days * DAY) * MICROSECONDS)


def acts_sqlite(collector, store):
    collector.write_conf(table__retention="29 days")  # a round at once
    collector.reload()
    collector.wait_event("rows_deleted")
    wait_until(lambda: store.rows("SELECT metric_name FROM metrics") == [("now",)], 30, "retention")


def acts_postgres(collector, store):
    collector.wait_event("timescaledb_absent")
    collector.wait_event("citus_absent")
    collector.wait_event("database_connected", count=2)
    widths = store.rows(
        "SELECT DISTINCT pg_get_expr(relpartbound, oid) FROM pg_class"
        " WHERE relispartition AND pg_get_expr(relpartbound, oid) <> 'DEFAULT'"
    )
    assert widths
    for (bound,) in widths:
        first, end = re.findall(r"'([^']*)'", bound)
        assert store.value("SELECT %s::timestamptz - %s::timestamptz = '2 days'", end, first)
    collector.write_conf(table__retention="29 days")
    collector.reload()
    wait_until(lambda: store.rows("SELECT metric_name FROM metrics") == [("now",)], 30, "retention")


def acts_timescaledb(collector, store):
    collector.wait_event("database_connected", count=2, timescaledb_version=bool)
    collector.wait_event("citus_absent")
    collector.wait_event("direct_compress", usable=True)
    for policy in ("compress_after", "retention", "rollup metrics_1h"):
        collector.wait_event("policy_applied", policy=policy)
    assert store.value(
        "SELECT time_interval = '2 days' FROM timescaledb_information.dimensions"
        " WHERE hypertable_name = 'metrics'"
    )
    collector.send(b"".join(frame("many", i, ago(i * 3)) for i in range(9)))
    collector.wait_event("chunk_limit")


ACTS = {"sqlite": acts_sqlite, "postgres": acts_postgres, "timescaledb": acts_timescaledb}


def test_it_acts_or_it_is_said(start_collector, place, tmp_path):
    name, store = place
    collector = start_collector(store, **settings_for(name, tmp_path))
    collector.wait_event("maintenance_done", timeout=60)
    said = {event["key"]: event["reason"] for event in collector.find("setting_ignored")}
    assert set(said) == {key for key, (_, acts) in SETTINGS.items() if name not in acts}
    assert all(said.values())
    assert len(collector.find("setting_ignored")) == len(said), "once each"
    collector.send(frame("old", 1, ago(40)) + frame("now", 1, ago(0)))
    wait_until(lambda: store.count() == 2, 30, "both rows")
    ACTS[name](collector, store)


def test_a_reload_says_it(start_collector, sqlite_store):
    collector = start_collector(sqlite_store)
    collector.wait_event("maintenance_done")
    assert not collector.find("setting_ignored")
    collector.write_conf(table__rollups=["1 hour"])
    collector.reload()
    event = collector.wait_event("setting_ignored")
    assert (event["key"], event["level"]) == ("table.rollups", "warning")


def check(tmp_path, conf):
    path = tmp_path / "test.conf"
    path.write_text(render(conf), encoding="utf-8")
    return str(path), subprocess.run(
        [daemon_path(), "-t", "-c", path],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds(20),
    )


def test_the_check_says_it(tmp_path):
    conf = {key: value for key, (value, _) in SETTINGS.items() if not isinstance(value, dict)}
    del conf["database.password_file"]
    path, result = check(tmp_path, conf)
    assert (result.returncode, result.stdout) == (0, f"{path}: configuration OK\n")
    lines = result.stderr.splitlines()
    said = {re.fullmatch(rf"metric-collectord: {path}:\d+: (\S+): has no effect: .+", line)[1]
            for line in lines}
    assert said == {key for key in conf if "sqlite" not in SETTINGS[key][1]}


def test_the_check_says_nothing_where_nothing_is_to_be_said(tmp_path):
    conf = {"database.uri": "postgresql://db/metrics", "table.rollups": ["1 hour"]}
    path, result = check(tmp_path, conf)
    assert (result.stdout, result.stderr) == (f"{path}: configuration OK\n", "")
