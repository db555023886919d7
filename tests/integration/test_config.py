"""Settings: the file, the environment, -o, and how errors are told."""
import os
import subprocess

import pytest

import wire
from cluster import free_port
from collector import environment
from programs import ROOT, daemon_path
from waiting import seconds
from wire import frame


def run(*args, env=None):
    """Returns the exit status and everything that was printed."""
    result = subprocess.run(
        [daemon_path(), *args],
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds(20),
    )
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def conf_file(tmp_path):
    def write(text):
        path = tmp_path / "test.conf"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# The sample of the design, which is also what the manual shows.
EVERYTHING = """
listen             = {"0.0.0.0:9999"}       # HOST:PORT, [V6]:PORT, or unix:/path
max_clients        = 10000
client_timeout     = 0
max_invalid_frames = 100
allow              = {}

batch {
    interval  = 5
    max_rows  = 100000
    max_bytes = "16M"
}
buffer {
    memory_limit = "256M"
    spool        = "/var/lib/metric-collectord/spool"
    spool_limit  = "8G"
    sync         = "interval"
    overflow     = "block"
    keep         = "0"
}
timestamps {
    max_age    = ""
    max_future = ""
}
database {
    uri             = "sqlite:/var/lib/metric-collectord/metrics.db"
    password_file   = ""
    connections     = 1
    create          = true
    migrate         = true
    connect_timeout = 5
    ledger_keep     = "1 day"
    timescaledb     = "auto"
    citus           = "off"
}
table {
    chunk_interval  = "1 day"
    retention       = ""
    compress_after  = "7 days"
    rollups         = {}
    direct_compress = "off"
    max_new_chunks  = 16
}
log {
    level   = "info"
    target  = "auto"
    metrics = false
}
"""

