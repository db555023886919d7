"""A primary dies, its standby takes over: with commits missing (buffer.keep), and without."""
import os
import subprocess

import pytest

from cluster import Cluster, free_port
from faults import Load, assert_all_there_once, settle
from waiting import wait_until


class Standby(Cluster):
    """A streaming copy of a primary that runs."""

    def __init__(self, primary):
        self.primary = primary
        super().__init__(primary.bindir, synchronous_standby_names="")

    def _make(self):
        origin = f"host=127.0.0.1 port={self.primary.port} user=postgres"
        result = subprocess.run(
            [
                *(self._tool("pg_basebackup"), "-D", self.data, "-d", origin),
                *("-R", "-X", "stream", "-c", "fast", "--no-sync"),
            ],
            **self._as_user(),
            cwd=self.directory,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as file:
            file.write(f"port = {self.port}\nunix_socket_directories = '{self.directory}'\n")
            for key, value in self.settings.items():
                file.write(f"{key} = '{value}'\n")

    def follows(self):
        return self.primary.execute("SELECT count(*) FROM pg_stat_replication")[0][0] > 0

    def wait_replayed(self):
        """Until it has what the primary has now."""
        position = self.primary.execute("SELECT pg_current_wal_insert_lsn()")[0][0]
        wait_until(
            lambda: self.execute(f"SELECT pg_last_wal_replay_lsn() >= '{position}'")[0][0],
            30,
            "the standby has caught up",
        )

    def fall_behind(self):
        """From now on it receives nothing."""
        self.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
        self.execute("SELECT pg_reload_conf()")
        wait_until(lambda: not self.follows(), 30, "the standby has let go of its primary")

    def promote(self):
        assert self.execute("SELECT pg_promote()") == [(True,)]


@pytest.fixture
def pair(own_cluster):
    """A primary and a standby that follows it, both running."""
    with open(os.path.join(own_cluster.data, "postgresql.conf"), "a", encoding="utf-8") as file:
        file.write("wal_level = replica\nmax_wal_senders = 4\nwal_sender_timeout = '10s'\n")
    own_cluster.start()
    standby = Standby(own_cluster)
    try:
        standby.start()
        wait_until(standby.follows, 30, "the standby follows")
        yield own_cluster, standby
    finally:
        standby.remove()


def settings_for(primary, standby, **more):
    return dict(
        listen=[f"127.0.0.1:{free_port()}"],
        database__uri=f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        "/postgres?target_session_attrs=read-write",
        buffer__sync="never",
        batch__interval=0.1,
        batch__max_rows=2000,
        **more,
    )


def stored_batches(collector, until=None):
    """The numbers of the batches that were stored, up to an event."""
    events = collector.find("batch_stored")
    if until:
        events = [e for e in events if collector.events.index(e) < collector.events.index(until)]
    return [e["batch"] for e in events if not e.get("repeated")]


def ledger_of(database):
    return {n for (n,) in database.rows(f"SELECT batch FROM {database.ledger}")}


@pytest.mark.parametrize("connections", [1, 3])
def test_standby_that_misses_commits(new_collector, pair, connections):
    """Exactly the batches that the new primary's ledger does not know are sent again."""
    primary, standby = pair
    database = standby.database("postgres")
    settings = settings_for(
        primary, standby, buffer__keep="10 minutes", database__connections=connections
    )
    collector = new_collector(**settings).start()
    with Load(collector.address, level=2) as load:
        load.wait_more(10)
        standby.wait_replayed()
        standby.fall_behind()
        mark = collector.mark()
        load.wait_more(10)
        assert collector.find("batch_stored", since=mark)
        primary.kill9()
        known = ledger_of(database)
        standby.promote()
        requeued = collector.wait_event("batches_requeued", timeout=60)
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)
    missing = set(stored_batches(collector, until=requeued)) - known
    assert missing
    assert requeued["level"] == "warning"
    assert sum(e["count"] for e in collector.find("batches_requeued")) == len(missing)
    stored = stored_batches(collector)
    twice = {n for n in stored if stored.count(n) > 1}
    assert twice == missing
    assert set(stored) == ledger_of(database)


def test_standby_that_misses_commits_and_a_new_daemon(new_collector, pair):
    """The daemon dies with the primary; its next start meets the standby."""
    primary, standby = pair
    database = standby.database("postgres")
    settings = settings_for(primary, standby, buffer__keep="10 minutes")
    collector = new_collector(**settings).start()
    with Load(collector.address, level=2) as load:
        load.wait_more(10)
        standby.wait_replayed()
        standby.fall_behind()
        mark = collector.mark()
        load.wait_more(10)
        assert len(collector.find("batch_stored", since=mark)) > 1
        collector.kill9()
        primary.kill9()
        missing = set(stored_batches(collector)) - ledger_of(database)
        standby.promote()
        collector = new_collector(**settings).start()
        requeued = collector.wait_event("batches_requeued", timeout=60)
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)
    # one may have been committed, and not been kept yet: it was an ordinary backlog
    assert len(missing) - 1 <= requeued["count"] <= len(missing)
    assert missing <= set(stored_batches(collector))


@pytest.mark.parametrize("keep", ["1 second", "0"])
def test_batches_are_kept_no_longer_than_asked(new_collector, database, keep):
    """And what is kept is not taken for a backlog by the next start."""
    settings = dict(batch__interval=0.1, buffer__keep="10 minutes")
    collector = new_collector(database, **settings).start()
    with Load(collector.address, level=2) as load:
        load.wait_more(5)
    settle(collector)
    kept = collector.statistics()["spool_bytes"]
    assert kept > 0
    assert collector.stop() == 0
    collector = new_collector(database, **settings).start()
    collector.wait_event("database_connected")
    assert collector.statistics()["buffered"] == 0
    assert collector.statistics()["spool_bytes"] == kept
    assert collector.stop() == 0
    assert not collector.find("spool_recovered")
    collector = new_collector(database, batch__interval=0.1, buffer__keep=keep).start()
    collector.wait_statistics(spool_bytes=0)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_synchronous_standby_needs_no_kept_batches(new_collector, pair):
    """An answered commit is on both servers."""
    primary, standby = pair
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    wait_until(
        lambda: primary.execute("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
        == [(1,)],
        30,
        "the standby is a synchronous one",
    )
    database = standby.database("postgres")
    collector = new_collector(**settings_for(primary, standby)).start()
    with Load(collector.address, senders=4, level=2) as load:
        load.wait_more(30)
        primary.kill9()
        standby.promote()
        load.wait_more(10)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)
    assert not collector.find("batches_requeued")
