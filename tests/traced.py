"""Runs an action in a forked child under strace: lists the calls that it makes, or makes one of them fail.

Knows processes, system calls and strace's log; must not know what the action does. Whoever forks here has one thread
and holds no database open. A fault counts only once strace's log says that it happened: with some of strace's options
(`--seccomp-bpf`) an injection is accepted and never fires.
"""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

# What changes a directory tree or a file in it, and what only looks. `openat` is both.
CHANGING = (
    "openat", "write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "fsync", "fdatasync", "rename",
    "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "symlink", "symlinkat", "link",
    "linkat", "chmod", "fchmod", "sendfile", "copy_file_range",
)  # fmt: skip
LOOKING = (
    "read", "pread64", "fstat", "newfstatat", "stat", "lstat", "access", "faccessat", "faccessat2", "getdents64",
    "readlink", "readlinkat", "statfs", "fstatfs", "flock", "fcntl", "lseek", "close", "mmap",
)  # fmt: skip
SECONDS = 120  # a child that hangs is killed, and that is a failure


class Call(NamedTuple):
    """One system call of a run: the `nth` of its name in its process, as strace counts, and how strace wrote it."""

    name: str
    nth: int
    text: str

    @property
    def changes(self) -> bool:
        return self.name in CHANGING and (self.name != "openat" or "O_CREAT" in self.text or "O_TRUNC" in self.text)


class Run(NamedTuple):
    """How a run ended: exit code (negative: the signal), its main thread's calls, whether the fault fired, stderr."""

    code: int
    calls: list[Call]
    fired: bool
    err: str
    log: str


Action = Callable[[], int]


@cache
def missing() -> str | None:
    """Why nothing can be traced here; None where it can."""
    if not sys.platform.startswith("linux"):
        return "strace runs on Linux only"
    if shutil.which("strace") is None:
        return "strace is not installed (apt install strace)"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            done = run(lambda: 0 if os.access("/", os.R_OK) else 1, Path(scratch), ("access",))
        except AssertionError as error:
            return f"strace may not attach to a process here: {error}"
    return None if done.code == 0 and done.calls else "strace sees no calls here"


def run(
    action: Action,
    place: Path,
    names: tuple[str, ...] = (*CHANGING, *LOOKING),
    inject: str | None = None,
    *,
    file_bytes_max: int | None = None,
) -> Run:
    """Forks, attaches strace, lets the child run `action` and waits. Its stdout and stderr go to files in `place`.

    `inject` is strace's: ``fdatasync:error=EIO:when=2``. `file_bytes_max` is an RLIMIT_FSIZE for the child.
    """
    log = place / "strace.log"
    log.unlink(missing_ok=True)
    go, tell = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        _child(action, place, go, file_bytes_max)
    os.close(go)
    known = ",".join(f"?{name}" for name in names)
    command = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={known}", "-e", "signal=kill"]
    if inject is not None:
        command += ["-e", f"inject={inject}"]
    tracer = subprocess.Popen([*command, "-p", str(pid)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        assert "attached" in said, said
        os.write(tell, b"g")
        code = _wait(pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(tell)
        tracer.kill() if tracer.poll() is None and not log.exists() else tracer.wait(SECONDS)
        if tracer.stderr is not None:
            tracer.stderr.close()
    text = log.read_text(errors="replace")
    killed = inject is not None and "signal=SIGKILL" in inject
    fired = "+++ killed by SIGKILL +++" in text if killed else "(INJECTED)" in text
    return Run(code, _calls(text, pid), fired, (place / "err").read_text(errors="replace"), text)


def _child(action: Action, place: Path, go: int, file_bytes_max: int | None) -> None:
    code = 99
    try:
        for target, name in ((1, "out"), (2, "err")):
            fd = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            os.dup2(fd, target)
            os.close(fd)
        waiting = select.poll()
        waiting.register(go, select.POLLIN)
        waiting.poll()  # not a read: strace would count the one that it interrupts, or not
        if file_bytes_max is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, resource.RLIM_INFINITY))
        code = action()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        if not ended.poll(SECONDS * 1000):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"it hangs: no end after {SECONDS} s")
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


_LINE = re.compile(r"(\d+) +([a-z0-9_]+)\((.*)")


def _calls(log: str, pid: int) -> list[Call]:
    """The main thread's calls in order. Others' are not targets: a fault is counted by thread."""
    counts: Counter[str] = Counter()
    found = []
    for line in log.splitlines():
        match = _LINE.match(line)
        if match is not None and int(match[1]) == pid:
            counts[match[2]] += 1
            found.append(Call(match[2], counts[match[2]], match[3]))
    return found
