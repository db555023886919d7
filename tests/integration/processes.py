"""Child processes that do not outlive the tests, and what /proc knows about them."""
import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(signo=signal.SIGKILL):
    """For preexec_fn: the child gets signo when the test run is killed."""

    def setup():
        _libc.prctl(_PR_SET_PDEATHSIG, signo)

    return setup


def children(pid):
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(entry))
    return found


def state(pid, thread=None):
    """A letter, as in ps(1); X where there is no such process, or no such thread of it."""
    path = f"/proc/{pid}/task/{thread}/stat" if thread else f"/proc/{pid}/stat"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def thread(pid, name):
    """The id of its thread of that name, or None."""
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/comm", encoding="utf-8") as file:
                if file.read().strip() == name:
                    return int(tid)
    except OSError:
        pass
    return None


def alive(pid):
    """False for zombies, too: they hold nothing any more."""
    return state(pid) not in "ZX"


def stopped(pid):
    return state(pid) == "T"


def cpu_seconds(pid):
    """User and system time of a process, its children and those it has buried."""
    total = 0
    for one in [pid, *children(pid)]:
        try:
            with open(f"/proc/{one}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(t) for t in fields[11 : 15 if one == pid else 13])
    return total / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def rchar(pid):
    """Bytes that it has read, from anything."""
    with open(f"/proc/{pid}/io", encoding="utf-8") as file:
        return int(next(line for line in file if line.startswith("rchar:")).split()[1])


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
