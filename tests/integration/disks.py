"""Fixtures for bad disks and clocks: a small file system, and the shim of tests/shim."""
import os
import pathlib
import shutil
import subprocess

import pytest

from programs import ROOT, is_sanitized


@pytest.fixture
def small_disk(tmp_path):
    """small_disk("8m") mounts a tmpfs of that size and returns its directory."""
    if os.geteuid() != 0:
        pytest.skip("skipped: only root can mount a small file system")
    mounted = []

    def mount(size, owner=None):
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        options = f"size={size},mode=700" + (
            f",uid={owner.pw_uid},gid={owner.pw_gid}" if owner else ""
        )
        result = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)],
            capture_output=True,
            text=True,
        )
        if result.returncode:
            pytest.skip(f"skipped: tmpfs cannot be mounted here: {result.stderr.strip()}")
        mounted.append(path)
        if owner:  # its server must reach it
            for parent in path.parents:
                if parent.is_relative_to("/tmp") and parent != pathlib.Path("/tmp"):
                    parent.chmod(parent.stat().st_mode | 0o111)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def build_shim(directory):
    """The path of the library."""
    if is_sanitized():
        pytest.skip("skipped: a sanitizer's runtime must be preloaded first")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("skipped: no C compiler for the shim")
    library = os.path.join(directory, "fault_shim.so")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, f"{ROOT}/tests/shim/fault_shim.c"]
        + ["-ldl"],
        check=True,
    )
    return library


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory):
    return build_shim(tmp_path_factory.mktemp("shim"))


class Shim:
    """The faults that are on; env goes to the daemon."""

    def __init__(self, library, directory):
        self.directory = directory
        self.env = {"LD_PRELOAD": str(library), "FAULT_SHIM_DIR": str(directory)}

    def on(self, name, text=""):
        part = self.directory / f".{name}"
        part.write_text(text)
        part.rename(self.directory / name)

    def off(self, name):
        (self.directory / name).unlink()


@pytest.fixture
def shim(shim_library, tmp_path):
    directory = tmp_path / "shim"
    directory.mkdir()
    return Shim(shim_library, directory)