GOOD = {
    "everything": EVERYTHING,
    "empty": "",
    "comments": "# one\n// two\n/* three */\nmax_clients = 5\n",
    "addresses": 'listen = {"127.0.0.1:9999", "[::1]:9999", "unix:/run/x.sock", "*:1"}\n',
    "networks": 'allow = {"10.0.0.0/8", "192.0.2.1", "2001:db8::/32"}\n',
    "units": 'batch { max_bytes = "1.5M" }\ntimestamps { max_age = "30 days" max_future = "1 hour" }\n',
    "fraction": "batch { interval = 0.25 }\n",
    "rollups": 'database { uri = "host=db" }\ntable { rollups = {"1 minute", "1 hour"} retention = "90 days" }\n',
    "key value": 'database { uri = "host=db dbname=metrics_db user=collector" }\n',
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_good_file(conf_file, text):
    path = conf_file(text)
    assert run("-t", "-c", path) == (0, f"{path}: configuration OK\n")


def test_installed_sample_is_good():
    path = os.path.join(ROOT, "metric-collectord.conf")
    assert run("-t", "-c", path) == (0, f"{path}: configuration OK\n")


BAD = {
    "integer below its range": ("max_clients = 0", 1, "max_clients"),
    "integer above its range": ("max_clients = 1000001", 1, "max_clients"),
    "word for an integer": ('max_clients = "many"', 1, "max_clients"),
    "unknown key": ("nonsense = 1", 1, "nonsense"),
    "unknown key in a section": ("batch {\n\n  nonsense = 1\n}", 3, "nonsense"),
    "unknown section": ("\nnonsense {\n}", 2, "nonsense"),
    "key of another section": ("log {\n  interval = 1\n}", 2, "interval"),
    "negative seconds": ("batch {\n  interval = -1\n}", 2, "batch.interval"),
    "interval of nothing": ("batch {\n  interval = 0\n}", 2, "batch.interval"),
    "no size": ('batch {\n  max_bytes = "lots"\n}', 2, "batch.max_bytes"),
    "size below its range": ('batch {\n  max_bytes = "1"\n}', 2, "batch.max_bytes"),
    "no address": ('listen = {"nonsense"}', 1, "listen"),
    "port past 65535": ('listen = {"127.0.0.1:65536"}', 1, "listen"),
    "host name": ('listen = {"example.com:9999"}', 1, "listen"),
    "unknown scheme": ('listen = {"carrier-pigeon://0.0.0.0:1"}', 1, "carrier-pigeon"),
    "second of two addresses": ('listen = {"127.0.0.1:1",\n"127.0.0.1"}', None, "listen"),
    "host bits of a network": ('allow = {"10.0.0.1/8"}', 1, "allow"),
    "too many bits": ('allow = {"10.0.0.0/33"}', 1, "allow"),
    "no choice of overflow": ('buffer {\n  overflow = "explode"\n}', 2, "buffer.overflow"),
    "no choice of sync": ('buffer {\n  sync = "sometimes"\n}', 2, "buffer.sync"),
    "relative spool": ('buffer {\n  spool = "here"\n}', 2, "buffer.spool"),
    "no duration": ('timestamps {\n  max_age = "3 fortnights"\n}', 2, "timestamps.max_age"),
    "unknown database": ('database {\n  uri = "mysql://x"\n}', 2, "database.uri"),
    "broken url": ('database {\n  uri = "postgresql://[::1"\n}', 2, "database.uri"),
    "unknown libpq key": ('database {\n  uri = "hots=x"\n}', 2, "database.uri"),
    "no connections": ("database {\n  connections = 0\n}", 2, "database.connections"),
    "no boolean": ("database {\n  create = 7\n}", 2, "database.create"),
    "no choice of timescaledb": ('database {\n timescaledb = "so"\n}', 2, "database.timescaledb"),
    "no log level": ('log {\n  level = "loud"\n}', 2, "log.level"),
    "behind comments": ("# a comment\n\n/* and\nanother */\nmax_clients = 0", 5, "max_clients"),
    "no equals sign": ("batch {\n  interval = 1\n}\nmax_clients 5\n", 4, ""),
    "section without an end": ("batch {\n  interval = 1\n", None, ""),
    "string without an end": ('log {\n  level = "info\n}\n', None, ""),
}


@pytest.mark.parametrize("text, line, key", BAD.values(), ids=BAD.keys())
def test_bad_file(conf_file, text, line, key):
    path = conf_file(text + "\n")
    status, output = run("-t", "-c", path)
    assert status == 1
    assert f"{path}:{line}: " in output if line else f"{path}:" in output
    assert key in output
    assert "configuration OK" not in output
    status, again = run("-c", path)
    assert status == 2
    assert again == output


def test_every_error_is_told(conf_file):
    path = conf_file('max_clients = 0\nbatch {\n  interval = 0\n}\nlog {\n  level = "x"\n}\n')
    _, output = run("-t", "-c", path)
    for line in (1, 3, 6):
        assert f"{path}:{line}: " in output


BAD_ENVIRONMENT = {
    "DB_PORT": "abc",
    "TCP_PORT": "65536",
    "BATCH_INTERVAL": "-1",
    "LOG_LEVEL": "loud",
    "DATABASE_URL": "mysql://x",
}


@pytest.mark.parametrize("name, value", BAD_ENVIRONMENT.items())
def test_bad_environment(conf_file, name, value):
    status, output = run("-t", "-c", conf_file(""), env={name: value})
    assert status == 1
    assert name in output


@pytest.mark.parametrize(
    "option", ["nonsense=1", "batch.interval", "batch.interval=x", "batch=1", "max_clients=0", ""]
)
def test_bad_option(conf_file, option):
    path = conf_file("")
    status, output = run("-t", "-c", path, "-o", option)
    assert status == 1
    assert "-o" in output and option.partition("=")[0] in output
    assert run("-c", path, "-o", option)[0] == 2


def test_secrets_are_not_shown(conf_file):
    uri = "postgresql://user:hunter2@[::1"
    path = conf_file(f'database {{\n  uri = "{uri}"\n}}\n')
    status, output = run("-t", "-c", path)
    assert status == 1
    assert "hunter2" not in output


def test_missing_file(tmp_path):
    path = str(tmp_path / "missing.conf")
    status, output = run("-t", "-c", path)
    assert status == 1
    assert path in output
    assert run("-c", path)[0] == 2


def test_command_line():
    assert run("-V")[0] == 0 and run("-V")[1].startswith("metric-collectord ")
    status, text = run("-h")
    assert status == 0
    for option in ("-c", "-o", "-t", "-V", "-h"):
        assert option in text
    assert run("-x")[0] == 2
    assert run("surplus")[0] == 2


# ---- where settings come from ----


def test_environment_of_the_description(start_collector, database):
    port = free_port()
    collector = start_collector(
        listen=None,
        database__uri=None,
        batch__interval=3600,
        env={
            "DB_HOST": "127.0.0.1",
            "DB_PORT": str(database.cluster.port),
            "DB_NAME": database.name,
            "DB_USER": "postgres",
            "DB_PASSWORD": "ignored by trust",
            "TCP_HOST": "127.0.0.1",
            "TCP_PORT": str(port),
            "BATCH_INTERVAL": "0.2",
        },
    )
    assert collector.addresses == [f"127.0.0.1:{port}"]
    collector.send(frame("m", 1))
    database.wait_count(1)
    assert "ignored by trust" not in collector.log_text()


def test_any_of_them_selects_postgresql(start_collector, own_cluster):
    """The others have defaults: the user postgres and the database metrics_db."""
    port = str(own_cluster.start().port)
    collector = start_collector(
        database__uri=None, env={"DB_PORT": port, "PGCONNECT_TIMEOUT": "5"}
    )
    collector.send(frame("m", 1))
    own_cluster.database("metrics_db").wait_count(1)


def test_password_from_the_environment(start_collector, own_cluster):
    own_cluster.start()
    password = "it's a \\ 'secret' %40"
    doubled = password.replace("'", "''")
    own_cluster.execute(f"CREATE ROLE writer LOGIN SUPERUSER PASSWORD '{doubled}'")
    own_cluster.require_password("writer")
    database = own_cluster.create_database()
    collector = start_collector(
        database__uri=None,
        env={
            "DB_HOST": "127.0.0.1",
            "DB_PORT": str(own_cluster.port),
            "DB_NAME": database.name,
            "DB_USER": "writer",
            "DB_PASSWORD": password,
        },
    )
    collector.send(frame("m", 1))
    database.wait_count(1)
    assert password not in collector.log_text()


def test_database_url(start_collector, database):
    collector = start_collector(env={"DATABASE_URL": database.uri})
    collector.send(frame("m", 1))
    database.wait_count(1)


def test_log_level_of_the_environment(start_collector, sqlite_store):
    collector = start_collector(sqlite_store, env={"LOG_LEVEL": "debug"})
    collector.send(frame("m", 1))
    collector.wait_event("client_connected")


def test_precedence(start_collector, tmp_path):
    """Default < file < environment < -o."""
    path = f"unix:{tmp_path}/from-option"
    in_environment = {"TCP_HOST": "127.0.0.1", "TCP_PORT": str(free_port())}
    by_file = start_collector(name="file", listen=[f"unix:{tmp_path}/from-file"])
    assert by_file.addresses == [f"unix:{tmp_path}/from-file"]
    by_environment = start_collector(name="environment", env=in_environment)
    assert by_environment.addresses == [f"127.0.0.1:{in_environment['TCP_PORT']}"]
    by_option = start_collector(name="option", env=in_environment, options=[f"listen={path}"])
    assert by_option.addresses == [path]


def test_lists_in_options(start_collector, tmp_path):
    path = f"unix:{tmp_path}/socket"
    collector = start_collector(options=[f"listen=127.0.0.1:0,{path}"])
    assert sorted(a.partition(":")[0] for a in collector.addresses) == ["127.0.0.1", "unix"]
    for address in collector.addresses:
        with wire.Sender(address) as sender:
            sender.send(frame("m", 1))
            assert sender.finish() == b""
    collector.wait_statistics(received=2)


def test_the_last_option_wins(start_collector, sqlite_store):
    options = ["batch.interval=3600", "batch.interval=0.1"]
    collector = start_collector(sqlite_store, options=options)
    collector.send(frame("m", 1))
    sqlite_store.wait_count(1)


def test_a_port_that_is_taken(new_collector):
    first = new_collector(name="first").start()
    second = new_collector(name="second", listen=[first.address])
    second.start(wait="listen_failed")
    assert second.wait() == 1
    assert second.find("listen_failed")[0]["address"] == first.address


def test_a_spool_that_is_in_use(new_collector, tmp_path):
    spool = tmp_path / "spool"
    new_collector(name="first", buffer__spool=spool).start()
    second = new_collector(name="second", buffer__spool=spool).start(wait="spool_failed")
    assert second.wait() == 1
