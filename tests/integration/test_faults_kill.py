"""kill -9 of either side at random moments under load."""
import random

import pytest

from cluster import free_port
from faults import Load, assert_all_there_once, settle

SEED = 20260131


def fixed_address():
    return f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize("sync", ["always", "interval", "never"])
def test_daemon_killed_under_load(new_collector, database, sync):
    rng = random.Random(SEED)
    address = fixed_address()
    settings = dict(listen=[address], buffer__sync=sync, batch__interval=0.1, batch__max_rows=2000)
    collector = new_collector(database, **settings).start()
    level = 2 if sync == "interval" else 1  # level 1 takes a second there
    with Load(address, level=level) as load:
        for _ in range(4):
            load.wait_more(rng.randint(1, 12))
            collector.kill9()
            collector = new_collector(database, **settings).start()
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_daemon_killed_while_the_database_is_away(new_collector, own_cluster):
    address = fixed_address()
    settings = dict(listen=[address], buffer__sync="never", batch__interval=0.1)
    database = own_cluster.database("postgres")
    with Load(address) as load:
        for _ in range(4):
            collector = new_collector(database, **settings).start()
            load.wait_more(10)
            collector.kill9()
    collector = new_collector(database, **settings).start()
    own_cluster.start()
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_daemon_killed_during_recovery(new_collector, own_cluster):
    """The backlog is being stored when the kill comes, again and again."""
    address = fixed_address()
    settings = dict(listen=[address], buffer__sync="never", batch__interval=0.1, batch__max_rows=500)
    database = own_cluster.database("postgres")
    with Load(address) as load:
        collector = new_collector(database, **settings).start()
        load.wait_more(60)
    collector.kill9()
    own_cluster.start()
    for kill in (True, True, False):
        collector = new_collector(database, **settings).start()
        if collector.find("spool_recovered") and kill:
            collector.wait_event("batch_stored")
            collector.kill9()
        else:
            assert collector.stop() == 0
    collector = new_collector(database, **settings).start()
    settle(collector)
    assert_all_there_once(database, load)


@pytest.mark.parametrize("how", ["kill9", "immediate"])
def test_postgresql_killed_under_load(start_collector, own_cluster, how):
    own_cluster.settings.update(fsync="on", synchronous_commit="on")
    rewrite_settings(own_cluster)
    own_cluster.start()
    database = own_cluster.database("postgres")
    rng = random.Random(SEED)
    collector = start_collector(
        database, buffer__sync="never", batch__interval=0.1, batch__max_rows=2000
    )
    with Load(collector.address) as load:
        for _ in range(3):
            mark = collector.mark()
            load.wait_more(rng.randint(5, 20))
            collector.wait_event("batch_stored", since=mark)
            if how == "kill9":
                own_cluster.kill9()
            else:
                own_cluster.stop("immediate")
            load.wait_more(5)
            own_cluster.start()
        load.wait_more(5)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def rewrite_settings(cluster):
    """Commits that survive a kill: the tests' clusters are fast and careless otherwise."""
    with open(f"{cluster.data}/postgresql.conf", "a", encoding="utf-8") as file:
        for key in ("fsync", "synchronous_commit"):
            file.write(f"{key} = '{cluster.settings[key]}'\n")


def test_second_daemon_on_the_same_spool_is_refused(new_collector, database):
    first = new_collector(database).start()
    second = new_collector(database).start(wait=None)
    assert second.wait() == 1
    failed = second.find("spool_failed")[0]
    assert "in use" in failed["error"]
    assert str(first.pid) in failed["error"]
    first.send(b"")
    assert first.stop() == 0
