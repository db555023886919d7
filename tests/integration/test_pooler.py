"""PgBouncer in transaction mode between daemon and server: each transaction meets another backend."""
import threading

import psycopg2
import pytest

from faults import Load, Proxy, assert_all_there_once, ledger_of, lose_commit_answers, settle
from waiting import wait_until
from wire import series

FAST = {"batch__interval": 0.05, "batch__max_rows": 2000}


class Crowd:
    """Other clients of the pool, each of which wants the answer to its own question."""

    def __init__(self, uri, clients=2):
        self.uri = uri
        self.answers = 0
        self.errors = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _talk(self):
        connection = psycopg2.connect(self.uri)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                while not self._stop.is_set():
                    question = self.answers
                    cursor.execute("SELECT %s", (question,))
                    assert cursor.fetchall() == [(question,)]
                    self.answers += 1
        finally:
            connection.close()

    def _run(self):
        while not self._stop.is_set():
            try:
                self._talk()
            except (psycopg2.Error, AssertionError) as error:
                self.errors.append(error)


def start_through(new_collector, pooler, name, **settings):
    """A collector that has reached the database of that name."""
    settings = {"database__uri": pooler.uri(name), **FAST, **settings}
    collector = new_collector(**settings).start()
    collector.wait_event("database_connected", timeout=60)
    return collector


def remember_backends(database):
    """From now on the ledger knows which backend stored a batch."""
    database.execute(f"ALTER TABLE {database.ledger} ADD COLUMN pid int DEFAULT pg_backend_pid()")


def backends(database):
    """Of the batches that were stored, in order."""
    sql = f"SELECT pid FROM {database.ledger} WHERE pid IS NOT NULL ORDER BY stored_at"
    return [pid for (pid,) in database.rows(sql)]


def backends_have_changed(database):
    """Batch has followed upon batch on another backend, often enough."""
    pids = backends(database)
    return sum(a != b for a, b in zip(pids, pids[1:])) >= 5


def finish(collector, database, load):
    """Stops it, whose counters are compared at every stop, and makes the two checks."""
    settle(collector)
    assert collector.stop() == 0
    assert collector.stopped["stored"] == collector.stopped["received"] > 0
    assert_all_there_once(database, load)


# ---- storing ----


def test_a_table_that_somebody_has_left_on_a_backend(database, new_pooler, new_collector):
    """A temporary table of the same name is not meant."""
    pooler = new_pooler(database.cluster.port, default_pool_size=1)
    collector = start_through(new_collector, pooler, database.name, database__connections=1)
    collector.wait_event("maintenance_done")
    other = psycopg2.connect(pooler.uri(database.name))
    other.autocommit = True
    with other.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE metrics AS SELECT * FROM public.metrics LIMIT 0")
    with collector.sender() as sender:
        sender.send(series("m", 100))
        assert sender.sync(2) == 0
    assert database.value("SELECT count(*) FROM public.metrics") == 100
    other.close()


@pytest.mark.threads
@pytest.mark.parametrize("connections", [1, 2, 4])
def test_each_transaction_meets_another_backend(database, new_pooler, new_collector, connections):
    pooler = new_pooler(database.cluster.port, default_pool_size=3, min_pool_size=3)
    collector = start_through(
        new_collector, pooler, database.name, database__connections=connections
    )
    remember_backends(database)
    with Crowd(pooler.uri(database.name)) as crowd:
        with Load(collector.address, level=2) as load:
            load.wait_more(40)
            wait_until(lambda: backends_have_changed(database), 60, "other backends")
    assert crowd.answers > 0
    assert not crowd.errors
    finish(collector, database, load)
    assert not collector.find("database_unavailable")


def test_more_connections_than_the_pool_has(database, new_pooler, new_collector):
    pooler = new_pooler(database.cluster.port, default_pool_size=1)
    collector = start_through(new_collector, pooler, database.name, database__connections=4)
    with Load(collector.address, senders=6, level=2) as load:
        load.wait_more(40)
    finish(collector, database, load)
    assert not collector.find("database_unavailable")


