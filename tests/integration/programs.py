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


def metric_send_path():
    beside = os.path.dirname(daemon_path())
    return program("METRIC_SEND", "metric-send") or next(
        (
            path
            for path in (
                os.path.join(beside, "metric-send"),
                os.path.join(beside, "..", "bin", "metric-send"),
            )
            if os.access(path, os.X_OK)
        ),
        None,
    )


@functools.lru_cache
def is_sanitized():
    """Memory figures and speed of a sanitizer's build are not the daemon's."""
    with open(daemon_path(), "rb") as file:
        content = file.read()
    return b"__asan_init" in content or b"__tsan_init" in content
