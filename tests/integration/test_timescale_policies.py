"""TimescaleDB's policies: what the section "table" says is what the database does.

The jobs are run by hand and judged by their effect: the tests' server has no scheduler.
"""
import time

import psycopg2
import pytest

import cluster as cluster_module
from cluster import Cluster
from waiting import wait_until
from wire import MICROSECONDS, frame

DAY = 86400
JOBS = (
    "SELECT proc_name, config->>%s FROM timescaledb_information.jobs"
    " WHERE hypertable_name IN ('metrics', 'metrics_1m', 'metrics_1h') AND config ? %s"
)
ROLLUPS = "SELECT view_name FROM timescaledb_information.continuous_aggregates ORDER BY 1"
CHUNKS = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'metrics'"
COMPRESSED = CHUNKS + " AND is_compressed"
INTERVAL = (
    "SELECT time_interval::text FROM timescaledb_information.dimensions"
    " WHERE hypertable_name = 'metrics'"
)
REFRESH = "policy_refresh_continuous_aggregate"
POLICIES = "SELECT policy, value FROM metric_collectord.policies ORDER BY 1"


@pytest.fixture
def database(timescale_cluster):
    fresh = timescale_cluster.create_database()
    yield fresh
    timescale_cluster.execute(f'DROP DATABASE "{fresh.name}" WITH (FORCE)')


@pytest.fixture
def start(start_collector, database):
    def start(**settings):
        settings.setdefault("database__timescaledb", "require")
        collector = start_collector(settings.pop("store", database), **settings)
        collector.wait_event("maintenance_done", timeout=60)
        return collector

    return start


def ago(seconds):
    return int((time.time() - seconds) * MICROSECONDS)


def reload(collector, **changes):
    """Until the janitor has done what it does then."""
    collector.write_conf(**changes)
    mark = collector.mark()
    collector.reload()
    collector.wait_event("maintenance_done", since=mark, timeout=60)
    assert not collector.find("policy_failed", since=mark)
    return collector.find("policy_applied", since=mark)


def job(database, key):
    return [value for _, value in database.rows(JOBS, key, key)]


def run_job(database, proc_name):
    """Every such job, on a session of its own: it commits as it goes."""
    for (job_id,) in database.rows(
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = %s", proc_name
    ):
        try:
            database.execute(f"CALL run_job({job_id})")
        except psycopg2.Error as error:  # PostgreSQL 15.20 and TimescaleDB 2.28.3
            assert "cannot drop" in str(error)


def test_defaults(start, database):
    collector = start()
    assert database.value(INTERVAL) == "1 day"
    assert job(database, "compress_after") == ["7 days"]
    assert job(database, "drop_after") == []
    assert database.rows(
        "SELECT attname, segmentby_column_index, orderby_column_index, orderby_asc"
        " FROM timescaledb_information.compression_settings"
        " WHERE hypertable_name = 'metrics' ORDER BY 1"
    ) == [("metric_name", 1, None, None), ("time", None, 1, False)]
    assert {e["policy"]: e["value"] for e in collector.find("policy_applied")} == {
        "columnstore": "segmentby metric_name, orderby time DESC",
        "work_mem": "64MB",
        "compress_after": "7 days",
    }
    assert database.value("SHOW work_mem") == "64MB"


def test_work_mem_is_for_the_columnstore_alone(start, database):
    collector = start()
    assert database.value("SHOW work_mem") == "64MB"
    applied = reload(collector, table__compress_after="")
    assert {"policy": "work_mem", "value": ""} in [
        {key: e[key] for key in ("policy", "value")} for e in applied
    ]
    assert database.value("SHOW work_mem") == "4MB"


def test_work_mem_of_an_operator_stays(start, database):
    database.execute(f'ALTER DATABASE "{database.name}" SET work_mem = \'7MB\'')
    collector = start()
    assert "work_mem" not in [e["policy"] for e in collector.find("policy_applied")]
    reload(collector, table__compress_after="")
    assert database.value("SHOW work_mem") == "7MB"


def test_work_mem_that_an_operator_has_changed_is_not_reset(start, database):
    collector = start()
    assert database.value("SHOW work_mem") == "64MB"
    database.execute(f'ALTER DATABASE "{database.name}" SET work_mem = \'256MB\'')
    reload(collector, table__compress_after="")
    assert database.value("SHOW work_mem") == "256MB"


def test_a_second_start_changes_nothing(start, database):
    settings = {"table__retention": "90 days", "table__rollups": ["1 minute"]}
    assert start(**settings).stop() == 0
    before = database.rows("SELECT job_id FROM timescaledb_information.jobs ORDER BY 1")
    again = start(**settings, database__connections=3)
    again.wait_event("database_connected", count=3)
    assert not again.find("policy_applied")
    assert database.rows("SELECT job_id FROM timescaledb_information.jobs ORDER BY 1") == before


