"""The real thing: a process killed before each of its system calls, and each of its calls failing, by strace.

    python -m tests.realfaults kill SCENE [SEED COUNT]      before every call that changes something, or COUNT of all
    python -m tests.realfaults fail SCENE [SEED COUNT]      each call with each errno that it may give, or COUNT of them
    python -m tests.realfaults only SCENE INJECTION         one fault, as it is printed: pwrite64:error=EIO:when=3
    python -m tests.realfaults scenes                       lists them

A process of its own, which forks for each run. Prints how many faults there were; each is proven to have fired by
strace's log. Says what is wrong, and the injection that replays it, and exits 1 at the end if any did not hold.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import replay.agent_format
import replay.background
import replay.shadow  # noqa: F401 - children inherit what would cost each of them an import
from recovery.cli import append, backup, checkpoint, recover  # noqa: F401
from tests import traced
from tests.bystander import Bystander
from tests.realjudge import assert_declared, judge_at_once, judge_bystander, look, settle
from tests.realscenes import SCENES, Scene, images
from tests.traced import Call

_WRITES = ("EIO", "ENOSPC", "EINTR")
_OPENS = ("EIO", "ENOSPC", "EMFILE", "EACCES", "EROFS")
_NAMES = ("EIO", "ENOSPC", "EACCES", "EROFS")
ERRNOS: dict[str, tuple[str, ...]] = {
    "openat": _OPENS,
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev"), _WRITES),
    "ftruncate": (*_WRITES, "EROFS"),
    "fallocate": (*_WRITES, "EROFS"),
    **dict.fromkeys(("fsync", "fdatasync"), ("EIO", "ENOSPC", "EROFS", "EINTR")),
    **dict.fromkeys(("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"), _NAMES),
    **dict.fromkeys(("mkdir", "mkdirat", "symlink", "symlinkat", "link", "linkat"), (*_NAMES, "EMFILE")),
    **dict.fromkeys(("read", "pread64"), ("EIO", "EINTR")),
    **dict.fromkeys(("fstat", "newfstatat", "stat", "lstat", "getdents64", "readlink", "statfs"), ("EIO", "EACCES")),
    "flock": ("EINTR", "ENOLCK"),
    "close": ("EIO", "ENOSPC", "EINTR"),
    "mmap": ("ENOMEM",),
}


class Fault(NamedTuple):
    """What is put into a run, as strace takes it."""

    injection: str
    call: Call

    @property
    def kills(self) -> bool:
        return "signal=SIGKILL" in self.injection


def reference(scene: Scene, place: Path) -> list[Call]:
    """The calls of a run without a fault that touch the data directory or the scratch beside it."""
    root = prepared(scene, place)
    before = look(root)
    beside = Bystander(root) if scene.bystander else None
    done = traced.run(lambda: child(scene, root), place)
    assert done.code == 0, done.err
    judge_at_once(root, before)
    if beside is not None:
        judge_bystander(root, before, beside.tell())
    settle(root, before)
    shutil.rmtree(place)
    return [call for call in done.calls if f"{root}" in call.text]


def prepared(scene: Scene, place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "data.tmp").mkdir()
    scene.prepare(place / "data")
    return place / "data"


def child(scene: Scene, root: Path) -> int:
    tempfile.tempdir = f"{root}.tmp"
    return scene.action(root)


def kills(calls: list[Call]) -> list[Fault]:
    return [Fault(f"{call.name}:signal=SIGKILL:when={call.nth}", call) for call in calls]


def failures(calls: list[Call]) -> Iterator[Fault]:
    for call in calls:
        for errno in ERRNOS.get(call.name, ()):
            yield Fault(f"{call.name}:error={errno}:when={call.nth}", call)


def put_in(scene: Scene, place: Path, fault: Fault) -> bool:
    """One fault in one run; False where the run ended before it. Raises AssertionError where a promise is broken."""
    root = prepared(scene, place)
    before = look(root)
    beside = Bystander(root) if scene.bystander else None
    try:
        done = traced.run(lambda: child(scene, root), place, inject=fault.injection)
        if done.fired:
            judge_at_once(root, before)
    finally:
        told = beside.tell() if beside is not None else None
    if fault.kills:
        assert done.code == -signal.SIGKILL or not done.fired or scene.action.__name__ == "checkpoint_command", done
    if not done.fired:
        return False
    if not fault.kills:
        assert_declared(done.code, done.err, (place / "out").read_text())
    if told is not None:
        judge_bystander(root, before, told)
    settle(root, before)
    shutil.rmtree(place)
    return True


def run_all(name: str, faults: list[Fault], place: Path) -> int:
    """Puts each fault in; returns how many did not hold."""
    scene, broken, fired, idle = SCENES[name], 0, Counter[str](), 0
    started = last = time.monotonic()
    for number, fault in enumerate(faults):
        here = place / f"{number:05d}"
        try:
            if put_in(scene, here, fault):
                fired[fault.injection.split(":")[0]] += 1
            else:
                idle += 1
                shutil.rmtree(here)
        except Exception:
            broken += 1
            print(f"BROKEN {name} {fault.injection}\n  at {fault.call.text[:160]}\n  in {here}", flush=True)
            print("  replay: python -m tests.realfaults only " + f"{name} {fault.injection}", flush=True)
            traceback.print_exc(limit=-3, file=sys.stdout)
        if time.monotonic() - last > 20:
            last = time.monotonic()
            print(f"{name}: {number + 1} of {len(faults)}, {broken} broken, {last - started:.0f} s", file=sys.stderr)
    words = " ".join(f"{call}={count}" for call, count in sorted(fired.items()))
    print(f"{name}: {fired.total()} faults fired, {broken} broken, {idle} not reached; {words}", flush=True)
    assert broken or fired.total() >= int(0.9 * len(faults)), "too many never fired: nothing was tested"
    return broken


def go_alone() -> None:
    """Starts anew where no other process is to be seen: recovery looks through /proc for holders of its files, and
    how many processes a machine runs would change the number of each later call."""
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if "_ALONE" in os.environ or shutil.which("unshare") is None:
        return
    if subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
        os.environ["_ALONE"] = "1"
        os.execvp("unshare", [*alone, sys.executable, "-m", "tests.realfaults", *sys.argv[1:]])


def main() -> int:
    verb, given = sys.argv[1], sys.argv[2:]
    if verb == "scenes":
        print("\n".join(SCENES))
        return 0
    if (why := traced.missing()) is not None:
        print(f"SKIPPED: {why}", file=sys.stderr)
        return 77  # as automake's tests say "skipped"
    go_alone()
    name, given = given[0], given[1:]
    images()
    place = Path(tempfile.mkdtemp(prefix="journal-realfaults-"))
    if verb == "only":
        put = put_in(SCENES[name], place / "only", Fault(given[0], Call("", 0, "")))
        print("it held" if put else "the fault was not reached")
        shutil.rmtree(place)
        return 0
    calls = reference(SCENES[name], place / "reference")
    assert len(calls) >= SCENES[name].calls_min, f"only {len(calls)} calls of {name} were seen"
    if verb == "count":
        print(f"{name}: {len(calls)} calls, {sum(call.changes for call in calls)} of them change something")
        return 0
    if given:
        rng = random.Random(f"{verb} {name} {given[0]}")
        every = kills(calls) if verb == "kill" else list(failures(calls))
        faults = rng.sample(every, min(int(given[1]), len(every)))
    elif verb == "kill":
        faults = kills([call for call in calls if call.changes])
    else:
        faults = list(failures(calls))
    broken = run_all(name, faults, place)
    if not broken:
        shutil.rmtree(place, ignore_errors=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
