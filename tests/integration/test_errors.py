"""Databases that are away, refuse, or go away: nothing is lost, nothing is stored twice."""
import threading

import pytest

from waiting import wait_until
from wire import frame, series


def assert_once(database, count):
    """Values are all different, so each row is there exactly once."""
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(count, count)]
    assert database.value(f"SELECT sum(rows) FROM {database.ledger}") == count


class Pump:
    """Sends blocks with rising values, each answered before the next, until told to stop."""

    def __init__(self, collector, level=1):
        self.collector = collector
        self.level = level
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()

    def _run(self):
        with self.collector.sender(timeout=60) as sender:
            while not self._stop.is_set():
                sender.send(series("m", 200, first=self.sent))
                assert sender.sync(self.level, self.sent) == 0
                self.sent += 200

    def wait_more(self, rows):
        target = self.sent + rows
        wait_until(lambda: self.sent >= target, 30)


# ---- away ----


def test_absent_at_start_then_there(start_collector, own_cluster):
    database = own_cluster.database("postgres")
    collector = start_collector(database)
    collector.send(series("m", 5000))
    event = collector.wait_event("database_unavailable")
    assert event["error"]
    assert event["retry_in"] > 0
    assert event["level"] in ("warning", "error")
    assert collector.statistics()["buffered"] == 5000
    own_cluster.start()
    database.wait_count(5000, timeout=60)
    assert_once(database, 5000)


def test_late_database_without_spool(start_collector, own_cluster):
    database = own_cluster.database("postgres")
    collector = start_collector(database, buffer__spool="")
    collector.send(series("m", 5000))
    collector.wait_event("database_unavailable")
    own_cluster.start()
    database.wait_count(5000, timeout=60)
    assert_once(database, 5000)


@pytest.mark.threads
@pytest.mark.parametrize("spool", ["with spool", "memory only"])
@pytest.mark.parametrize("how", ["fast", "immediate", "kill9"])
def test_restart_in_mid_stream(start_collector, own_cluster, how, spool):
    own_cluster.settings["fsync"] = "on"
    database = own_cluster.start().database("postgres")
    options = {"buffer__sync": "always"} if spool == "with spool" else {"buffer__spool": ""}
    collector = start_collector(database, batch__interval=0.05, batch__max_rows=500, **options)
    # Without a spool level 1 would wait for the database, like level 2.
    with Pump(collector) as pump:
        pump.wait_more(2000)
        if how == "kill9":
            own_cluster.kill9()
        else:
            own_cluster.stop(how)
        if spool == "with spool":
            pump.wait_more(1000)
        own_cluster.start()
        pump.wait_more(2000)
    database.wait_count(pump.sent, timeout=60)
    assert_once(database, pump.sent)
    assert collector.stop() == 0
    assert collector.stopped["stored"] == pump.sent


@pytest.mark.threads
def test_backends_terminated_in_mid_stream(start_collector, database):
    collector = start_collector(
        database,
        batch__interval=0.05,
        batch__max_rows=500,
        buffer__sync="always",
        database__connections=2,
    )
    with Pump(collector) as pump:
        for _ in range(5):
            pump.wait_more(1000)
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    database.wait_count(pump.sent, timeout=60)
    assert_once(database, pump.sent)


