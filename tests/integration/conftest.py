"""Fixtures: servers, databases, and collectors that are checked when a test ends."""
import os
import resource
import time

import pytest

import cluster as cluster_module
import hostile
from citus import CitusCluster
from cluster import Cluster, Sqlite, Standby
from collector import Collector
from notify import NotifySocket
from pooler import Pooler, pgbouncer_path
from waiting import seconds, wait_until

DAY = 86400


def pytest_collection_modifyitems(items):
    if hostile.clock() is None:
        return
    skip = pytest.mark.skip(reason="skipped: it needs a database that nobody has changed")
    for item in items:
        if item.get_closest_marker("tidy"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def descriptor_limit():
    """Tests with thousands of clients hold the other ends themselves."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@pytest.fixture(scope="session")
def postgres_bindir():
    bindir = cluster_module.server_directory()
    if not bindir:
        pytest.skip("skipped: PostgreSQL server is not installed")
    return bindir


@pytest.fixture(scope="session")
def cluster(postgres_bindir):
    """Shared by all tests: nobody stops it or changes its roles without cleaning up."""
    shared = Cluster(postgres_bindir).start()
    yield shared
    shared.remove()


@pytest.fixture
def own_cluster(postgres_bindir):
    """For tests that stop, kill or restart it; not started."""
    own = Cluster(postgres_bindir)
    yield own
    own.remove()


@pytest.fixture
def pair(own_cluster):
    """A primary and a standby that follows it, both running."""
    with open(os.path.join(own_cluster.data, "postgresql.conf"), "a", encoding="utf-8") as file:
        file.write("wal_level = replica\nmax_wal_senders = 4\n")
    own_cluster.start()
    standby = Standby(own_cluster)
    try:
        standby.start()
        wait_until(standby.follows, 30, "the standby follows")
        yield own_cluster, standby
    finally:
        standby.remove()


@pytest.fixture(scope="session")
def timescale_cluster(postgres_bindir):
    if not cluster_module.has_extension(postgres_bindir, "timescaledb"):
        pytest.skip("skipped: TimescaleDB is not installed")
    shared = Cluster(postgres_bindir, **cluster_module.TIMESCALE_SETTINGS).start()
    yield shared
    shared.remove()


@pytest.fixture(scope="session")
def citus_cluster(postgres_bindir):
    if not cluster_module.has_extension(postgres_bindir, "citus"):
        pytest.skip("skipped: Citus is not installed")
    shared = CitusCluster(postgres_bindir).start()
    yield shared
    shared.remove()


@pytest.fixture
def database(cluster):
    fresh = cluster.create_database()
    yield fresh
    cluster.execute(f'DROP DATABASE "{fresh.name}" WITH (FORCE)')


@pytest.fixture
def role(cluster, database):
    """One that may log in, and nothing else; its rights in database, and what it owns there, go with it."""
    name = "role_" + cluster.unused_name()
    cluster.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    database.execute(f"DROP OWNED BY {name}")
    cluster.execute(f"DROP ROLE {name}")


@pytest.fixture
def sqlite_store(tmp_path):
    return Sqlite(tmp_path / "metrics.db")


@pytest.fixture(params=["postgres", "sqlite"])
def store(request):
    """The test runs once on each."""
    return request.getfixturevalue("database" if request.param == "postgres" else "sqlite_store")


@pytest.fixture
def new_collector(tmp_path):
    """
    Makes a collector, not started.  Keys of the configuration with a dot are given as
    section__name; a second one with the same name lives in the same directory, on the same spool.
    """
    made = []

    def make(store=None, name="collector", env=None, options=(), launcher=(), pass_fds=(), **conf):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        settings = {
            "listen": ["127.0.0.1:0"],
            "batch.interval": 0.2,
            "buffer.spool": directory / "spool",
            "database.uri": store.uri if store else f"sqlite:{directory}/metrics.db",
            "database.connect_timeout": 60,  # a server that is slow is not away
            "database.timescaledb": "off",
            "log.target": "stderr",
        }
        settings.update({key.replace("__", "."): value for key, value in conf.items()})
        settings = {key: value for key, value in settings.items() if value is not None}
        env = {**hostile.environment(), **(env or {})}
        one = Collector(str(directory), settings, env, options, launcher, pass_fds)
        made.append(one)
        return one

    yield make
    errors = []
    for one in made:
        try:
            one.finish()
        except AssertionError as error:
            errors.append(str(error))
    assert not errors, "\n\n".join(errors)


@pytest.fixture
def start_collector(new_collector):
    def start(store=None, wait="ready", **settings):
        return new_collector(store, **settings).start(wait)

    return start


@pytest.fixture
def same_day():
    """For tests that count the days' partitions: midnight is far enough away."""
    last = DAY - seconds(60)
    wait_until(lambda: time.time() % DAY < last, 90, "midnight")


@pytest.fixture
def notify_socket(tmp_path):
    sock = NotifySocket(tmp_path / "notify")
    yield sock
    sock.close()


@pytest.fixture
def new_pooler():
    """Starts one in front of a port; see Pooler."""
    if not pgbouncer_path():
        pytest.skip("skipped: pgbouncer is not installed")
    made = []

    def make(port, **settings):
        made.append(Pooler(port, **settings))
        return made[-1].start()

    yield make
    for pooler in made:
        pooler.remove()