def test_collectors_that_start_at_once(database, new_pooler, new_collector):
    """Four of them, with connections for two: the migrations are applied once."""
    pooler = new_pooler(database.cluster.port, default_pool_size=2)
    made = [
        new_collector(
            name=f"collector{i}",
            database__uri=pooler.uri(database.name),
            database__connections=2,
            **FAST,
        ).start()
        for i in range(4)
    ]
    for i, collector in enumerate(made):
        collector.wait_event("database_connected", timeout=60)
        collector.send(series(f"c{i}", 1000, first=i * 1000))
    database.wait_count(4000)
    for collector in made:
        assert collector.stop() == 0
        assert not collector.find("database_unavailable")
    applied = database.value("SELECT count(*) FROM metric_collectord.migrations")
    assert applied == sum(len(collector.find("migration_applied")) for collector in made) > 0
    assert database.value("SELECT count(DISTINCT value) FROM metrics") == 4000


def test_rejected_rows(database, new_pooler, new_collector):
    """A batch is taken apart in one transaction, and so on one backend."""
    pooler = new_pooler(database.cluster.port, default_pool_size=3, min_pool_size=3)
    collector = start_through(new_collector, pooler, database.name)
    database.execute("ALTER TABLE metrics ADD CHECK (value <> 700)")
    with Crowd(pooler.uri(database.name)) as crowd:
        for first in (0, 1000, 2000):
            with collector.sender() as sender:
                sender.send(series("m", 1000, first=first))
                assert sender.sync(2) == 0
    assert not crowd.errors
    assert collector.stop() == 0
    assert collector.stopped["stored"] == 2999
    assert collector.stopped["rejected"] == 1
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(2999, 2999)]
    assert database.value(f"SELECT value FROM {database.rejected}") == 700


@pytest.mark.slow
def test_failed_copy_leaves_other_clients_alone(database, new_pooler, new_collector):
    """Rows on their way when a COPY fails must not reach a backend that serves another client."""
    pooler = new_pooler(database.cluster.port, default_pool_size=1)
    collector = start_through(
        new_collector, pooler, database.name, batch__max_rows=20000, batch__interval=0.2
    )
    database.execute(
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM 1 FROM not_there; RETURN NEW; END'"
    )
    database.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION broken()"
    )

    def failures():
        return sum(1 + e.get("suppressed", 0) for e in collector.find("batch_held"))

    with Crowd(pooler.uri(database.name)) as crowd:
        collector.send(series("m", 40000))
        wait_until(lambda: failures() >= 30, 60, "the COPY has failed often")
    assert crowd.answers > 0
    assert not crowd.errors
    database.execute(
        "CREATE OR REPLACE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NEW; END'"
    )
    database.wait_count(40000)
    assert collector.stop() == 0
    assert database.value("SELECT count(DISTINCT value) FROM metrics") == 40000


def test_straight_into_the_columnstore(timescale_cluster, new_pooler, new_collector):
    """What a session has set is gone when the next transaction begins."""
    database = timescale_cluster.create_database()
    pooler = new_pooler(timescale_cluster.port, default_pool_size=3, min_pool_size=3)
    collector = start_through(
        new_collector,
        pooler,
        database.name,
        database__timescaledb="require",
        table__direct_compress="auto",
        table__rollups=["1 minute"],
        table__retention="20000 days",
        batch__interval=3600,
    )
    assert collector.wait_event("direct_compress")["usable"]
    assert not collector.find("policy_failed")
    remember_backends(database)
    batches = 0
    with Crowd(pooler.uri(database.name)) as crowd:
        while batches < 10 or not backends_have_changed(database):
            assert batches < 300, f"always the same backends: {backends(database)}"
            with collector.sender() as sender:
                sender.send(series("m", 1000, first=batches * 1000))
                assert sender.sync(2) == 0
            batches += 1
    assert not crowd.errors
    assert collector.stop() == 0
    assert len(collector.find("batch_stored", direct_compress=True)) == batches
    rows = batches * 1000
    assert database.rows("SELECT count(*), count(DISTINCT value) FROM metrics") == [(rows, rows)]
    # nothing is left behind on a backend that another client gets
    connection = psycopg2.connect(pooler.uri(database.name))
    with connection.cursor() as cursor:
        for _ in range(6):
            cursor.execute(
                "SELECT current_setting('timescaledb.enable_direct_compress_copy'),"
                " current_setting('lock_timeout'), current_setting('transaction_read_only')"
            )
            assert cursor.fetchall() == [("off", "0", "off")]
            connection.rollback()
    connection.close()
    timescale_cluster.execute(f'DROP DATABASE "{database.name}" WITH (FORCE)')