def test_statement_cancelled(start_collector, database):
    """The batch waits for a lock, its statement is cancelled, and it is tried again."""
    collector = start_collector(database)
    collector.wait_event("maintenance_done")  # so that the janitor waits for nothing
    blocker = database.connect()
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
    collector.send(series("m", 100))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    database.wait_value(1, waiting + " AND datname = current_database()")
    database.execute(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    wait_until(lambda: collector.statistics()["store_retries"] > 0)
    blocker.rollback()
    blocker.close()
    database.wait_count(100, timeout=60)
    assert_once(database, 100)


def test_statement_timeout_of_the_database(start_collector, database):
    """It is meant for readers; a batch that takes longer is stored all the same."""
    start_collector(database, name="first").wait_event("database_connected")
    database.execute(
        f"ALTER DATABASE {database.name} SET statement_timeout = '500ms';"
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_sleep(1); RETURN NULL; END$$;"
        "CREATE TRIGGER slow BEFORE INSERT ON metrics FOR EACH STATEMENT EXECUTE FUNCTION slow();"
        "ALTER TABLE metrics ADD CHECK (value <> 7)"
    )
    start_collector(database, name="second").send(series("m", 8))
    database.wait_count(7, timeout=60)
    assert database.count("metric_collectord.rejected") == 1


@pytest.mark.tidy
def test_server_that_only_reads(start_collector, database):
    """25006: a standby, or an operator's switch."""
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    collector.send(series("m", 100))
    wait_until(
        lambda: any(
            e.get("sqlstate") == "25006" or "read-only" in e.get("error", "")
            for e in collector.find("database_unavailable")
        ),
        30,
    )
    database.cluster.execute(
        f"ALTER DATABASE {database.name} RESET default_transaction_read_only"
    )
    database.wait_count(100, timeout=60)
    assert_once(database, 100)


# ---- refused ----


def test_wrong_password(start_collector, own_cluster):
    own_cluster.start()
    own_cluster.execute("CREATE ROLE writer LOGIN SUPERUSER PASSWORD 'right-secret'")
    own_cluster.require_password("writer")
    database = own_cluster.create_database()
    collector = start_collector(database__uri=database.uri_for("writer", "wrong-secret"))
    collector.send(series("m", 100))
    event = collector.wait_event("database_unavailable")
    assert "password authentication failed" in event["error"]
    assert event["level"] == "error"
    assert collector.statistics()["buffered"] == 100
    own_cluster.execute("ALTER ROLE writer PASSWORD 'wrong-secret'")
    database.wait_count(100, timeout=60)
    assert "wrong-secret" not in collector.log_text()
    assert_once(database, 100)


def test_password_file(start_collector, own_cluster, tmp_path):
    own_cluster.start()
    own_cluster.execute("CREATE ROLE writer LOGIN SUPERUSER PASSWORD 'file-secret'")
    own_cluster.require_password("writer")
    database = own_cluster.create_database()
    secret = tmp_path / "password"
    secret.write_text("file-secret\n", encoding="utf-8")
    secret.chmod(0o600)
    collector = start_collector(
        database__uri=database.uri_for("writer"), database__password_file=str(secret)
    )
    collector.send(frame("m", 1))
    database.wait_count(1)
    assert "file-secret" not in collector.log_text()


def test_missing_database_that_must_not_be_created(start_collector, cluster):
    database = cluster.database(cluster.unused_name())
    collector = start_collector(database, database__create=False)
    collector.send(series("m", 100))
    event = collector.wait_event("database_unavailable")
    assert "does not exist" in event["error"]
    assert collector.statistics()["buffered"] == 100
    cluster.create_database(database.name)
    database.wait_count(100, timeout=60)
    assert_once(database, 100)


def test_table_renamed_and_renamed_back(start_collector, database):
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute("ALTER TABLE metrics RENAME TO elsewhere")
    collector.send(series("m", 100))
    event = collector.wait_event("batch_held")
    assert event["sqlstate"] == "42P01"
    assert event["error"]
    assert event["level"] == "error"
    statistics = collector.statistics()
    assert (statistics["buffered"], statistics["rejected"], statistics["dropped"]) == (100, 0, 0)
    collector.send(series("m", 100, first=100))  # it goes on receiving
    database.execute("ALTER TABLE elsewhere RENAME TO metrics")
    database.wait_count(200, timeout=60)
    assert_once(database, 200)


def test_row_security(start_collector, cluster, database, role):
    """COPY is refused under it: the batch waits, and the hint names what the role needs."""
    start_collector(database, name="admin").wait_event("database_connected")
    database.execute(
        "ALTER TABLE metrics ENABLE ROW LEVEL SECURITY;"
        f"GRANT USAGE ON SCHEMA metric_collectord TO {role}; GRANT INSERT ON metrics TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA metric_collectord TO {role}"
    )
    collector = start_collector(
        name="bound", database__uri=database.uri_for(role), database__migrate=False
    )
    collector.send(frame("m", 1))
    event = collector.wait_event("batch_held")
    assert event["sqlstate"] == "0A000"
    assert "BYPASSRLS" in event["hint"]
    cluster.execute(f"ALTER ROLE {role} BYPASSRLS")
    database.wait_count(1)
    collector.stop()


# ---- single rows ----


def test_check_constraint(start_collector, database):
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    database.execute("ALTER TABLE metrics ADD CONSTRAINT sane CHECK (value::int % 1000 <> 13)")
    collector.send(series("m", 5000) + frame("other", 1))
    collector.flush()
    database.wait_count(4996)
    assert database.rows(
        "SELECT (extract(epoch FROM time) * 1000000)::bigint % 1000, name, value, sqlstate"
        " FROM metric_collectord.rejected ORDER BY value"
    ) == [(13, "m", float(i), "23514") for i in range(13, 5000, 1000)]
    assert database.value("SELECT bool_and(reason <> '') FROM metric_collectord.rejected")
    event = collector.wait_event("row_rejected")
    assert event["metric"] == "m"
    assert event["value"] == 13
    assert event["sqlstate"] == "23514"
    assert "sane" in event["error"]
    assert database.rows(
        "SELECT sum(rows), sum(rejected), count(*) FROM metric_collectord.batches"
    ) == [(4996, 5, 1)]
    assert collector.stop() == 0
    assert (collector.stopped["stored"], collector.stopped["rejected"]) == (4996, 5)


def test_every_row_refused(start_collector, database):
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute("ALTER TABLE metrics ADD CONSTRAINT none CHECK (value < 0)")
    collector.send(series("m", 64))
    database.wait_count(64, "metric_collectord.rejected")
    assert database.count() == 0
    collector.wait_statistics(rejected=64, stored=0, buffered=0)


def test_trigger_that_raises(start_collector, database):
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute(
        """
        CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.metric_name = 'bad' THEN RAISE EXCEPTION 'guard says no'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER guard BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION guard()
        """
    )
    collector.send(series("good", 100) + frame("bad", 1) + series("good", 100, first=100))
    database.wait_count(1, "metric_collectord.rejected")
    database.wait_count(200)
    assert database.rows("SELECT name, value, sqlstate FROM metric_collectord.rejected") == [
        ("bad", 1.0, "P0001")
    ]
    assert "guard says no" in collector.wait_event("row_rejected")["error"]


def test_trigger_that_changes_and_skips_rows(start_collector, database):
    """The operator's own rules are no errors."""
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute(
        """
        CREATE FUNCTION filter() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.value < 10 THEN RETURN NULL; END IF;
            NEW.metric_name := upper(NEW.metric_name);
            RETURN NEW;
        END $$;
        CREATE TRIGGER filter BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION filter()
        """
    )
    collector.send(series("m", 100))
    database.wait_count(90)
    assert database.rows("SELECT DISTINCT metric_name FROM metrics") == [("M",)]
    collector.wait_statistics(buffered=0)
    assert database.count("metric_collectord.rejected") == 0


def test_unique_index_of_the_operator(start_collector, database):
    """23505, but not on the ledger's key: the second of a pair is rejected."""
    collector = start_collector(database)
    collector.wait_event("database_connected")
    database.execute("CREATE UNIQUE INDEX one_each ON metrics (time, metric_name)")
    collector.send(frame("m", 1) + frame("n", 2) + frame("m", 3))
    database.wait_count(2)
    database.wait_value("23505", "SELECT max(sqlstate) FROM metric_collectord.rejected")
    collector.wait_statistics(stored=2, rejected=1, buffered=0)


def test_column_that_is_narrower(start_collector, database):
    """22: the name is too long for the operator's column."""
    database.execute(
        "CREATE TABLE metrics (time timestamptz NOT NULL, metric_name varchar(5) NOT NULL,"
        " value double precision NOT NULL)"
    )
    collector = start_collector(database)
    collector.send(frame("short", 1) + frame("too.long", 2) + frame("fine", 3))
    database.wait_count(1, "metric_collectord.rejected")
    database.wait_count(2)
    assert database.rows("SELECT name, sqlstate FROM metric_collectord.rejected") == [
        ("too.long", "22001")
    ]
