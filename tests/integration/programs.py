"""Which programs are under test."""
import functools
import os
import shutil

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def program(variable, name, *built):
    """The path of a program: from the environment, PATH, or a build in the source tree."""
    path = os.environ.get(variable) or shutil.which(name)
    candidates = [path] if path else [os.path.join(ROOT, *parts) for parts in built]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return os.path.abspath(candidate)
    return None


@functools.lru_cache
def daemon_path():
    path = program("METRIC_COLLECTORD", "metric-collectord", ("metric-collectord",))
    assert path, "set METRIC_COLLECTORD to the daemon to test"
    return path


def tool_path(name, directory):
    """A program that is installed with the daemon, or was built with it."""
    daemon = os.path.dirname(daemon_path())
    found = program(name.upper().replace("-", "_"), name)
    candidates = [os.path.join(daemon, name), os.path.join(daemon, "..", directory, name)]
    return found or next((path for path in candidates if os.access(path, os.X_OK)), None)


def metric_send_path():
    return tool_path("metric-send", "bin")


def metric_spool_path():
    return tool_path("metric-spool", "sbin")


@functools.lru_cache
def is_sanitized():
    """Memory figures and speed of a sanitizer's build are not the daemon's."""
    with open(daemon_path(), "rb") as file:
        content = file.read()
    return b"__asan_init" in content or b"__tsan_init" in content