# ---- faults ----


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1, 3])
def test_pooler_is_killed_under_load(database, new_pooler, new_collector, connections):
    pooler = new_pooler(database.cluster.port, default_pool_size=2)
    collector = start_through(
        new_collector, pooler, database.name, database__connections=connections
    )
    with Load(collector.address, level=1) as load:
        for _ in range(4):
            load.wait_more(10)
            pooler.kill9()
            mark = collector.mark()
            load.wait_more(5)  # it goes on receiving
            collector.wait_event("database_unavailable", since=mark)
            mark = collector.mark()
            pooler.start()
            collector.wait_event("batch_stored", since=mark)
    finish(collector, database, load)


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1, 3])
def test_console_commands_under_load(database, new_pooler, new_collector, connections):
    pooler = new_pooler(database.cluster.port, default_pool_size=2)
    collector = start_through(
        new_collector, pooler, database.name, database__connections=connections
    )
    remember_backends(database)
    with Load(collector.address, level=1) as load:
        for _ in range(3):
            load.wait_more(10)
            pooler.ask("PAUSE")  # answered when no transaction is left
            stored = database.count()
            load.wait_more(10)
            assert database.count() == stored
            pooler.ask("RESUME")
            wait_until(lambda: database.count() > stored, 30, "more rows")
            before = set(backends(database))
            pooler.ask("RECONNECT")
            wait_until(lambda: set(backends(database)) - before, 30, "another backend")
    finish(collector, database, load)
    assert not collector.find("database_unavailable")


@pytest.mark.parametrize("how", ["fast", "immediate", "kill9"])
def test_server_restarts_behind_the_pooler(own_cluster, new_pooler, new_collector, how):
    own_cluster.settings["fsync"] = "on"
    own_cluster.start()
    database = own_cluster.database("postgres")
    pooler = new_pooler(own_cluster.port, default_pool_size=2)
    collector = start_through(new_collector, pooler, database.name, database__connections=3)
    with Load(collector.address, level=2) as load:
        load.wait_more(10)
        if how == "kill9":
            own_cluster.kill9()
            own_cluster.start()
        else:
            own_cluster.restart(how)
        load.wait_more(10)
    finish(collector, database, load)


@pytest.fixture(params=["before the pooler", "behind the pooler"])
def cut_line(request, database, new_pooler):
    """A proxy that cuts, and the address by which a collector goes through it and a pooler."""
    if request.param == "before the pooler":
        pooler = new_pooler(database.cluster.port, default_pool_size=2)
        proxy = Proxy(pooler.port)
        port = proxy.port
    else:
        proxy = Proxy(database.cluster.port)
        pooler = new_pooler(proxy.port, default_pool_size=2)
        port = pooler.port
    yield proxy, f"postgresql://postgres@127.0.0.1:{port}/{database.name}?sslmode=disable"
    proxy.close()


def test_answer_to_the_commit_is_lost(cut_line, database, new_collector):
    """The server has committed; the daemon never hears it, and asks another backend next."""
    proxy, uri = cut_line
    collector = new_collector(database__uri=uri, batch__interval=3600).start()
    collector.wait_event("database_connected")
    lose_commit_answers(collector, proxy, database)


