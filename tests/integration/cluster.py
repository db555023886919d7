"""Private PostgreSQL servers in temporary directories, and questions to databases."""
import atexit
import functools
import glob
import os
import pwd
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import urllib.parse

import psycopg2

import hostile
import processes
from waiting import seconds, wait_until

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "60",
    "autovacuum": "off",  # it would take locks when it likes
    "shared_buffers": "64MB",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
# Without a scheduler: its jobs would compress and drop what a test is just looking at.
TIMESCALE_SETTINGS = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.max_background_workers": "0",
    "timescaledb.telemetry_level": "off",
}


def server_directory():
    """Where initdb and postgres are, or None."""
    candidates = [os.environ.get("PG_BINDIR") or ""]
    for pattern in ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"):
        candidates += sorted(glob.glob(pattern), key=version_of, reverse=True)
    in_path = shutil.which("postgres")
    if in_path:
        candidates.append(os.path.dirname(in_path))
    for directory in candidates:
        if directory and all(
            os.access(os.path.join(directory, name), os.X_OK) for name in ("initdb", "postgres")
        ):
            return directory
    return None


def version_of(path):
    digits = "".join(c if c.isdigit() else " " for c in path).split()
    return int(digits[0]) if digits else 0


def has_extension(bindir, name):
    share = subprocess.run(
        [os.path.join(bindir, "pg_config"), "--sharedir"], capture_output=True, text=True
    ).stdout.strip() or os.path.join("/usr/share/postgresql", str(version_of(bindir)))
    return os.path.exists(os.path.join(share, "extension", f"{name}.control"))


class Ports:
    """
    Ports that nobody gets by chance: none of those that the kernel gives away, and each with a socket of
    its number in the abstract namespace, which other test runs on this machine respect, until we end.
    """

    def __init__(self):
        self.locks = []
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="utf-8") as file:
            first, last = map(int, file.read().split())
        ports = range(10000, 65536)
        candidates = [port for port in ports if not first <= port <= last] or ports
        self.candidates = iter(random.sample(candidates, len(candidates)))

    def take(self):
        return next(port for port in self.candidates if self._lock(port))

    def _lock(self, port):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0metric-collectord-test-port-{port}")
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("0.0.0.0", port))
        except OSError:
            lock.close()
            return False
        self.locks.append(lock)
        return True


@functools.lru_cache
def ports():
    return Ports()


def free_port():
    """Nobody listens there, and nobody will but who has asked for it here."""
    return ports().take()


