"""What room there is, and what a crash left. Of each table the first line that holds decides.

Nothing about file systems is ever repaired here: that is `fsck`'s, on one that is not mounted.
"""

from __future__ import annotations

from recovery.facts import CrashFacts, RoomFacts
from recovery.rows import Row

DATA: tuple[Row[RoomFacts], ...] = (
    Row("read_only", "the data directory, or the journal's in it, is not writable",
        lambda r: not r.writable, "none", "failed", 1,
        lambda r: "the data directory is not writable", "check the mount and the owner"),
    Row("ok", "none of these", lambda r: True, "none", "healthy", 0, lambda r: "the data directory is writable"),
)  # fmt: skip

DISK: tuple[Row[RoomFacts], ...] = (
    Row("reserve", "less is free than `disk.reserve_bytes`: writes are refused, reading goes on",
        lambda r: r.free_bytes < r.reserve_bytes, "none", "degraded", 3,
        lambda r: f"{_mib(r.free_bytes)} are free, the reserve is {_mib(r.reserve_bytes)}: writes are refused",
        "free some disk space"),
    Row("no_room", "less is free than rebuilding memory.db takes",
        lambda r: r.free_bytes < r.rebuild_bytes, "none", "degraded", 3,
        lambda r: f"{_mib(r.free_bytes)} are free, a rebuild needs about {_mib(r.rebuild_bytes)}",
        "free some disk space"),
    Row("ok", "none of these", lambda r: True, "none", "healthy", 0,
        lambda r: f"{_mib(r.free_bytes)} are free, a rebuild needs about {_mib(r.rebuild_bytes)}"),
)  # fmt: skip

OPEN_FILES: tuple[Row[RoomFacts], ...] = (
    Row("few", "this process may open fewer files than a server and its recovery need",
        lambda r: r.open_files is not None and r.open_files < r.open_files_needed, "none", "degraded", 3,
        lambda r: f"{r.open_files} files may be open, {r.open_files_needed} are needed",
        "raise it: ulimit -n, or LimitNOFILE= in the unit"),
    Row("ok", "none of these", lambda r: True, "none", "healthy", 0,
        lambda r: f"{'any number of' if r.open_files is None else r.open_files} files may be open"),
)  # fmt: skip

CORES: tuple[Row[CrashFacts], ...] = (
    Row("core_files", "core files lie where `crash.cores` says",
        lambda c: bool(c.cores), "set_aside", "degraded", 3,
        lambda c: f"the server crashed and left {', '.join(path.rsplit('/', 1)[1] for path in c.cores)}",
        "journal recover all moves them to quarantine"),
    Row("ok", "none of these", lambda c: True, "none", "healthy", 0, lambda c: "no core files"),
)  # fmt: skip

SERVER_LOG: tuple[Row[CrashFacts], ...] = (
    Row("crash_words", "the end of `crash.log` matches one of `crash.patterns`",
        lambda c: bool(c.matches), "none", "healthy", 0,
        lambda c: "the server's log speaks of a crash: "
        + "; ".join(f"{each.count} × {each.pattern}, last: {each.last}" for each in c.matches)),
    Row("ok", "none of these", lambda c: True, "none", "healthy", 0,
        lambda c: "the server's log speaks of no crash" if c.log else "no log of the server is configured"),
)  # fmt: skip

FILE_SYSTEM: tuple[Row[CrashFacts], ...] = (
    Row("read_only", "it is mounted read-only: by the kernel after an error, perhaps",
        lambda c: c.mounted_read_only, "none", "failed", 1,
        lambda c: f"the file system at {c.mount} is mounted read-only" + _counted(c),
        "look into dmesg; check it with fsck while it is not mounted"),
    Row("errors", "the kernel has counted errors of it",
        lambda c: bool(c.errors), "none", "degraded", 3,
        lambda c: f"the file system at {c.mount} has errors" + _counted(c),
        "check it with fsck while it is not mounted; journal scrub reads everything"),
    Row("ok", "none of these", lambda c: True, "none", "healthy", 0,
        lambda c: "no errors of the file system are counted" if c.errors is not None
        else "the file system counts no errors, or does not tell"),
)  # fmt: skip


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB" if count >= 1 << 20 else f"{count:,} bytes"


def _counted(facts: CrashFacts) -> str:
    return f": {facts.errors} counted in {facts.error_counter}" if facts.errors else ""
