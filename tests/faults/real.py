"""Real processes on real file systems: killed before each system call, failing in each, and with the power cut.

Needs Linux, and root for the power cuts; what is missing skips the check, loudly. Each fault is a process of its own,
so the runs are started as commands and told by their output.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.faults.frame import Check, Missing, Run

ROOT = Path(__file__).resolve().parent.parent.parent
SKIPPED = 77
FAULTS_A_SEED = 20
CUTS_A_SEED = 24


def _scenes() -> list[str]:
    return _told("tests.realfaults", "scenes").split()


def _told(module: str, *arguments: str) -> str:
    """The output of one run. Raises Missing for what this machine lacks, AssertionError for what did not hold."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == SKIPPED:
        raise Missing(done.stderr.strip().removeprefix("SKIPPED: "))
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout


def _fired(told: str) -> int:
    found = re.search(r"(\d+) faults fired, 0 broken", told)
    assert found is not None, told
    return int(found[1])


def kills(run: Run) -> Counter[str]:
    """Every scene, every call that changes something; `--count` takes the first so many scenes."""
    scenes = _scenes()[: run.count]
    return run.each(kill_all, scenes, lambda scene: f"python -m tests.realfaults kill {scene}")


def kill_all(scene: str) -> Counter[str]:
    return Counter({"kills": _fired(_told("tests.realfaults", "kill", scene)), "scenes": 1})


def failures(run: Run) -> Counter[str]:
    return run.seeds(fail_some)


def fail_some(seed: int) -> Counter[str]:
    """Some failing calls of one scene, both by the seed; each seed's are others."""
    scenes = _scenes()
    scene, share = scenes[seed % len(scenes)], seed // len(scenes)
    return Counter({"failed calls": _fired(_told("tests.realfaults", "fail", scene, str(share), str(FAULTS_A_SEED)))})


def cuts_on_ext4(run: Run) -> Counter[str]:
    return run.seeds(cut_ext4)


def cuts_on_xfs(run: Run) -> Counter[str]:
    return run.seeds(cut_xfs)


def cut_ext4(seed: int) -> Counter[str]:
    return _cut("ext4", seed)


def cut_xfs(seed: int) -> Counter[str]:
    return _cut("xfs", seed)


def _cut(kind: str, seed: int) -> Counter[str]:
    told = _told("tests.powercuts", kind, str(seed), str(CUTS_A_SEED))
    found = dict(re.findall(r"(in the midst|receipts) (\d+)", told))
    return Counter({"power cuts": CUTS_A_SEED, "in the midst of something": int(found["in the midst"])})


_HELD = (
    "every receipt printed before is kept with its chain, what was refused left no trace, memory.db and each agent "
    "file are the old or the new, and `recover all`, run twice, ends in the state of exactly the journal's events"
)

CHECKS = (
    Check(
        "real.kills",
        f"A process killed with SIGKILL before any system call that changes something: {_HELD}.",
        "strace kills a hook, `append`, agents.write, a rotation, a checkpoint, a restore in place, a backup, packing, "
        "an open after a kill, a catch-up and `recover all` before each such call in turn; its log proves each kill; "
        "readers of another process are idle, in mid-read and in mid-write",
        kills,
        None,
    ),
    Check(
        "real.failures",
        f"A system call that fails with EIO, ENOSPC, EMFILE, EACCES, EROFS or EINTR ends in a declared error; {_HELD}.",
        "strace lets one call of the same runs fail, any that touches the data directory, reads included, with any "
        "errno it may give; its log proves each",
        failures,
        15.0,
    ),
    Check(
        "real.ext4",
        "After a power cut on ext4 every receipt is kept, memory.db is a whole state, and recovery ends in the "
        "journal's.",
        "a loop-mounted ext4 (data=ordered) is shut down without a log flush under a writer, a checkpoint, a restore, "
        "a recovery; mounted anew, its log replayed, opened",
        cuts_on_ext4,
        8.0,
    ),
    Check(
        "real.xfs",
        "After a power cut on XFS every receipt is kept, memory.db is a whole state, and recovery ends in the "
        "journal's.",
        "the same on a loop-mounted XFS",
        cuts_on_xfs,
        8.0,
    ),
)