def test_changed_in_the_file_changed_in_the_database(start, database):
    collector = start(table__retention="90 days", table__rollups=["1 minute", "1 hour"])
    assert job(database, "drop_after") == ["90 days"]
    assert database.rows(ROLLUPS) == [("metrics_1h",), ("metrics_1m",)]
    assert job(database, "start_offset") == ["90 days", "90 days"]
    applied = reload(
        collector,
        table__chunk_interval="6 hours",
        table__compress_after="36 hours",
        table__retention="30 days",
    )
    assert {e["policy"]: e["value"] for e in applied} == {
        "chunk_interval": "6 hours",
        "compress_after": "36 hours",
        "retention": "30 days",
        "rollup metrics_1m": "1 minute",
        "rollup metrics_1h": "1 hour",
    }
    assert database.value(INTERVAL) == "06:00:00"
    assert job(database, "compress_after") == ["36:00:00"]
    assert job(database, "drop_after") == ["30 days"]
    assert job(database, "start_offset") == ["30 days", "30 days"]


def test_removed_from_the_file_removed_from_the_database(start, database):
    collector = start(table__retention="90 days", table__rollups=["1 minute"])
    collector.send(frame("m", 1, ago(7200)))
    database.wait_count(1)
    run_job(database, REFRESH)
    applied = reload(collector, table__retention="", table__compress_after="", table__rollups=[])
    assert {(e["policy"], e["value"]) for e in applied} == {
        ("retention", ""),
        ("work_mem", ""),
        ("compress_after", ""),
        ("rollup metrics_1m", ""),
    }
    assert job(database, "drop_after") == job(database, "compress_after") == []
    assert job(database, "start_offset") == []
    assert database.rows("SELECT metric_name, count FROM metrics_1m") == [("m", 1)]
    assert [policy for policy, _ in database.rows(POLICIES)] == [
        "columnstore",
        "complete since",
        "hypertable",
    ]
    # and back again: the view that stayed gets its policy back
    reload(collector, table__rollups=["1 minute"])
    assert database.rows(JOBS, "end_offset", "end_offset") == [
        ("policy_refresh_continuous_aggregate", "00:01:00")
    ]


def test_old_chunks_go_and_late_rows_reach_the_rollup(start, database):
    """Also rows for chunks that are compressed already."""
    collector = start(
        table__retention="30 days",
        table__compress_after="2 days",
        table__rollups=["1 minute", "1 hour"],
    )
    old = ago(5 * DAY) // (60 * MICROSECONDS) * 60 * MICROSECONDS
    collector.send(frame("m", 1, ago(40 * DAY)) + frame("m", 2, old) + frame("m", 3, ago(0)))
    database.wait_count(3)
    assert database.value(CHUNKS) == 3
    run_job(database, "policy_retention")
    assert database.value(CHUNKS) == 2
    run_job(database, "policy_compression")
    assert database.value(COMPRESSED) == 1
    run_job(database, REFRESH)
    collector.send(frame("m", 10, old + 1))
    database.wait_count(3)
    run_job(database, REFRESH)
    for view in ("metrics_1m", "metrics_1h"):
        assert database.rows(
            f"SELECT metric_name, count, min, max, avg, first, last FROM {view}"
            " ORDER BY time LIMIT 1"
        ) == [("m", 2, 2, 10, 6, 2, 10)]
        # the newest is not materialized, yet it is there
        assert database.value(f"SELECT sum(count) FROM {view}") == 3


def test_rollup_outlives_the_metrics(start, database):
    """Refreshes after a drop do not compute old buckets anew, from nothing; whatever is set."""
    kept = "SELECT metric_name, count, last FROM metrics_1h"
    collector = start(table__retention="30 days", table__rollups=["1 hour"])
    collector.send(frame("m", 5, ago(25 * DAY)))
    database.wait_count(1)
    run_job(database, REFRESH)
    reload(collector, table__retention="20 days")
    run_job(database, "policy_retention")
    assert database.count() == 0
    for retention in ("60 days", ""):
        reload(collector, table__retention=retention)
        assert job(database, "start_offset") == ["20 days"]
        run_job(database, REFRESH)
        assert database.rows(kept) == [("m", 1, 5)]
    collector.send(frame("new", 1, ago(5 * DAY)))
    database.wait_count(1)
    reload(collector, table__rollups=[])
    reload(collector, table__rollups=["1 hour"])
    run_job(database, REFRESH)
    assert sorted(database.rows(kept)) == [("m", 1, 5), ("new", 1, 1)]


