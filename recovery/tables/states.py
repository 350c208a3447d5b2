"""The state of each part of an open server, as its hook reports it. Of each table the first line that holds decides.

What is failed stops the server's work, what is degraded goes on with less; nothing here is repaired.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from recovery.rows import Row

ModelWord = Literal["absent", "available", "loaded", "missing", "refused", "no_extra"]


class LiveFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an open hook can say of itself at once.

    ``poisoned`` is why the log takes nothing more, ``waiting`` how many writes wait for room on the disk. ``away`` is
    why memory.db is not written, ``refuses`` whether writes are refused meanwhile; ``lag`` counts the events that it
    does not hold yet. ``unwritten`` are agents whose files are not known to be current. ``model`` says where the
    sentence model is, ``model_problem`` why it is not used; ``pending`` counts the texts that wait for a vector, None
    where nobody counted. ``background`` is the last error of what runs behind the writes.
    """

    poisoned: str = ""
    free_bytes: int = 0
    reserve_bytes: int = 0
    waiting: int = 0
    away: str = ""
    refuses: bool = False
    lag: int = 0
    unwritten: tuple[str, ...] = ()
    model: ModelWord = "absent"
    model_problem: str = ""
    pending: int | None = None
    background: str = ""


JOURNAL: tuple[Row[LiveFacts], ...] = (
    Row("poisoned", "a write or a sync failed, and the log takes nothing more",
        lambda f: bool(f.poisoned), "none", "failed", 1,
        lambda f: f"the log takes nothing more: {f.poisoned}", "open the server again"),
    Row("waiting", "the disk is full, and writes wait for room",
        lambda f: f.waiting > 0, "none", "degraded", 3,
        lambda f: f"the disk is full: {f.waiting} writes wait, unacknowledged", "free some disk space"),
    Row("full", "less is free than `disk.reserve_bytes`: writes are refused, reading goes on",
        lambda f: f.free_bytes < f.reserve_bytes, "none", "degraded", 3,
        lambda f: f"the disk is full: {f.free_bytes >> 20} MiB are free, less than the reserve",
        "free some disk space"),
    Row("healthy", "none of these", lambda f: True, "none", "healthy", 0, lambda f: "writes are taken"),
)  # fmt: skip

MEMORY: tuple[Row[LiveFacts], ...] = (
    Row("refusing", "memory.db is gone or cannot be written, and writes are refused meanwhile",
        lambda f: bool(f.away) and f.refuses, "none", "failed", 1,
        lambda f: f"{f.away}: writes are refused", "journal recover memory"),
    Row("away", "memory.db is gone or cannot be written; writes are journaled and wait to be applied",
        lambda f: bool(f.away), "none", "degraded", 3,
        lambda f: f"{f.away}: {f.lag} events are journaled, and applied when it is back", "journal recover memory"),
    Row("behind", "it has not applied the last events",
        lambda f: f.lag > 0, "none", "degraded", 3,
        lambda f: f"memory.db is {f.lag} events behind the journal", "the next write applies them"),
    Row("healthy", "none of these", lambda f: True, "none", "healthy", 0,
        lambda f: "memory.db is at the journal's end"),
)  # fmt: skip

AGENTS: tuple[Row[LiveFacts], ...] = (
    Row("unwritten", "a file of an agent could not be written",
        lambda f: bool(f.unwritten), "none", "degraded", 3,
        lambda f: f"not written: {', '.join(f.unwritten[:5])}" + (" …" if len(f.unwritten) > 5 else ""),
        "the next write tries again; journal check"),
    Row("healthy", "none of these", lambda f: True, "none", "healthy", 0, lambda f: "their files are current"),
)  # fmt: skip


def _queue(facts: LiveFacts) -> str:
    return "" if facts.pending is None else f"; {facts.pending} texts wait for a vector"


MODEL: tuple[Row[LiveFacts], ...] = (
    Row("missing", "a model was journaled, and its directory is gone; writes go on, texts wait for their vectors",
        lambda f: f.model == "missing", "none", "degraded", 3,
        lambda f: "the model is gone" + _queue(f), "journal recover model"),
    Row("refused", "it is there and is not used: its files are not the journaled ones, or it fails",
        lambda f: f.model == "refused", "none", "degraded", 3,
        lambda f: f.model_problem + _queue(f), "journal recover model"),
    Row("healthy", "none of these: loaded, or to be loaded when it is needed, or there never was one",
        lambda f: True, "none", "healthy", 0,
        lambda f: {"loaded": "the model is loaded", "available": "the model is there", "absent": "there is no model"}
        .get(f.model, "the extra that computes vectors (`embeddings` or `onnx`) is not installed") + _queue(f)),
)  # fmt: skip

CHECKPOINTS: tuple[Row[LiveFacts], ...] = (
    Row("failing", "the last one could not be made, or its vectors could not be computed",
        lambda f: bool(f.background), "none", "degraded", 3,
        lambda f: f.background, "journal checkpoint create"),
    Row("healthy", "none of these", lambda f: True, "none", "healthy", 0, lambda f: "the last one was made"),
)  # fmt: skip

STATES: dict[str, tuple[Row[LiveFacts], ...]] = {
    "journal": JOURNAL, "memory": MEMORY, "agents": AGENTS, "model": MODEL, "checkpoints": CHECKPOINTS,
}  # fmt: skip
"""The table of each component."""
