"""What is to be reached, as a table, and whether figures reach it. Pure; must not know how anything is measured.

Figures are sections by title, each with rows as `Result.to_json` gives them, and plain numbers under `values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Figures = Mapping[str, Mapping[str, Any]]


class Found(NamedTuple):
    text: str
    reached: bool | None  # None: measured, and nothing was set to be reached


class NotMeasured(Exception):
    """A section, a contender or a number is not among the figures."""


@dataclass(frozen=True)
class Target:
    """`section` is the one that measures it, as the command knows it."""

    section: str
    work: str
    against: str
    reach: str
    find: Callable[[Figures], Found]

    def found(self, figures: Figures) -> Found | None:
        try:
            return self.find(figures)
        except NotMeasured:
            return None


def row_of(figures: Figures, title: str, name: str) -> Mapping[str, Any]:
    for row in figures.get(title, {}).get("rows", ()):
        if row["name"] == name:
            return row  # type: ignore[no-any-return]
    raise NotMeasured(f"{title}: {name}")


def faster(title: str, ours: str, others: str | Sequence[str], at_least: float | None) -> Callable[[Figures], Found]:
    """Our rate over the other's, over the best one's where there are several."""

    def find(figures: Figures) -> Found:
        ratios = row_of(figures, title, ours)["ratios"]
        there = [name for name in ([others] if isinstance(others, str) else others) if name in ratios]
        if not there:
            raise NotMeasured(f"{title}: {others}")
        best = min(there, key=lambda name: ratios[name])
        said = "" if isinstance(others, str) else f" ({best})"
        return Found(f"{ratios[best]:.2f}×{said}", None if at_least is None else ratios[best] >= at_least)

    return find


def wait_ratio(
    title: str, ours: str, other: str, at_most: float, *, ours_at: str = "p50_us", other_at: str = "p50_us"
) -> Callable[[Figures], Found]:
    """How long one of ours waits, over how long the other's does."""

    def find(figures: Figures) -> Found:
        mine, its = row_of(figures, title, ours)[ours_at], row_of(figures, title, other)[other_at]
        if mine is None or not its:
            raise NotMeasured(f"{title}: waits")
        return Found(f"{mine / its:.2f}× ({mine:,.0f} of {its:,.0f} µs)", mine / its <= at_most)

    return find


def takes(title: str, ours: str, other: str, at_most: float) -> Callable[[Figures], Found]:
    """Our time over the other's for the same operations."""

    def find(figures: Figures) -> Found:
        ratio = row_of(figures, title, ours)["ratios"].get(other)
        if ratio is None:
            raise NotMeasured(f"{title}: {other}")
        return Found(f"{1 / ratio:.2f}× its time", 1 / ratio <= at_most)

    return find


def rate(
    title: str, ours: str, at_least: float, *, where: tuple[str, float] | None = None, unit: tuple[float, str] = (1, "")
) -> Callable[[Figures], Found]:
    """A rate, told in `unit`s of so many; `where` names a contender and the p50 (µs) of it up to which this is set."""

    def find(figures: Figures) -> Found:
        row = row_of(figures, title, ours)
        text, reached = f"{row['rate'] / unit[0]:,.0f}{unit[1]}/s", row["rate"] >= at_least
        if where is None:
            return Found(text, reached)
        took = row_of(figures, title, where[0])["p50_us"] or 0.0
        return Found(f"{text} where a sync takes {took / 1000:.2f} ms", reached or (None if took > where[1] else False))

    return find


def seconds(title: str, ours: str, at_most: float) -> Callable[[Figures], Found]:
    def find(figures: Figures) -> Found:
        took = row_of(figures, title, ours)["seconds"]
        return Found(f"{took:.3f} s" if took < 1 else f"{took:.2f} s", took <= at_most)

    return find