def test_rollup_reaches_back_again(start, database):
    """A refresh goes no further than to what may have been deleted, and that moves into the past."""
    collector = start(table__retention="20 days", table__rollups=["1 hour"])
    reload(collector, table__retention="60 days")
    assert job(database, "start_offset") == ["20 days"]
    later = (
        "UPDATE metric_collectord.policies SET value = value::timestamptz - interval '{}'"
        " WHERE policy = 'complete since'"
    )
    database.execute(later.format("10 days"))
    assert reload(collector, table__compress_after="8 days")[0]["policy"] == "compress_after"
    assert job(database, "start_offset") == ["20 days"]  # a little is not worth it
    database.execute(later.format("10 days"))
    reload(collector, table__compress_after="9 days")
    [offset] = job(database, "start_offset")  # a second more, and it is written in hours
    assert database.value("SELECT %s::interval BETWEEN '40 days' AND '41 days'", offset)
    database.execute(later.format("30 days"))
    reload(collector, table__compress_after="10 days")
    assert job(database, "start_offset") == ["60 days"]


def test_rollup_off_and_on_before_the_first_metric(start, database):
    """Nothing was deleted: rows that come late are counted as ever."""
    collector = start(table__rollups=["1 minute"])
    reload(collector, table__rollups=[])
    reload(collector, table__rollups=["1 minute"])
    collector.send(frame("m", 1, ago(5 * DAY)) + frame("m", 2, ago(DAY)) + frame("m", 3, ago(150)))
    database.wait_count(3)
    run_job(database, REFRESH)  # what lies before the last of them is not computed any more
    assert database.value("SELECT sum(count) FROM metrics_1m") == 3


def test_rollup_off_and_on_bounds_no_other(start, database):
    """What may have been deleted while it was off narrows its own refresh alone."""
    both = ["1 minute", "1 hour"]
    collector = start(table__rollups=both)
    collector.send(frame("m", 1, ago(5 * DAY)))
    database.wait_count(1)
    reload(collector, table__rollups=["1 minute"])
    reload(collector, table__rollups=both)
    reload(collector, table__compress_after="8 days")  # all are judged anew
    windows = database.rows(
        "SELECT hypertable_name, (config->>'start_offset')::interval >= interval '5 days'"
        " FROM timescaledb_information.jobs"
        " WHERE proc_name = 'policy_refresh_continuous_aggregate' ORDER BY 1"
    )
    assert windows == [("metrics_1h", True), ("metrics_1m", None)]
    since = "SELECT policy FROM metric_collectord.policies WHERE policy LIKE 'complete since%'"
    assert database.rows(since) == [("complete since metrics_1h",)]


def test_retention_of_others_bounds_the_refresh(start, database):
    collector = start()
    database.execute("SELECT add_retention_policy('metrics', interval '10 days')")
    applied = reload(collector, table__retention="50 days", table__rollups=["1 hour"])
    assert [e["policy"] for e in applied if e["policy"] == "rollup metrics_1h"]
    assert job(database, "start_offset") == ["10 days"]


def test_names_of_rollups(start, database):
    start(table__rollups=["1 week", "90 seconds", "15 minutes", "36 hours", "2 days"])
    assert {name for (name,) in database.rows(ROLLUPS)} == {
        *("metrics_1w", "metrics_90s", "metrics_15m", "metrics_36h", "metrics_2d")
    }


@pytest.mark.threads
def test_several_collectors_at_once(new_collector, database):
    collectors = [
        new_collector(
            database,
            name=f"c{i}",
            database__timescaledb="require",
            table__retention="90 days",
            table__rollups=["1 minute"],
        )
        for i in range(4)
    ]
    for collector in collectors:
        collector.start(wait=None)
    for i, collector in enumerate(collectors):
        collector.wait_event("database_connected", timeout=60)
        collector.send(frame(f"m{i}", i, ago(0)))  # younger than what retention drops
    database.wait_count(4, timeout=60)
    for collector in collectors:
        collector.wait_event("maintenance_done", timeout=60)
    applied = [e["policy"] for c in collectors for e in c.find("policy_applied")]
    assert sorted(applied) == [
        *("columnstore", "compress_after", "retention", "rollup metrics_1m", "work_mem")
    ]
    assert not [e for c in collectors for e in c.find("policy_failed")]


# ---- what others have made ----


def make_hypertable(database, more=""):
    database.execute("CREATE EXTENSION timescaledb")
    database.execute(
        "CREATE TABLE metrics (time timestamptz NOT NULL, metric_name text NOT NULL,"
        " value double precision NOT NULL);"
        "SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '3 days');"
        + more
    )


def test_hypertable_of_others_is_left_alone(start, database):
    make_hypertable(database)
    collector = start()
    collector.send(frame("m", 1))
    database.wait_count(1)
    differs = {e["what"]: (e["wanted"], e["found"]) for e in collector.find("table_differs")}
    assert differs == {
        "chunk_interval": ("1 day", "3 days"),
        "columnstore": ("segmentby metric_name, orderby time DESC", ""),
        "compress_after": ("7 days", ""),
    }
    assert not collector.find("policy_applied")
    assert database.value("SHOW work_mem") == "4MB"
    assert database.value(INTERVAL) == "3 days"
    assert job(database, "compress_after") == []


