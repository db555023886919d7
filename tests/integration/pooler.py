"""A private PgBouncer in transaction mode, in front of one of the tests' own servers."""
import os
import shutil
import signal
import subprocess
import tempfile

import psycopg2

import processes
from cluster import free_port, unprivileged_user
from waiting import seconds, wait_until


def pgbouncer_path():
    """The program, or None; /usr/sbin is not in everybody's PATH."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class Pooler:
    """
    Leads to the server on 127.0.0.1:target_port: any database, or those of which databases has
    parameters; users have passwords.  A server connection goes to the end of the queue when a transaction
    ends, so that the next one of the same client meets another as soon as there are several.
    """

    def __init__(self, target_port, databases=None, users=None, **settings):
        self.user = unprivileged_user()
        self.directory = tempfile.mkdtemp(prefix="mc-pgbouncer-")
        self.port = free_port()
        self.target_port = target_port
        self.databases = databases or {"*": ""}
        self.users = {"postgres": "", **(users or {})}
        self.settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "pool_mode": "transaction",
            "server_round_robin": 1,
            "server_login_retry": 1,
            "auth_type": "trust",
            "auth_file": os.path.join(self.directory, "users"),
            "admin_users": "postgres",
            **settings,
        }
        self.process = None
        if self.user:
            os.chown(self.directory, self.user.pw_uid, self.user.pw_gid)

    @property
    def ini_path(self):
        return os.path.join(self.directory, "pgbouncer.ini")

    @property
    def log_path(self):
        return os.path.join(self.directory, "log")

    def _write(self, path, lines):
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def _configure(self):
        databases = [
            f"{name} = host=127.0.0.1 port={self.target_port} {more}"
            for name, more in self.databases.items()
        ]
        settings = [f"{key} = {value}" for key, value in self.settings.items()]
        self._write(self.ini_path, ["[databases]", *databases, "[pgbouncer]", *settings])
        users = [f'"{name}" "{password}"' for name, password in self.users.items()]
        self._write(self.settings["auth_file"], users)

    # ---- the process ----

    def start(self):
        self._configure()
        user = {}
        if self.user:
            user = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [pgbouncer_path(), self.ini_path],
                **user,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=processes.die_with_parent(),
            )
        wait_until(self._answers, 30, self.log)
        return self

    def _answers(self):
        assert self.process.poll() is None, self.log()
        try:
            self.ask("SHOW VERSION")
            return True
        except psycopg2.OperationalError:
            return False

    def kill9(self):
        self.process.kill()
        self.process.wait(seconds(30))
        self.process = None

    def remove(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.kill9()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()[-4000:]

    # ---- its console ----

    def ask(self, command):
        """Rows as dictionaries; PAUSE and its like return once they have taken effect."""
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            dbname="pgbouncer",
            user="postgres",
            password=self.users["postgres"] or None,
            connect_timeout=int(seconds(10)),
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(command)
                if not cursor.description:
                    return []
                names = [column.name for column in cursor.description]
                return [dict(zip(names, row)) for row in cursor.fetchall()]
        finally:
            connection.close()

    def reload(self):
        self._configure()
        self.ask("RELOAD")

    def lead_to(self, port):
        """Another server takes the place of this one; clients stay connected."""
        self.target_port = port
        self.reload()

    # ---- ways through it ----

    def uri(self, name, user="postgres", password=""):
        login = f"{user}:{password}" if password else user
        return f"postgresql://{login}@127.0.0.1:{self.port}/{name}"
