"""The daemon under test, as a child process whose log is read while it runs."""
import json
import os
import re
import select
import signal
import subprocess
import threading
import time

import processes
import wire
from programs import ROOT, daemon_path
from waiting import FACTOR, Deadline, seconds, wait_until

LOG_PIPE = 1 << 20  # bytes: the daemon leaves lines out when nobody reads them in time
LOG_THREAD_PATIENCE = 5  # seconds for it to write what it was given
LEVELS = {"error", "warning", "notice", "info", "debug"}
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
SANITIZER_REPORTS = (
    "ERROR: AddressSanitizer",
    "ERROR: LeakSanitizer",
    "WARNING: ThreadSanitizer",
    "runtime error:",
)
# What would reach the daemon by accident; tests give it what they mean to.
FOREIGN_ENVIRONMENT = re.compile(
    r"(DB|TCP|PG)[A-Z_]*|BATCH_INTERVAL|DATABASE_URL|LOG_LEVEL|NOTIFY_SOCKET|WATCHDOG_.*"
    r"|LISTEN_.*|JOURNAL_STREAM|CREDENTIALS_DIRECTORY"
)


def environment(extra=None):
    env = {k: v for k, v in os.environ.items() if not FOREIGN_ENVIRONMENT.fullmatch(k)}
    env.setdefault("LSAN_OPTIONS", f"suppressions={ROOT}/tests/lsan.supp:print_suppressions=0")
    env.update(extra or {})
    return env


def render_value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "{" + ", ".join(render_value(v) for v in value) + "}"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def render(conf):
    """{"max_clients": 5, "batch.interval": 1} as a configuration file."""
    lines, sections = [], {}
    for key, value in conf.items():
        section, _, name = key.rpartition(".")
        if section:
            sections.setdefault(section, []).append(f"    {name} = {render_value(value)}")
        else:
            lines.append(f"{name} = {render_value(value)}")
    for section, content in sections.items():
        lines += [f"{section} {{", *content, "}"]
    return "\n".join(lines) + "\n"


def not_json(constant):
    """Python reads NaN and Infinity; JSON has neither."""
    raise ValueError(constant)