def test_policies_of_others_are_left_alone(start, database):
    make_hypertable(
        database,
        "ALTER TABLE metrics SET (timescaledb.compress, timescaledb.compress_orderby = 'time');"
        "SELECT add_compression_policy('metrics', interval '3 days');"
        "SELECT add_retention_policy('metrics', interval '1 year');",
    )
    collector = start(table__retention="90 days", table__rollups=["1 hour"])
    assert job(database, "compress_after") == ["3 days"]
    assert job(database, "drop_after") == ["1 year"]
    assert {e["what"] for e in collector.find("table_differs")} == {
        *("chunk_interval", "columnstore", "compress_after", "retention")
    }
    # a rollup is an addition
    assert database.rows(ROLLUPS) == [("metrics_1h",)]
    reload(collector, table__retention="", table__compress_after="")
    assert job(database, "compress_after") == ["3 days"]
    assert job(database, "drop_after") == ["1 year"]


def test_a_view_in_the_way(start, database):
    """Of the rollup's name: it is kept, that is said, and metrics are stored."""
    make_hypertable(database, "CREATE VIEW metrics_1h AS SELECT 1 AS one")
    collector = start(table__rollups=["1 hour"])
    failed = collector.wait_event("policy_failed")
    assert failed["policy"] == "rollup metrics_1h"
    assert failed["level"] == "warning"
    collector.send(frame("m", 1))
    database.wait_count(1)
    assert database.rows("SELECT * FROM metrics_1h") == [(1,)]


def test_role_that_may_not(start, database):
    assert start(name="admin").stop() == 0
    role = f"role_{database.name}"
    database.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA metric_collectord TO {role};"
        f"GRANT INSERT ON metrics TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA metric_collectord TO {role}"
    )
    try:
        collector = start(
            name="writer", database__uri=database.uri_for(role), table__retention="90 days"
        )
        assert collector.wait_event("policy_failed", policy="retention")["sqlstate"] == "42501"
        collector.send(frame("m", 1))
        database.wait_count(1)
        assert collector.stop() == 0
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_migrate_off_changes_nothing(start, database):
    assert start(name="admin").stop() == 0
    collector = start(table__retention="90 days", database__migrate=False)
    assert job(database, "drop_after") == []
    assert not collector.find("policy_applied")


# ---- the Apache edition ----


@pytest.fixture
def apache_database(postgres_bindir):
    if not cluster_module.has_extension(postgres_bindir, "timescaledb"):
        pytest.skip("skipped: TimescaleDB is not installed")
    settings = {**cluster_module.TIMESCALE_SETTINGS, "timescaledb.license": "apache"}
    own = Cluster(postgres_bindir, **settings).start()
    yield own.create_database()
    own.remove()


def test_apache_edition(start, apache_database):
    """A hypertable with its interval, retention by the daemon; what is left out is said once."""
    collector = start(
        store=apache_database,
        table__chunk_interval="2 days",
        table__retention="30 days",
        table__rollups=["1 hour"],
        database__connections=2,
    )
    collector.wait_event("database_connected", count=2)
    assert apache_database.value(INTERVAL) == "2 days"
    left_out = collector.find("policies_left_out")
    assert [e["policies"] for e in left_out] == ["compress_after, rollups"]
    assert not collector.find("policy_failed")
    reload(collector, table__chunk_interval="1 day")
    assert apache_database.value(INTERVAL) == "1 day"
    collector.send(frame("m", 1, ago(40 * DAY)) + frame("m", 2, ago(0)))
    apache_database.wait_count(2)
    reload(collector, table__retention="29 days")
    wait_until(lambda: apache_database.count() == 1)
    assert collector.wait_event("chunks_dropped")["chunks"] == 1
    assert apache_database.rows(POLICIES)


def test_a_view_on_a_chunk(start, apache_database):
    """It is named, and the other chunks go."""
    collector = start(store=apache_database, table__retention="90 days")
    collector.send(b"".join(frame("m", i, ago((40 + i) * DAY)) for i in range(3)))
    apache_database.wait_count(3)
    ((oldest,),) = apache_database.rows(
        "SELECT show_chunks('metrics', older_than => interval '41 days')::text"
    )
    apache_database.execute(f"CREATE VIEW in_the_way AS SELECT * FROM {oldest}")
    collector.write_conf(table__retention="30 days")
    collector.reload()
    failed = collector.wait_event("policy_failed", policy="retention")
    assert failed["chunk"] == oldest and failed["sqlstate"] == "2BP01"
    wait_until(lambda: apache_database.count() == 1)
