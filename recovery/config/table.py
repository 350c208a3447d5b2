"""journal.yaml: every key, its default and what it means, in one table; what its value may be is a kind's to say.

Pure. Must not know YAML or files (that is `recovery.config.file`) or what uses a key. `docs/config.md` is written from
this table, so a key cannot be there and not be documented.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from recovery.config.kinds import (
    AGENT_LEVELS,
    BOOLEAN,
    FAILURE_PATTERNS,
    FIELD_NAMES,
    HUB,
    LEVEL_WEIGHTS,
    OPTIONAL_PATH,
    PATH,
    PATTERNS,
    POSITIVE,
    RATIO,
    REPOSITORY,
    REVISION,
    SECONDS,
    WEIGHTS,
    Failure,
    Level,
    choice,
    whole,
)
from recovery.config.section import Section, key, section
from recovery.config.server import Crash, Degraded, Server

if TYPE_CHECKING:
    from journal.retention import Policy
    from replay.layout import Layout


class Paths(Section):
    memory_db: str = key(PATH, "memory.db", "The link to the current generation of the memory database.")
    agents: str = key(PATH, "agents", "The directory of agent configs, one `NAME.md` an agent.")
    models: str = key(PATH, "models", "The directory of embedding models.")
    journal: str = key(PATH, "journal", "The journal itself: segments, checkpoints, quarantine and lock.")


class Checkpoint(Section):
    events: int = key(POSITIVE, 50_000, "A checkpoint is due after this many events, weighted by who wrote them.")
    seconds: int = key(POSITIVE, 3600, "A checkpoint is due after this many seconds in which something was written.")
    bytes: int = key(POSITIVE, 128 << 20, "A checkpoint is due after this many bytes of events, weighted likewise.")
    agents: Mapping[str, Level] = key(
        AGENT_LEVELS,
        {},
        "How critical what an agent writes is. An exact name comes before patterns, and those count in the order "
        "written; agents that nothing matches are normal.",
    )
    weights: Mapping[Level, float] = key(
        LEVEL_WEIGHTS,
        WEIGHTS,
        "How many events one event of such an agent counts as. A level that is left out keeps its default.",
    )


class Retention(Section):
    checkpoints_min: int = key(whole(2), 2, "So many verified checkpoints always stay, however old.")
    gap_events: int = key(
        POSITIVE, 100_000, "Pruning keeps every seq within so many events of a checkpoint on its timeline."
    )
    gap_ratio: float = key(
        RATIO, 0.1, "Or within this share of its distance to the end, where that is more: the far past is thinned."
    )


class Quarantine(Section):
    days: int = key(whole(0, 36_500), 90, "What was set aside is kept so many days; 0 keeps it for ever.")
    bytes_max: int = key(whole(0), 0, "Above so many bytes the oldest goes first, however young; 0 sets no bound.")


class Parity(Section):
    share: float = key(
        RATIO,
        0.125,
        "So much of a sealed segment or of a checkpoint's file may rot and is restored, rounded up to sixteenths; 0 "
        "makes no parity. A change holds for parity that is made from then on.",
    )
    directory: str = key(
        OPTIONAL_PATH,
        "",
        "Where parity lies, best on another device: there each journal has a directory of its own, named by its id. "
        "Empty: `parity` in the journal's directory.",
    )


class Segments(Section):
    pack: bool = key(
        BOOLEAN,
        True,
        "After a checkpoint, sealed segments are replaced by packed ones, which hold the same bytes in a fraction of "
        "the space. `journal compact` does it by hand.",
    )


class Scrub(Section):
    bytes_per_second: int = key(whole(0), 64 << 20, "How fast `journal scrub` reads at most; 0 sets no bound.")


class Agents(Section):
    validation: Literal["strict", "lenient", "off"] = key(
        choice("strict", "lenient", "off"),
        "lenient",
        "strict refuses a config that is no valid agent; lenient refuses no bytes and notes what it finds; off does "
        "not look.",
    )
    schema: Literal["auto", "caxton", "public"] = key(
        choice("auto", "caxton", "public"),
        "auto",
        "What the frontmatter is held against: caxton needs name, version, capabilities, tools and system_prompt; "
        "public needs name and description; auto is the style that a file is written in.",
    )
    backup: str = key(
        OPTIONAL_PATH,
        "",
        "A directory of `NAME.md` files that `journal recover agents` looks into for agents that the journal cannot "
        "bring back. Empty: there is none.",
    )


class Reload(Section):
    log: str = key(
        OPTIONAL_PATH,
        "",
        "The log of the server, which is looked into where a failed reload does not say itself what failed. Empty: "
        "there is none.",
    )
    patterns: Mapping[Failure, str] = key(
        FAILURE_PATTERNS,
        {},
        "What the log says of each type of failure, where it is not what docs/recovery.md lists. `{agent}` stands for "
        "the agent's name; a group `(?P<tool>…)` names a tool that cannot be loaded.",
    )

    @property
    def all_patterns(self) -> Mapping[Failure, str]:
        from recovery.agents.failures import DEFAULT_PATTERNS

        return {**DEFAULT_PATTERNS, **self.patterns}


class Watch(Section):
    memory: Literal["report", "revert", "adopt"] = key(
        choice("report", "revert", "adopt"),
        "report",
        "What a watch does about rows that another program changed in memory.db: report tells of them, revert rebuilds "
        "the file from the journal and puts the changed one into quarantine, adopt does the same and journals what was "
        "changed as events.",
    )


class Embeddings(Section):
    model: str = key(PATH, "models/all-MiniLM-L6-v2", "The directory of the sentence-transformers model.")
    backend: Literal["torch", "onnx"] = key(
        choice("torch", "onnx"),
        "torch",
        "What computes vectors: torch (extra `embeddings`), or ONNX Runtime (extra `onnx`), which starts in a second "
        "and needs a third of the memory. Vectors that are there stay when this is changed: both compute the same.",
    )
    batch_size: int = key(whole(1, 4096), 32, "Texts that are embedded at once.")
    mirror: str = key(
        OPTIONAL_PATH, "", "A directory that holds the model's original files, or a directory of such directories: "
        "where `journal recover model` looks first.",
    )  # fmt: skip
    hub: str = key(
        HUB, "", "The address of the hub that is asked after that. Empty means $HF_ENDPOINT, else "
        "https://huggingface.co; off never asks one. Journaled hashes decide whether what it sends is taken.",
    )  # fmt: skip
    repository: str = key(REPOSITORY, "sentence-transformers/all-MiniLM-L6-v2", "The model's name on the hub.")
    revision: str = key(REVISION, "main", "The branch, tag or commit there.")


class Disk(Section):
    reserve_bytes: int = key(
        whole(0), 16 << 20, "Writes are refused while less than this is free, so that recovery has room to run."
    )


class Durability(Section):
    strict: bool = key(
        BOOLEAN,
        False,
        "Before a batch is acknowledged, its seq is synced to `journal/watermark`, too: a second sync a batch. Then an "
        "acknowledged event that is damaged at the journal's very end can never pass for one that was not, even where "
        "memory.db and every receipt are gone.",
    )


class Logs(Section):
    format: Literal["text", "json"] = key(
        choice("text", "json"),
        "text",
        "What the command says on stderr: a line for people, or a JSON object a line with time, level, logger, message "
        "and trace ids. `--log-format` and $JOURNAL_LOG_FORMAT come before it.",
    )


class Redact(Section):
    patterns: tuple[str, ...] = key(
        PATTERNS, (), "Regular expressions (Python's). What they match is replaced by `[redacted]`."
    )
    fields: tuple[str, ...] = key(
        FIELD_NAMES, (), "Names of fields, in any case: `password` covers `\"password\": …` and `password=…`."
    )


class Config(Section):
    """A whole journal.yaml. ``Config()`` is what an absent file means."""

    paths: Paths = section(Paths, "Where things lie.")
    segment_bytes_max: int = key(
        whole(64 << 10, 1 << 30), 16 << 20, "A segment file is sealed, and the next one begun, at this length."
    )
    checkpoint: Checkpoint = section(Checkpoint, "When a checkpoint is made: at whichever limit is reached first.")
    retention: Retention = section(Retention, "Which checkpoints `journal checkpoint prune` keeps.")
    quarantine: Quarantine = section(Quarantine, "How long damaged and replaced files are kept.")
    segments: Segments = section(Segments, "What becomes of segments that are sealed.")
    parity: Parity = section(Parity, "Parity, from which files that rot are restored.")
    scrub: Scrub = section(Scrub, "Reading everything, to find what rots.")
    agents: Agents = section(Agents, "How agent configs are judged.")
    reload: Reload = section(Reload, "How a failed hot reload is told.")
    watch: Watch = section(Watch, "What `journal watch` and `open_server(watch=True)` do.")
    embeddings: Embeddings = section(Embeddings, "The embedding model (extra `embeddings`, or `onnx`).")
    disk: Disk = section(Disk, "Free space.")
    server: Server = section(
        Server, "How recovery stops the server before it replaces what that uses, starts it, and asks how it is."
    )
    crash: Crash = section(Crash, "What a crash leaves, for `journal check` and `journal recover`.")
    degraded: Degraded = section(Degraded, "What an open server does while a part of it is gone.")
    rto_seconds: float = key(
        SECONDS,
        0.0,
        "How long a recovery may take. `journal status` estimates it, and `journal check` is degraded where the "
        "estimate is longer; 0 sets no bound.",
    )
    durability: Durability = section(Durability, "How much is synced before a write is acknowledged.")
    log: Logs = section(Logs, "What the command and `journal serve` log.")
    redact: Redact = section(
        Redact, "What errors, logs, reports and traces must not show. The journal and what is asked of it stay whole."
    )

    def layout(self, root: str) -> Layout:
        """Absolute paths under the data directory ``root`` (absolute)."""
        from replay.layout import Layout

        base = root.rstrip("/") or "/"
        paths = (self.paths.memory_db, self.paths.agents, self.paths.models, self.paths.journal)
        return Layout(base, *(posixpath.join(base, path) for path in paths))

    def model_path(self, root: str) -> str:
        return posixpath.join(root.rstrip("/") or "/", self.embeddings.model)

    def mirror_path(self, root: str) -> str | None:
        mirror = self.embeddings.mirror
        return posixpath.join(root.rstrip("/") or "/", mirror) if mirror else None

    def policy(self) -> Policy:
        """The checkpoint and retention keys as the journal takes them."""
        from journal.retention import Policy

        return Policy(
            events=self.checkpoint.events,
            seconds=self.checkpoint.seconds,
            bytes=self.checkpoint.bytes,
            keep_min=self.retention.checkpoints_min,
            gap_events=self.retention.gap_events,
            gap_ratio=self.retention.gap_ratio,
            agents=dict(self.checkpoint.agents),
            weights=dict(self.checkpoint.weights),
        )