class Collector:
    """
    conf is a dictionary of keys; options become -o KEY=VALUE; launcher is put in front of the
    command.  Everything lives in directory, so that another Collector on the same directory
    is the daemon's next start.
    """

    def __init__(self, directory, conf, env=None, options=(), launcher=(), pass_fds=()):
        self.directory = directory
        self.conf = dict(conf)
        self.env = environment(env)
        self.options = list(options)
        self.launcher = list(launcher)
        self.pass_fds = tuple(pass_fds)
        self.program = daemon_path()
        self.events = []
        self.noise = []  # what is not JSON on stderr
        self.expected_noise = None  # a launcher's
        self._changed = threading.Condition()
        self._line = b""  # the beginning of one
        self._ended = False
        self._log_tid = None
        self._log_held = False
        self._log_unread = False  # to the daemon's end, which then leaves out its last words
        self.process = None
        self.write_conf()

    # ---- the process ----

    @property
    def conf_path(self):
        return os.path.join(self.directory, "metric-collectord.conf")

    def write_conf(self, text=None, **changes):
        """Keys with a dot are given as section__name; the daemon reads it at start or reload."""
        self.conf.update({key.replace("__", "."): value for key, value in changes.items()})
        with open(self.conf_path, "w", encoding="utf-8") as file:
            file.write(render(self.conf) if text is None else text)

    def command(self):
        argv = [*self.launcher, self.program, "-c", self.conf_path]
        for option in self.options:
            argv += ["-o", option]
        return argv

    def start(self, wait="ready", terminal=None):
        """The log is a pipe, or what comes out of a terminal, given as the descriptors of its two sides."""
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=terminal[1] if terminal else subprocess.PIPE,
            pipesize=LOG_PIPE,
            env=self.env,
            pass_fds=self.pass_fds,
            preexec_fn=processes.die_with_parent(),
        )
        self._log = os.fdopen(terminal[0], "rb", buffering=0) if terminal else self.process.stderr
        if terminal:
            os.close(terminal[1])
        os.set_blocking(self._log.fileno(), False)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        if wait:
            self.wait_event(wait, timeout=30)
        return self

    @property
    def pid(self):
        return self.process.pid

    def send_signal(self, signo):
        self.process.send_signal(signo)

    def wait(self, timeout=30):
        """Waits for the end; returns the exit status."""
        status = self.process.wait(seconds(timeout))
        self.release_log()
        self._thread.join(seconds(timeout))
        return status

    def stop(self, signo=signal.SIGTERM, timeout=30):
        if self.process.poll() is None:
            self.send_signal(signo)
        return self.wait(timeout)

    def stop_at_once(self):
        """Two SIGTERMs: when a database is away and what becomes of the rest does not matter."""
        mark = self.mark()
        self.send_signal(signal.SIGTERM)
        self.wait_event("stopping", since=mark)
        self.send_signal(signal.SIGTERM)
        return self.wait()

    def kill9(self):
        self.process.kill()
        return self.wait()

    # ---- the log ----

    def _read(self):
        readable = select.poll()
        readable.register(self._log, select.POLLIN)
        while not self._ended:
            readable.poll()
            with self._changed:
                self._changed.wait_for(lambda: not self._log_held)
                self._take()
        self._log.close()  # here, or poll() would wait for whoever gets its number

    def _take(self):
        """
        Everything that the daemon has written by now.  The lock is held.  Who looks for an event calls it,
        too: this thread may be late.
        """
        while self.process and not self._ended and not self._log_held:
            try:
                data = os.read(self._log.fileno(), 1 << 16)
            except BlockingIOError:
                return
            except OSError:  # a terminal whose other side is closed
                data = b""
            *lines, self._line = (self._line + data).split(b"\n")
            if not data:
                lines = [self._line] if self._line and not self._log_unread else []
                self._ended = True
            for line in lines:
                self._add_line(line.decode("utf-8", errors="replace"))
            self._changed.notify_all()

    def _take_all(self):
        """
        Everything that the daemon has logged by now, so that what was logged before an answer is there
        with the answer: its thread that writes the log runs for as long as it has something to write, and
        sleeps then, or until it is read.  The lock is held.
        """
        deadline = Deadline(LOG_THREAD_PATIENCE)
        while True:
            self._take()
            if processes.state(self.pid, self._log_thread()) not in "RD" or deadline.passed():
                break
            time.sleep(0.001)
        self._take()

    def _log_thread(self):
        if not self._log_tid:
            self._log_tid = processes.thread(self.pid, "log")
        return self._log_tid or 1 << 30

    def hold_log(self):
        """Reads nothing more of it."""
        with self._changed:
            self._take_all()
            self._log_held = True

    def release_log(self):
        with self._changed:
            self._log_unread |= self._log_held and self.process.poll() is not None
            self._log_held = False
            self._changed.notify_all()

    def _add_line(self, text):
        if not self._add_event(text):
            self.noise.append(text)

    def _add_event(self, text):
        try:
            event = json.loads(text, parse_constant=not_json)
        except ValueError:
            return False
        if not isinstance(event, dict):
            return False
        self.events.append(event)
        return True

    def mark(self):
        with self._changed:
            self._take_all()
            return len(self.events)

    def find(self, name, since=0, **fields):
        """The events of that name; a field is compared, or judged where a function is given."""
        with self._changed:
            self._take_all()
            events = self.events[since:]
        return [e for e in events if e.get("event") == name and matches(e, fields)]

    def wait_event(self, name, timeout=20, since=0, count=1, **fields):
        """The count-th such event, as soon as it is there."""
        deadline = Deadline(timeout)
        with self._changed:
            while True:
                found = self.find(name, since, **fields)
                if len(found) >= count:
                    return found[count - 1]
                if self._ended or deadline.passed():
                    raise AssertionError(self._missing(name, fields, count))
                self._changed.wait(deadline.left())

    def _missing(self, name, fields, count):
        why = "the daemon has ended" if self._ended else "no such event in time"
        tail = "\n".join(json.dumps(e) for e in self.events[-30:])
        noise = "\n".join(self.noise[-60:])
        return f"{why}: {count} x {name} {fields}\nlast events:\n{tail}\n{noise}"

    def wait_noise(self, part, timeout=20):
        deadline = Deadline(timeout)
        with self._changed:
            while not any(part in line for line in self.noise):
                if self._ended or deadline.passed():
                    raise AssertionError(self._missing(part, {}, 1))
                self._changed.wait(deadline.left())

    def log_text(self):
        with self._changed:
            self._take_all()
            return "\n".join([*(json.dumps(e) for e in self.events), *self.noise])

    # ---- what tests ask for ----

    @property
    def addresses(self):
        return [e["address"] for e in self.find("listening")]

    @property
    def address(self):
        return self.addresses[0]

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    def sender(self, **options):
        return wire.Sender(self.address, **options)

    def send(self, data, **options):
        """Sends over a connection of its own; returns once the daemon has read everything."""
        with self.sender(**options) as sender:
            sender.send(data)
            assert sender.finish() == b""

    def statistics(self):
        mark = self.mark()
        self.send_signal(signal.SIGUSR2)
        return self.wait_event("statistics", since=mark)

    def wait_statistics(self, timeout=20, **expected):
        """Asks until the counters are as expected; returns them all."""
        seen = {}

        def as_expected():
            seen.update(self.statistics())
            return matches(seen, expected)

        wait_until(as_expected, timeout, lambda: f"{expected}, but {seen}")
        return seen

    def flush(self):
        self.send_signal(signal.SIGUSR1)

    def reload(self, wait="reloaded"):
        mark = self.mark()
        self.send_signal(signal.SIGHUP)
        return self.wait_event(wait, since=mark)

    @property
    def stopped(self):
        return self.find("stopped")[-1]

    # ---- the end of every test ----

    def finish(self):
        """Ends the daemon if the test has not, then checks what holds for every run."""
        hung = False
        if self.process is None:
            return
        if self.process.poll() is None:
            hung = not self._end_by_signals()
        else:
            self.wait()
        self._check(hung)

    def _end_by_signals(self):
        for timeout in (3 / FACTOR, 15):
            self.send_signal(signal.SIGTERM)
            try:
                self.wait(timeout)
                return True
            except subprocess.TimeoutExpired:
                pass
        self.kill9()
        return False

    def _check(self, hung):
        status = self.process.returncode
        text = "\n".join(self.noise)
        reports = [r for r in SANITIZER_REPORTS if r in text]
        assert not reports, f"{reports}:\n{text[:20000]}"
        assert not hung, "SIGTERM did not end the daemon\n" + self._missing("stopped", {}, 1)
        assert status in (0, 1, 2, -signal.SIGKILL), f"ended by {status}\n{text[-4000:]}"
        expected = re.compile(self.expected_noise or r"(?!)")
        surprising = [line for line in self.noise if not expected.match(line)]
        assert not surprising, f"stderr has what is not JSON:\n{text[-4000:]}"
        if status in (0, 1) and self.find("ready") and not self._log_unread:
            assert self.find("stopped"), "no stopped event at a clean exit"
        for event in self.events:
            check_event(event)


def matches(event, fields):
    return all(
        wanted(event.get(key)) if callable(wanted) else event.get(key) == wanted
        for key, wanted in fields.items()
    )


def check_event(event):
    assert isinstance(event.get("event"), str), event
    assert TIMESTAMP.fullmatch(event.get("timestamp", "")), event
    assert event.get("level") in LEVELS, event
    if event["event"] in ("stopped", "statistics"):
        held = event["stored"] + event["buffered"] + event["rejected"] + event["dropped"]
        assert event["received"] == held, f"not conserved: {event}"
