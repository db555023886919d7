"""The server refuses, is slow, full, or holds on to what it had: beside test_errors.py."""
import threading

import psycopg2
import pytest

from disks import small_disk  # noqa: F401 (fixture)
from faults import Load, Proxy, assert_all_there_once, settle
from waiting import wait_until
from wire import series


def test_old_backend_still_holds_the_transaction(start_collector, database):
    """
    Another session has inserted the ledger row of the batch to come and not decided yet, as an old backend
    whose client is gone: the daemon waits for its outcome, and other batches go on meanwhile.
    """
    collector = start_collector(database, batch__interval=3600)
    identity = collector.wait_event("ready")["collector"]
    with collector.sender() as sender:
        sender.send(series("m", 1))
        sender.sync(2)
        first = collector.wait_event("batch_stored")["batch"]
        old = database.connect()
        old.autocommit = False
        with old.cursor() as cursor:
            cursor.execute(
                "INSERT INTO metric_collectord.batches (collector, batch, rows, bytes, rejected,"
                " min_time, max_time) SELECT collector, %s, rows, bytes, rejected, min_time, max_time"
                " FROM metric_collectord.batches WHERE collector = %s AND batch = %s",
                (first + 1, identity, first),
            )
        sender.send(series("m", 1, first=1))
        collector.wait_statistics(received=2)
        collector.flush()
        wait_until(lambda: waits_for_lock(database), 30, "the daemon's INSERT waits")
        old.rollback()
        old.close()
        assert sender.sync(2) == 0
    assert collector.stop() == 0
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(2, 2)]


def waits_for_lock(database):
    return database.value("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0


def test_backend_stays_when_its_client_is_gone(start_collector, cluster, database):
    """The connection is cut while the server waits for a lock: two backends want the same batch."""
    proxy = Proxy(cluster.port)
    collector = start_collector(
        database,
        database__uri=f"postgresql://postgres@127.0.0.1:{proxy.port}/{database.name}?sslmode=disable",
        batch__interval=0.1,
    )
    collector.wait_event("maintenance_done")
    blocker = database.connect()
    blocker.autocommit = False
    with blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
    with collector.sender() as sender:
        sender.send(series("m", 100))
        wait_until(lambda: waits_for_lock(database), 30, "the first backend waits")
        proxy.cut_now()
        wait_until(
            lambda: database.value("SELECT count(*) FROM pg_locks WHERE NOT granted") > 1,
            30,
            "the second backend waits, too",
        )
        blocker.rollback()
        blocker.close()
        assert sender.sync(2) == 0
    assert collector.stop() == 0
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(100, 100)]
    proxy.close()


def test_parallel_writers_under_faults(start_collector, database):
    collector = start_collector(
        database,
        database__connections=4,
        buffer__sync="never",
        batch__interval=0.1,
        batch__max_rows=500,
    )
    with Load(collector.address, senders=4) as load:
        for _ in range(6):
            load.wait_more(10)
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'metric-collectord'"
            )
        load.wait_more(10)
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_statements_cancelled_under_load(start_collector, database):
    collector = start_collector(
        database, buffer__sync="never", batch__interval=0.05, batch__max_rows=5000
    )
    with Load(collector.address) as load:
        for _ in range(20):
            load.wait_more(2)
            database.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'metric-collectord' AND state = 'active'"
            )
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)


def test_deadlock_victim(start_collector, database):
    """
    The daemon's transaction holds a row that another session wants while that one holds what the
    daemon's trigger wants: the server picks a victim; whoever it is, the rows arrive once.
    """
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    database.execute("CREATE TABLE a (n int)")
    database.execute("CREATE TABLE b (n int)")
    database.execute("INSERT INTO a VALUES (0)")
    database.execute("INSERT INTO b VALUES (0)")
    database.execute(
        "CREATE FUNCTION count_twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE a SET n = n + 1; UPDATE b SET n = n + 1; RETURN NULL; END $$"
    )
    database.execute(
        "CREATE TRIGGER count_twice AFTER INSERT ON metrics FOR EACH STATEMENT EXECUTE FUNCTION count_twice()"
    )
    database.execute(f"ALTER DATABASE {database.name} SET deadlock_timeout = '50ms'")
    victims = 0
    for number in range(5):
        rival = database.connect()
        rival.autocommit = False
        with rival.cursor() as cursor:
            cursor.execute("SET deadlock_timeout = '20s'")
            cursor.execute("UPDATE b SET n = n")
            with collector.sender(timeout=60) as sender:
                sender.send(series("m", 10, first=number * 10))
                asker = threading.Thread(target=sender.sync, args=(2,))
                asker.start()
                wait_until(lambda: waits_for_lock(database), 30, "the daemon waits for b")
                try:
                    cursor.execute("UPDATE a SET n = n")
                except psycopg2.errors.DeadlockDetected:
                    victims += 1
                rival.rollback()
                asker.join()
        rival.close()
    assert collector.stop() == 0
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(50, 50)]