def value(
    name: str, text: str, *, at_most: float | None = None, at_least: float | None = None
) -> Callable[[Figures], Found]:
    """A plain number; `text` formats it."""

    def find(figures: Figures) -> Found:
        number = figures.get("values", {}).get(name)
        if number is None:
            raise NotMeasured(name)
        if at_most is None and at_least is None:
            return Found(text.format(number), None)
        return Found(
            text.format(number), (at_most is None or number <= at_most) and (at_least is None or number >= at_least)
        )

    return find


_HOOK, _THROUGH = "hook.append", "hook.append, applied"
_ONE, _GROUP, _SAME = (
    "SQLite WAL FULL, one connection", "SQLite WAL FULL, group-commit thread", "SQLite WAL FULL, the same row",
)  # fmt: skip
_LIBRARIES = ("eventsourcing", "langgraph-checkpoint-sqlite", "persist-queue")


def _raw(tasks: int) -> str:
    return f"raw write + fdatasync, {tasks} a sync"


def _append(tasks: int, against: str, reach: str, find: Callable[[Figures], Found]) -> Target:
    work = f"durable append through the hook's core, {tasks} task{'s' if tasks > 1 else ''}"
    return Target("append", work, against, reach, find)


_BESIDE = "checkpoint beside 32 tasks"
_1, _32, _256 = "append, 1 task", "append, 32 tasks", "append, 256 tasks"

