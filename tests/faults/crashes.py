"""Power cuts on the simulated disk: what was promised before each is held against what is there after it."""

from __future__ import annotations

from collections import Counter

from tests import crash_errors, crash_files, crash_lives, crashes
from tests.faults.frame import Check, Run


def server(run: Run) -> Counter[str]:
    return run.seeds(crash_lives.run)


def files(run: Run) -> Counter[str]:
    return run.seeds(crash_files.run)


def errors(run: Run) -> Counter[str]:
    return run.seeds(crash_errors.fail)


def damage(run: Run) -> Counter[str]:
    return run.seeds(crash_errors.damage)


def log(run: Run) -> Counter[str]:
    return run.seeds(log_seed)


def log_seed(seed: int) -> Counter[str]:
    crashes.run_full_when_synced()
    crashes.run(seed, "none")
    crashes.run(seed, "torn")
    return Counter({"lives cut": 2 * crashes.LIVES})


CHECKS = (
    Check(
        "crashes.server",
        "Whatever a power cut leaves of a server's files, and of the recovery after it, and of that one's: the next "
        "open has every receipt with its chain, nothing that was not sent, the state of exactly these events, whole "
        "agent files, checkpoints and backups, and `verify` finds no damage.",
        "the journal, hook, agent files, generations, checkpoints, prune and backup run on a simulated disk; before "
        "each change every image that a cut may leave (sectors of 512 bytes and names in any order) is counted out or, "
        "where they are many, drawn; each distinct one is opened, settled and held against the reference projection",
        server,
        25.0,  # on two cores more than a million states
    ),
    Check(
        "crashes.files",
        "The same with real files and SQLite's own: whatever a power cut leaves of memory.db, its -wal, its "
        "generations and their link, of agent files and checkpoints, and of the recovery after it, and of that one's: "
        "memory.db is one whole state of the journal's history before anything repairs it, and the open ends at the "
        "journal's with every receipt.",
        "a server is opened, written, folded, checkpointed and restored in place in a real directory; a simulated disk "
        "follows each change, frames of a -wal and pages of a fold in pieces of 512 bytes included; a seeded choice of "
        "what a cut may leave before each is laid out anew, read by SQLite and opened",
        files,
        10.0,
    ),
    Check(
        "crashes.errors",
        "Whatever operation of the disk fails, once or for good, short or whole, and also where a sync fails and the "
        "next ones lie: the caller is told by a declared error, and what was acknowledged is there at the next open "
        "on the same boot and after a power cut.",
        "one life of a server on the simulated disk a seed, with EIO, ENOSPC, EMFILE, EACCES or EROFS at one kind of "
        "operation",
        errors,
        5.0,
    ),
    Check(
        "crashes.damage",
        "One damage to a file of the journal (rot, a zeroed, swapped, stale, misdirected or unreadable sector, short "
        "reads): what opens keeps every promise, and everything else is a declared error or a finding of `verify` "
        "that names the place.",
        "one life of a server on the simulated disk and one damage a seed",
        damage,
        5.0,
    ),
    Check(
        "crashes.log",
        "After a power cut at any change, every receipt proves, nothing unsent appears, and no epoch is used twice.",
        "four lives of a writer on the simulated disk, each cut at a random change, and the open after it as well",
        log,
        3.0,
    ),
)