def test_privilege_revoked_and_granted(start_collector, cluster, database):
    database.execute("CREATE ROLE writer_1 LOGIN")
    try:
        collector = start_collector(database, batch__interval=0.1)
        collector.send(series("m", 10))
        database.wait_count(10)
        assert collector.stop() == 0
        database.execute("GRANT USAGE ON SCHEMA metric_collectord TO writer_1")
        database.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA metric_collectord TO writer_1"
        )
        database.execute("GRANT INSERT ON metrics TO writer_1")
        collector = start_collector(
            database, database__uri=database.uri_for("writer_1"), batch__interval=0.1
        )
        collector.send(series("m", 10, first=10))
        database.wait_count(20)
        database.execute("REVOKE INSERT ON metrics FROM writer_1")
        collector.send(series("m", 10, first=20))
        held = collector.wait_event("batch_held")
        assert held["sqlstate"] == "42501"
        assert held["level"] == "error"
        database.execute("GRANT INSERT ON metrics TO writer_1")
        database.wait_count(30)
        assert collector.stop() == 0
        assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(30, 30)]
    finally:
        database.execute("DROP OWNED BY writer_1")
        database.execute("DROP ROLE writer_1")


def test_server_in_recovery_is_tried_again(start_collector, own_cluster):
    """A standby that does not accept writes: nothing is stored, nothing is lost, until it is promoted."""
    own_cluster.start()
    database = own_cluster.database("postgres")
    collector = start_collector(database, batch__interval=0.1)
    collector.send(series("m", 10))
    database.wait_count(10)
    own_cluster.stop()
    open(f"{own_cluster.data}/standby.signal", "w", encoding="utf-8").close()
    own_cluster.start()
    collector.send(series("m", 10, first=10))
    collector.wait_event("database_unavailable")
    assert collector.statistics()["buffered"] == 10
    database.execute("SELECT pg_promote()")
    database.wait_count(20, timeout=60)
    assert collector.stop() == 0


def test_server_out_of_disk(start_collector, own_cluster, small_disk):
    """Its tablespace is full; then it is not."""
    own_cluster.start()
    database = own_cluster.database("postgres")
    collector = start_collector(database, batch__interval=0.1, batch__max_rows=5000)
    collector.send(series("m", 10))
    database.wait_count(10)
    space = small_disk("8m", own_cluster.user)
    database.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
    database.execute("ALTER TABLE metrics_default SET TABLESPACE small")
    collector.send(series("m", 200_000, first=10))
    failure = collector.wait_event("database_unavailable", sqlstate="53100", timeout=60)
    assert failure["level"] == "warning"
    database.execute("ALTER TABLE metrics_default SET TABLESPACE pg_default")
    database.wait_count(200_010, timeout=60)
    assert collector.stop() == 0
    total, distinct = database.rows("SELECT count(*), count(DISTINCT value) FROM metrics")[0]
    assert total == distinct == 200_010
    database.execute("DROP TABLESPACE small")


@pytest.mark.parametrize("refused", [1, 7])
def test_single_rows_refused_among_thousands(start_collector, database, refused):
    collector = start_collector(database, batch__interval=3600)
    collector.wait_event("database_connected")
    database.execute("ALTER TABLE metrics ADD CHECK (metric_name <> 'bad')")
    data = b"".join(
        series("bad" if i < refused else "good", 700, first=i * 700)[: 20 if i < refused else None]
        for i in range(10)
    )
    with collector.sender() as sender:
        sender.send(data)
        assert sender.sync(2) == 0
    good = 700 * (10 - refused)
    assert database.count() == good
    assert database.value("SELECT count(*) FROM metric_collectord.rejected") == refused
    assert collector.stop() == 0
    assert collector.stopped["rejected"] == refused
    assert collector.stopped["stored"] == good
