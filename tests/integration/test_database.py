"""A database that is not the one in which the collector has stored."""
import os
import subprocess

import pytest

from programs import metric_spool_path
from wire import frame

REMEMBERED = "spool/database"


@pytest.fixture
def stored(start_collector, database):
    """A collector that has stored one metric, and remembers where."""
    collector = start_collector(database)
    collector.send(frame("old", 1))
    database.wait_count(1)
    assert collector.stop() == 0
    assert os.path.exists(os.path.join(collector.directory, REMEMBERED))
    return collector


def forget(collector):
    spool = os.path.join(collector.directory, "spool")
    subprocess.run([metric_spool_path(), "-d", spool, "forget-database"], check=True)


def assert_held(collector):
    event = collector.wait_event("database_unavailable")
    assert event["level"] == "error"
    assert "metric-spool forget-database" in event["hint"]


def test_one_that_was_renamed_is_not_made_anew(stored, start_collector, cluster, database):
    cluster.execute(f'ALTER DATABASE "{database.name}" RENAME TO "{database.name}_away"')
    collector = start_collector(database)
    collector.send(frame("new", 2))
    assert_held(collector)
    assert not cluster.execute(f"SELECT 1 FROM pg_database WHERE datname = '{database.name}'")
    cluster.execute(f'ALTER DATABASE "{database.name}_away" RENAME TO "{database.name}"')
    collector.flush()
    database.wait_count(2)
    assert collector.stop() == 0


def test_one_that_was_made_anew_waits_for_the_operator(stored, start_collector, cluster, database):
    cluster.execute(f'DROP DATABASE "{database.name}"')
    cluster.create_database(database.name)
    collector = start_collector(database)
    collector.send(frame("new", 2))
    assert_held(collector)
    assert database.value("SELECT to_regclass('public.metrics')") is None
    forget(collector)
    collector.flush()
    database.wait_count(1)
    assert collector.stop() == 0
    again = start_collector(database)
    again.send(frame("newer", 3))
    database.wait_count(2)


def test_while_it_runs(start_collector, cluster, database):
    """With the schema in place: a copy, as a dump restores it."""
    collector = start_collector(database)
    collector.send(frame("old", 1))
    database.wait_count(1)
    away = f"{database.name}_away"
    cluster.rename_in_use(database.name, away)
    cluster.execute(f'CREATE DATABASE "{database.name}" TEMPLATE "{away}"')
    mark = collector.mark()
    collector.send(frame("new", 2))
    event = collector.wait_event("database_unavailable", since=mark, level="error")
    assert "forget-database" in event["hint"]
    assert database.count() == 1
    forget(collector)
    collector.flush()
    database.wait_count(2)
    assert collector.stop() == 0
    cluster.execute(f'DROP DATABASE "{away}" WITH (FORCE)')


def test_another_uri_is_another_database(stored, start_collector, cluster):
    """Who changes where metrics go says that they shall go there."""
    other = cluster.create_database()
    collector = start_collector(other)
    collector.send(frame("new", 2))
    other.wait_count(1)
    assert collector.stop() == 0
    cluster.execute(f'DROP DATABASE "{other.name}" WITH (FORCE)')


def test_a_role_that_reads_only_is_no_standby(start_collector, cluster, database, role):
    """Its default is not that of the server; several hosts are searched for one that takes writes."""
    cluster.execute(f"ALTER ROLE {role} SUPERUSER")
    cluster.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    uri = f"postgresql://{role}@127.0.0.1:{cluster.port},127.0.0.1:{cluster.port}/{database.name}"
    collector = start_collector(database__uri=uri)
    collector.send(frame("m", 1))
    database.wait_count(1)
    assert collector.stop() == 0
