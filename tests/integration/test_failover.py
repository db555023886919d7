"""A primary dies, its standby takes over: with commits missing (buffer.keep), and without."""
import pytest

from cluster import free_port
from faults import Load, assert_all_there_once, ledger_of, settle


def settings_for(first, second, **more):
    return dict(
        listen=[f"127.0.0.1:{free_port()}"],
        database__uri=f"postgresql://postgres@127.0.0.1:{first.port},127.0.0.1:{second.port}"
        "/postgres?target_session_attrs=read-write",
        buffer__sync="never",
        batch__interval=0.1,
        batch__max_rows=2000,
        **more,
    )


def stored_batches(collector):
    """The numbers of the batches that were stored."""
    return [e["batch"] for e in collector.find("batch_stored") if not e.get("repeated")]


def kill(primary):
    """Returns when: what a standby has stored before, it has got from there."""
    now = primary.execute("SELECT clock_timestamp()")[0][0]
    primary.kill9()
    return now


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
        killed = kill(primary)
        standby.promote()
        requeued = collector.wait_event("batches_requeued", timeout=60)
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)
    assert requeued["level"] == "warning"
    stored = stored_batches(collector)
    twice = {n for n in stored if stored.count(n) > 1}
    assert twice and not twice & ledger_of(database, before=killed)
    assert sum(e["count"] for e in collector.find("batches_requeued")) == len(twice)
    assert set(stored) == ledger_of(database)


def test_standby_that_misses_commits_and_a_new_daemon(new_collector, pair):
    """The daemon dies with the primary; its next start meets the standby."""
    primary, standby = pair
    database = standby.database("postgres")
    settings = settings_for(primary, standby, buffer__keep="10 minutes")
    first = new_collector(**settings).start()
    with Load(first.address, level=2) as load:
        load.wait_more(10)
        standby.wait_replayed()
        standby.fall_behind()
        mark = first.mark()
        load.wait_more(10)
        assert len(first.find("batch_stored", since=mark)) > 1
        first.kill9()
        killed = kill(primary)
        standby.promote()
        collector = new_collector(**settings).start()
        requeued = collector.wait_event("batches_requeued", timeout=60)
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)
    missing = set(stored_batches(first)) - ledger_of(database, before=killed)
    # some may have been committed, and not been kept yet: they were an ordinary backlog
    backlog = sum(e["batches"] for e in collector.find("spool_recovered"))
    assert requeued["count"] <= len(missing) <= requeued["count"] + backlog
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


@pytest.mark.parametrize("connections", [1, 3])
def test_synchronous_standby_needs_no_kept_batches(new_collector, pair, connections):
    """An answered commit is on both servers."""
    primary, standby = pair
    primary.make_synchronous()
    database = standby.database("postgres")
    settings = settings_for(primary, standby, database__connections=connections)
    collector = new_collector(**settings).start()
    with Load(collector.address, senders=4, level=2) as load:
        load.wait_more(30)
        primary.kill9()
        standby.promote()
        load.wait_more(10)
    settle(collector)
    assert collector.stop() == 0
    assert collector.stopped["stored"] == collector.stopped["received"] > 0
    assert_all_there_once(database, load)
    assert not collector.find("batches_requeued")


def test_switchover(new_collector, pair):
    """The standby is named first, and passed over until it takes writes; a stop gives it all it lacks."""
    primary, standby = pair
    database = standby.database("postgres")
    settings = settings_for(standby, primary, database__connections=2)
    collector = new_collector(**settings).start()
    with Load(collector.address, senders=4, level=2) as load:
        load.wait_more(20)
        assert primary.database("postgres").count() > 0
        primary.stop()
        mark = collector.mark()
        refusal = f"port {standby.port} takes no writes"
        collector.wait_event("database_unavailable", since=mark, error=lambda e: refusal in e)
        standby.promote()
        load.wait_more(20)
    settle(collector)
    assert collector.stop() == 0
    assert collector.stopped["stored"] == collector.stopped["received"] > 0
    assert_all_there_once(database, load)
