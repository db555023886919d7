"""Waiting for conditions, always bounded.

TEST_TIMEOUT_FACTOR stretches every bound: sanitizers, small machines and other tests beside this one
make it slow.  No test passes or fails by how long something took, short of these bounds.
"""
import os
import time

from programs import is_sanitized

BESIDE_OTHERS = "PYTEST_XDIST_WORKER" in os.environ
FACTOR = float(
    os.environ.get("TEST_TIMEOUT_FACTOR") or (10 if is_sanitized() else 4 if BESIDE_OTHERS else 1)
)


def seconds(n):
    return n * FACTOR


class Deadline:
    def __init__(self, timeout):
        self.timeout = seconds(timeout)
        self.end = time.monotonic() + self.timeout

    def left(self):
        return max(0.0, self.end - time.monotonic())

    def passed(self):
        return self.left() == 0


def wait_until(condition, timeout=20, what=None):
    """Returns the first true value that condition() gives; what() or what says what was missed."""
    deadline = Deadline(timeout)
    pause = 0.005
    while True:
        last_try = deadline.passed()
        value = condition()
        if value:
            return value
        if last_try:
            detail = what() if callable(what) else what or "the condition"
            raise AssertionError(f"not within {deadline.timeout:g} s: {detail}")
        time.sleep(min(pause, deadline.left()))
        pause = min(pause * 1.5, 0.1)