# A batch of 2,000 rows is about 90,000 bytes up, and 200 to 400 down.
CUTS = [*(("up", n) for n in (0, 10, 300, 700, 2000, 40000, 80000))]
CUTS += [*(("down", n) for n in range(0, 400, 25))]


@pytest.mark.slow
def test_connection_cut_under_load(cut_line, database, new_collector):
    proxy, uri = cut_line
    collector = new_collector(database__uri=uri, buffer__sync="never", **FAST).start()
    collector.wait_event("database_connected")
    with Load(collector.address) as load:
        for number, (direction, count) in enumerate(CUTS, 1):
            proxy.cut_after(direction, count)
            proxy.wait_cut(number)
        load.wait_more(5)
    finish(collector, database, load)


# ---- at the door ----


@pytest.mark.parametrize("auth", ["scram-sha-256", "md5"])
def test_passwords(database, new_pooler, new_collector, auth):
    pooler = new_pooler(database.cluster.port, users={"postgres": "secret"}, auth_type=auth)
    for uri in (pooler.uri(database.name, password="wrong"), pooler.uri(database.name)):
        collector = new_collector(database__uri=uri, **FAST).start()
        collector.send(series("m", 100))
        event = collector.wait_event("database_unavailable")
        assert event["level"] == "error"
        assert "password" in event["hint"]
        assert "wrong" not in collector.log_text()
        assert collector.statistics()["dropped"] == 0
        collector.stop_at_once()
    collector = start_through(
        new_collector, pooler, database.name, database__uri=pooler.uri(database.name, password="secret")
    )
    database.wait_count(200)
    assert collector.stop() == 0


def test_user_that_the_pooler_does_not_know(database, new_pooler, new_collector):
    pooler = new_pooler(database.cluster.port)
    collector = new_collector(database__uri=pooler.uri(database.name, user="stranger")).start()
    event = collector.wait_event("database_unavailable")
    assert event["level"] == "error"
    assert event["sqlstate"] == "28000"
    assert "auth_file" in event["hint"]


@pytest.fixture
def missing(cluster):
    """A name that no database has yet."""
    name = cluster.unused_name()
    yield cluster.database(name)
    cluster.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def test_missing_database_is_created(missing, new_pooler, new_collector):
    """By way of a pooler that leads to any: it takes the new one in after server_login_retry."""
    pooler = new_pooler(missing.cluster.port)
    collector = new_collector(database__uri=pooler.uri(missing.name), **FAST).start()
    collector.send(series("m", 100))
    collector.wait_event("database_connected", timeout=60)
    missing.wait_count(100)
    assert collector.stop() == 0
    assert not collector.find("database_unavailable", level="error")


def test_missing_database_that_must_not_be_created(missing, new_pooler, new_collector):
    pooler = new_pooler(missing.cluster.port)
    collector = new_collector(
        database__uri=pooler.uri(missing.name), database__create=False, **FAST
    ).start()
    collector.send(series("m", 100))
    event = collector.wait_event("database_unavailable", level="error")
    assert event["sqlstate"] == "3D000"
    assert missing.name in event["error"]
    assert "create the database" in event["hint"]
    assert collector.statistics()["dropped"] == 0
    missing.cluster.create_database(missing.name)
    missing.wait_count(100)
    assert collector.stop() == 0


def test_pooler_with_a_list_of_databases(missing, new_pooler, new_collector):
    """One that it does not name cannot be reached, nor is it created behind its back."""
    pooler = new_pooler(missing.cluster.port, databases={"postgres": ""})
    collector = new_collector(database__uri=pooler.uri(missing.name), **FAST).start()
    collector.send(series("m", 100))
    event = collector.wait_event("database_unavailable")
    assert event["level"] == "error"
    assert missing.name in event["error"]
    assert "pgbouncer.ini" in event["hint"]
    assert collector.statistics()["dropped"] == 0
    sql = "SELECT count(*) FROM pg_database WHERE datname = '%s'" % missing.name
    assert missing.cluster.execute(sql) == [(0,)]
    pooler.databases[missing.name] = ""
    pooler.reload()
    missing.wait_count(100)
    assert collector.stop() == 0