def unprivileged_user():
    """PostgreSQL does not run as root; None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise AssertionError("neither postgres nor nobody is a user here")


class Template:
    """initdb takes a second; copies of what it made do not."""

    def __init__(self):
        self.made = {}

    def data(self, bindir, user):
        if bindir not in self.made:
            directory = tempfile.mkdtemp(prefix="mc-pg-template-")
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            if user.get("user"):
                os.chown(directory, user["user"], user["group"])
            self.made[bindir] = os.path.join(directory, "data")
            self._initdb(bindir, user, self.made[bindir])
        return self.made[bindir]

    @staticmethod
    def _initdb(bindir, user, data):
        result = subprocess.run(
            [
                *(os.path.join(bindir, "initdb"), "-D", data, "-U", "postgres", "-A", "trust"),
                *("--no-sync", "-E", "UTF8", "--locale=C"),
            ],
            **user,
            cwd=os.path.dirname(data),
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr


class Queries:
    """What tests ask any store; each question opens its own connection."""

    def value(self, sql, *args):
        return self.rows(sql, *args)[0][0]

    def count(self, table="metrics"):
        return self.value(f"SELECT count(*) FROM {table}")

    def wait_value(self, expected, sql, *args, timeout=30):
        seen = []

        def equal():
            try:
                seen.append(self.value(sql, *args))
            except self.not_yet as error:
                seen.append(error)
            return seen[-1] == expected

        wait_until(equal, timeout, lambda: f"{sql} = {expected}, but {seen[-1]}")

    def wait_count(self, expected, table="metrics", timeout=30):
        self.wait_value(expected, f"SELECT count(*) FROM {table}", timeout=timeout)


class Sqlite(Queries):
    not_yet = (sqlite3.Error,)
    ledger = "metric_collectord_batches"
    rejected = "metric_collectord_rejected"

    def __init__(self, path):
        self.path = str(path)
        self.uri = "sqlite:" + self.path

    def rows(self, sql, *args):
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=seconds(10))
        try:
            return connection.execute(sql, args).fetchall()
        finally:
            connection.close()


class Database(Queries):
    not_yet = (psycopg2.OperationalError, psycopg2.errors.UndefinedTable)
    ledger = "metric_collectord.batches"
    rejected = "metric_collectord.rejected"

    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        self.uri = self.uri_for(hostile.role())

    def uri_for(self, user, password=None):
        login = user if password is None else f"{user}:{urllib.parse.quote(password, safe='')}"
        return f"postgresql://{login}@127.0.0.1:{self.cluster.port}/{self.name}"

    def connect(self):
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.cluster.port,
            dbname=self.name,
            user="postgres",
            connect_timeout=int(seconds(10)),
        )
        connection.autocommit = True
        return connection

    def rows(self, sql, *args):
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, args or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def execute(self, sql, *args):
        """Again where it was the victim of a deadlock: writers lock partitions in an order of their own."""
        for left in reversed(range(5)):
            try:
                self.rows(sql, *args)
                return
            except psycopg2.errors.DeadlockDetected:
                if not left:
                    raise

    def replace_metrics(self):
        """Somebody puts a table of his own in the place of the one that migrations have shaped."""
        self.execute("ALTER TABLE metrics RENAME TO metrics_2025")
        self.execute(
            "CREATE TABLE metrics (time timestamptz NOT NULL, metric_name text NOT NULL,"
            " value float8 NOT NULL)"
        )

    def migrations(self, flavour):
        """The versions that are recorded as applied, in order."""
        sql = "SELECT version FROM metric_collectord.migrations WHERE flavour = %s ORDER BY version"
        return [version for (version,) in self.rows(sql, flavour)]


class Cluster:
    """A server: made by initdb, listening on 127.0.0.1 and on a socket in its directory."""

    template = Template()

    def __init__(self, bindir, **settings):
        self.bindir = bindir
        self.user = unprivileged_user()
        self.settings = {**SETTINGS, **settings}
        self.directory = tempfile.mkdtemp(prefix="mc-pg-")
        self.data = os.path.join(self.directory, "data")
        self.log_path = os.path.join(self.directory, "log")
        self.port = free_port()
        self.process = None
        self._databases = 0
        if self.user:
            os.chown(self.directory, self.user.pw_uid, self.user.pw_gid)
        self._make()

    def _as_user(self):
        if not self.user:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def _tool(self, name):
        return os.path.join(self.bindir, name)

    def _make(self):
        origin = self.template.data(self.bindir, self._as_user())
        subprocess.run(["cp", "-a", "--reflink=auto", origin, self.data], check=True)
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as file:
            file.write(f"port = {self.port}\nlisten_addresses = '127.0.0.1'\n")
            file.write(f"unix_socket_directories = '{self.directory}'\n")
            for key, value in self.settings.items():
                file.write(f"{key} = '{value}'\n")

    def require_password(self, user):
        """From now on, user needs one; takes effect at start or reload."""
        path = os.path.join(self.data, "pg_hba.conf")
        with open(path, encoding="utf-8") as file:
            rest = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"host all {user} 127.0.0.1/32 scram-sha-256\n" + rest)
        if self.process:
            self.execute("SELECT pg_reload_conf()")

    # ---- the process ----

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self._tool("postgres"), "-D", self.data],
                **self._as_user(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=processes.die_with_parent(signal.SIGQUIT),
            )
        wait_until(self._answers, 60, self.log)
        hostile.prepare_cluster(self)
        return self

    def _answers(self):
        assert self.process.poll() is None, self.log()
        try:
            self.execute("SELECT 1")
            return True
        except psycopg2.OperationalError:
            return False

    def stop(self, mode="fast"):
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        self.process.send_signal(signals[mode])
        self.process.wait(seconds(60))
        self.process = None

    def kill9(self):
        """The postmaster and all its children, as when the machine dies; stopped, it has no more of them."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: processes.stopped(self.process.pid), 30, "the postmaster is stopped")
        pids = [self.process.pid, *processes.children(self.process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(seconds(60))
        wait_until(lambda: not any(processes.alive(pid) for pid in pids), 30)
        self.process = None

    def restart(self, mode="fast"):
        self.stop(mode)
        return self.start()

    def make_synchronous(self):
        """From now on a commit that is answered is on a standby, too; one follows already."""
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.execute("SELECT pg_reload_conf()")
        wait_until(
            lambda: self.execute(
                "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            )
            == [(1,)],
            30,
            "the standby is a synchronous one",
        )

    def remove(self):
        if self.process:
            self.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()[-4000:]

    # ---- its databases ----

    def database(self, name):
        return Database(self, name)

    def execute(self, sql):
        return Database(self, "postgres").rows(sql)

    def unused_name(self):
        self._databases += 1
        return f"test_{self._databases}"

    def create_database(self, name=None):
        name = name or self.unused_name()
        self.execute(f'CREATE DATABASE "{name}"')
        database = Database(self, name)
        hostile.prepare_database(database)
        return database


    def rename_in_use(self, name, to):
        """Again where somebody was quick to come back."""

        def renamed():
            self.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            )
            try:
                self.execute(f'ALTER DATABASE "{name}" RENAME TO "{to}"')
                return True
            except psycopg2.errors.ObjectInUse:
                return False

        wait_until(renamed, 30, f"{name} is renamed")


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