TARGETS = (
    _append(1, "SQLite WAL FULL, one connection", "≥ 1.5×", faster(_1, _HOOK, _ONE, 1.5)),
    _append(1, "raw write + fdatasync", "≥ 75 %", faster(_1, _HOOK, _raw(1), 0.75)),
    _append(32, "one-connection SQLite", "≥ 20×", faster(_32, _HOOK, _ONE, 20)),
    _append(32, "SQLite with a group-commit thread", "≥ 5×", faster(_32, _HOOK, _GROUP, 5)),
    _append(
        32, "raw syncs of as many", "p99 ≤ 6", wait_ratio(_32, _HOOK, _raw(32), 6, ours_at="p99_us")
    ),
    _append(256, "SQLite with a group-commit thread", "≥ 6×", faster(_256, _HOOK, _GROUP, 6)),
    _append(
        256, "—", "≥ 100,000/s where a sync takes 0.15 ms", rate(_256, _HOOK, 100_000, where=(_raw(256), 150))
    ),
    Target(
        "write-through", "write-through (journal and memory.db), p50 of one writer",
        "a bare SQLite WAL FULL commit of the same row", "≤ 0.9×",
        wait_ratio("write-through, 1 task", _THROUGH, _SAME, 0.9),
    ),
    Target(
        "write-through", "write-through, 32 tasks",
        "eventsourcing, langgraph-checkpoint-sqlite, persist-queue, each with 32 writers", "≥ 5× the best",
        faster("write-through, 32 tasks", _THROUGH, _LIBRARIES, 5),
    ),
    Target(
        "rebuild", "rebuild of a 1M-observation history from genesis, without the digest",
        "plain bulk load (executemany, indexes last)", "≥ 1.0×",
        faster("rebuild", "rebuild, without the digest", "plain bulk load, rows in memory", 1.0),
    ),
    Target(
        "rebuild", "the same, verified by digest", "a working `.recover`", "≥ 2.5×",
        faster("rebuild", "rebuild, verified by digest", ".recover | sqlite3", 2.5),
    ),
    Target(
        "rebuild", "the same, verified by digest", "`.dump` piped to sqlite3", "≥ 1.2×",
        faster("rebuild", "rebuild, verified by digest", ".dump | sqlite3", 1.2),
    ),
    Target(
        "restore", "restore of that state from a checkpoint and 10,000 events, verified",
        "litestream's restore to a timestamp", "≥ 4×",
        faster("restore", "checkpoint + events, digest proven", "litestream restore -timestamp", 4),
    ),
    Target(
        "restore", "the same", "copying a backup and integrity_check", "≥ 4×",
        faster("restore", "checkpoint + events, digest proven", "copy of a backup + integrity_check", 4),
    ),
    Target("restore", "catch-up of 10,000 events at open", "—", "≤ 0.3 s", seconds("catch-up", "catch-up", 0.3)),
    *(
        Target(
            "bytes", f"bytes on disk per 120 B observation event, {state} segment, {together} a batch", "its JSON line",
            f"≤ {most}×",
            value(f"bytes of an observation in {state} segment, {together} a batch, to its JSON line", "{:.2f}×",
                  at_most=most),
        )
        for state, most in (("an open", 0.6), ("a packed", 0.25))
        for together in (1, 32, 256)
    ),
    Target(
        "checkpoint", "checkpoint of 200 MB after 20,000 events, to `written`, while 32 tasks append", "VACUUM INTO",
        "≤ 1.5× its time", takes(_BESIDE, "checkpoint, to written", "VACUUM INTO, synced", 1.5),
    ),
    Target(
        "checkpoint", "the same: what the writers keep of their rate", "before it", "≥ 60 %",
        value("rate of the writers beside checkpoint, to written, to that before", "{:.0%}", at_least=0.6),
    ),
    Target(
        "checkpoint", "the same: the longest wait of a writer, to `verified`", "—", "≤ 20 ms",
        value("longest wait of a writer beside checkpoint, to written, ms", "{:.1f} ms", at_most=20),
    ),
    Target(
        "checkpoint", "the longest wait of a writer before it began", "—", "timed",
        value("longest wait of a writer before checkpoint, to written, ms", "{:.1f} ms"),
    ),
    Target("checkpoint", "the same, to `verified`", "—", "timed", value("checkpoint, seconds to verified", "{:.2f} s")),
    *(
        Target(
            "checkpoint", f"the next checkpoint after 1 % {what}: {unit}", "the full one", f"≤ {most:.0%}",
            value(f"next checkpoint, 1 % {what}: {number}, to the first one's", "{:.1%}", at_most=most),
        )
        for what in ("rows of all tables changed", "entities updated", "observations added")
        for unit, number, most in (("bytes", "bytes", 0.1), ("time to `written`", "seconds to written", 0.25))
    ),
    Target("prove", "`verify`", "—", "≥ 1.5 M events/s, chain and CRC", rate("verify", "verify", 1.5e6)),
    Target(
        "restore", "`verify` of a checkpoint's files", "—", "≥ 500 MB/s",
        rate("verify of a checkpoint", "every byte of it, by sha256", 500e6, unit=(1e6, " MB")),
    ),
    Target(
        "scale", "`replay --until` on a journal of 10 M events", "the same on 1 M", "equal within noise (≤ 1.25×)",
        value("replay --until, 10^7 events to 10^6", "{:.2f}×", at_most=1.25),
    ),
    Target(
        "scale", "the same", "—", "memory ≤ 300 MB",
        value("replay --until, 10^7 events, MiB at the peak", "{:.0f} MiB", at_most=300e6 / (1 << 20)),
    ),
    *(
        Target(
            "scale", f"`journal {verb}` on 10 M events", "—", "≤ 0.3 s",
            value(f"{verb}, 10^7 events, seconds", "{:.3f} s", at_most=0.3),
        )
        for verb in ("log -n 20", "show SEQ", "log --agent X -n 20")
    ),
    Target(
        "embeddings", "embeddings: rebuild of observations, 60 % of the texts repeated or cached",
        "encoding all of them", "≥ 2.4×",
        faster("embeddings", "rebuild, 60 % of the texts repeated or cached", "encoding all of them", 2.4),
    ),
    Target(
        "embeddings", "the backends ONNX Runtime and torch: cosine of their vectors", "each other", "≥ 0.99999",
        value("least cosine between the backends' vectors", "{:.7f}", at_least=0.99999),
    ),
    Target(
        "start", "import of the command", "—", "≤ 0.15 s",
        seconds("start of the command", "import of the command", 0.15),
    ),
    Target(
        "start", "`--help`", "—", "≤ 0.15 s", seconds("start of the command", "journal --help", 0.15)
    ),
    Target("start", "`status`", "—", "≤ 0.15 s", seconds("start of the command", "journal status", 0.15)),
)  # fmt: skip