def test_pooler_that_leads_to_no_other_database(missing, new_pooler, new_collector):
    """Then there is no door by which one could be created."""
    pooler = new_pooler(missing.cluster.port, databases={missing.name: ""})
    collector = new_collector(database__uri=pooler.uri(missing.name), **FAST).start()
    collector.send(series("m", 100))
    event = collector.wait_event("database_unavailable", level="error")
    assert "create the database" in event["hint"]
    assert collector.statistics()["dropped"] == 0
    missing.cluster.create_database(missing.name)
    missing.wait_count(100)
    assert collector.stop() == 0


def test_startup_parameter_that_the_pooler_refuses(database, new_pooler, new_collector):
    pooler = new_pooler(database.cluster.port)
    uri = pooler.uri(database.name) + "?options=-c%20geqo%3Doff"
    collector = new_collector(database__uri=uri, **FAST).start()
    collector.send(series("m", 100))
    event = collector.wait_event("database_unavailable")
    assert event["level"] == "error"
    assert "ignore_startup_parameters" in event["hint"]
    pooler.settings["ignore_startup_parameters"] = "options"
    pooler.reload()
    database.wait_count(100)
    assert collector.stop() == 0


# ---- failover ----


@pytest.mark.slow
@pytest.mark.parametrize("first", ["primary", "standby"])
def test_standby_with_a_pooler_of_its_own(pair, new_pooler, new_collector, first):
    """A pooler repeats what its server said when it was a standby; what counts is what it is now."""
    primary, standby = pair
    primary.make_synchronous()
    # a transaction that waits for a server that is gone is let go of after query_wait_timeout
    limits = {"default_pool_size": 2, "query_wait_timeout": 3}
    poolers = [new_pooler(server.port, **limits) for server in pair]
    for pooler in poolers:
        psycopg2.connect(pooler.uri("postgres")).close()
    ports = [str(pooler.port) for pooler in poolers]
    if first == "standby":
        ports.reverse()
    collector = start_through(
        new_collector,
        poolers[0],
        "postgres",
        database__uri="host=127.0.0.1,127.0.0.1 user=postgres dbname=postgres"
        f" port={','.join(ports)} target_session_attrs=read-write",
        database__connections=2,
    )
    with Load(collector.address, level=2) as load:
        load.wait_more(10)
        primary.kill9()
        standby.promote()
        load.wait_more(10)
    finish(collector, standby.database("postgres"), load)


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_pooler_leads_to_a_server_that_misses_commits(pair, new_pooler, new_collector, busy):
    """The connection to the pooler stands all the while; kept batches are stored again."""
    primary, standby = pair
    database = standby.database("postgres")
    pooler = new_pooler(primary.port, default_pool_size=2)
    collector = start_through(
        new_collector,
        pooler,
        "postgres",
        buffer__keep="10 minutes",
        database__connections=2,
    )

    def fail_over():
        pooler.ask("PAUSE")
        killed = primary.execute("SELECT clock_timestamp()")[0][0]
        primary.kill9()
        standby.promote()
        pooler.lead_to(standby.port)
        stored = {e["batch"] for e in collector.find("batch_stored")}
        mark = collector.mark()
        pooler.ask("RESUME")
        requeued = collector.wait_event("batches_requeued", since=mark, timeout=60)
        missing = stored - ledger_of(database, before=killed)
        assert requeued["count"] >= len(missing) >= 1
        wait_until(lambda: stored <= ledger_of(database), 60, "what was missing is stored")

    with Load(collector.address, level=2) as load:
        load.wait_more(10)
        standby.wait_replayed()
        standby.fall_behind()
        load.wait_more(10)
        if busy:
            fail_over()
            load.wait_more(10)
    if not busy:
        settle(collector)
        fail_over()
    settle(collector)
    assert collector.stop() == 0
    assert_all_there_once(database, load)
