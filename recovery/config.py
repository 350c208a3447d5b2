"""journal.yaml: every key, its default, what it may be and what it means, in one table.

Pure. Knows values and bounds; must not know YAML or files (that is `recovery.config_file`) or what uses a key.
`docs/config.md` is written from this table, so a key cannot be there and not be documented.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_type_hints

from recovery.redact import problem_with

if TYPE_CHECKING:
    from journal.retention import Policy
    from replay.layout import Layout

Failure = Literal[
    "validation_failure", "memory_corruption", "tool_loading_failure", "conversation_state_loss", "unknown"
]
"""Why an agent could not be reloaded."""
FAILURE_NAMES: tuple[Failure, ...] = get_args(Failure)
Level = Literal["critical", "normal", "stateless"]
LEVELS: tuple[Level, ...] = ("critical", "normal", "stateless")
T = TypeVar("T")

# -- kinds of values --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value may be, in words, and the check. ``read`` raises ValueError for anything else."""

    text: str
    read: Callable[[object], object]


def _whole(low: int, high: int = (1 << 62)) -> Kind:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"a whole number, at least {low}" + (f" and at most {high}" if high < 1 << 62 else ""), read)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _number(value: object, *, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError
    return float(value)


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value.encode()) > 4000:
        raise ValueError
    if posixpath.normpath(value) in (".", "..") or posixpath.normpath(value).startswith("../"):
        raise ValueError
    return posixpath.normpath(value)


def _choice(*allowed: str) -> Kind:
    def read(value: object) -> object:
        if value is False and "off" in allowed:
            return "off"  # YAML reads a bare `off` as false
        if value not in allowed or isinstance(value, bool):
            raise ValueError
        return value

    return Kind("one of " + ", ".join(allowed), read)


def _levels(value: object) -> Mapping[str, Level]:
    if not isinstance(value, dict) or not all(isinstance(name, str) and name for name in value):
        raise ValueError
    if not all(level in LEVELS for level in value.values()):
        raise ValueError
    return dict(value)


def _patterns(value: object) -> Mapping[Failure, str]:
    if not isinstance(value, dict) or not set(value) <= {each for each in FAILURE_NAMES if each != "unknown"}:
        raise ValueError
    for pattern in value.values():
        if not isinstance(pattern, str) or "{agent}" not in pattern or len(pattern) > 1000:
            raise ValueError
        try:
            re.compile(pattern.replace("{agent}", "x"))
        except re.error as error:
            raise ValueError from error
    return dict(value)


def _weights(value: object) -> Mapping[Level, float]:
    if not isinstance(value, dict) or not set(value) <= set(LEVELS):
        raise ValueError
    return WEIGHTS | {level: _number(weight, low=0.001, high=1000) for level, weight in value.items()}


def _optional_path(value: object) -> str:
    return "" if value == "" else _path(value)


def _hub(value: object) -> str:
    if value is False or value == "off":
        return "off"  # YAML reads a bare `off` as false
    if not isinstance(value, str) or (value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value)):
        raise ValueError
    return value.rstrip("/")


def _matching(pattern: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return read


def _rules(value: object, *, patterns: bool) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > 100:
        raise ValueError
    for each in value:
        if not isinstance(each, str) or not 0 < len(each) <= 1000 or (patterns and problem_with(each) is not None):
            raise ValueError
    return tuple(value)


PATH = Kind("a path inside the data directory, or an absolute one", _path)
OPTIONAL_PATH = Kind(f"{PATH.text}, or empty", lambda value: "" if value == "" else _path(value))
HUB = Kind("an http or https address, or empty, or off", _hub)
REPOSITORY = Kind("OWNER/NAME", _matching(r"[\w.-]+/[\w.-]+"))
REVISION = Kind("the name of a branch or tag, or a commit", _matching(r"[\w./-]+"))
POSITIVE = _whole(1)
BOOLEAN = Kind("true or false", _boolean)
RATIO = Kind("a number from 0 to 1", partial(_number, low=0.0, high=1.0))
PATTERNS = Kind(
    "a list of at most 100 regular expressions, none of which matches the empty text", partial(_rules, patterns=True)
)
FIELD_NAMES = Kind("a list of at most 100 names of fields", partial(_rules, patterns=False))
AGENT_LEVELS = Kind(f"a map from agent name or pattern (`*`, `?`, `[…]`) to one of {', '.join(LEVELS)}", _levels)
FAILURE_PATTERNS = Kind(
    "a map from type of failure to a regular expression that holds {agent}: " + ", ".join(FAILURE_NAMES[:-1]), _patterns
)
LEVEL_WEIGHTS = Kind("a map from level to a number from 0.001 to 1000", _weights)
WEIGHTS: dict[Level, float] = {"critical": 4.0, "normal": 1.0, "stateless": 0.1}


def _key(kind: Kind, default: object, doc: str) -> Any:
    metadata = {"kind": kind, "doc": doc}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _section(cls: type[Any], doc: str) -> Any:
    return field(default_factory=cls, metadata={"doc": doc})


# -- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paths:
    memory_db: str = _key(PATH, "memory.db", "The link to the current generation of the memory database.")
    agents: str = _key(PATH, "agents", "The directory of agent configs, one `NAME.md` an agent.")
    models: str = _key(PATH, "models", "The directory of embedding models.")
    journal: str = _key(PATH, "journal", "The journal itself: segments, checkpoints, quarantine and lock.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    events: int = _key(POSITIVE, 50_000, "A checkpoint is due after this many events, weighted by who wrote them.")
    seconds: int = _key(POSITIVE, 3600, "A checkpoint is due after this many seconds in which something was written.")
    bytes: int = _key(POSITIVE, 128 << 20, "A checkpoint is due after this many bytes of events, weighted likewise.")
    agents: Mapping[str, Level] = _key(
        AGENT_LEVELS,
        {},
        "How critical what an agent writes is. An exact name comes before patterns, and those count in the order "
        "written; agents that nothing matches are normal.",
    )
    weights: Mapping[Level, float] = _key(
        LEVEL_WEIGHTS,
        WEIGHTS,
        "How many events one event of such an agent counts as. A level that is left out keeps its default.",
    )


@dataclass(frozen=True, slots=True)
class Retention:
    checkpoints_min: int = _key(_whole(2), 2, "So many verified checkpoints always stay, however old.")
    gap_events: int = _key(
        POSITIVE, 100_000, "Pruning keeps every seq within so many events of a checkpoint on its timeline."
    )
    gap_ratio: float = _key(
        RATIO, 0.1, "Or within this share of its distance to the end, where that is more: the far past is thinned."
    )


@dataclass(frozen=True, slots=True)
class Quarantine:
    days: int = _key(_whole(0, 36_500), 90, "What was set aside is kept so many days; 0 keeps it for ever.")
    bytes_max: int = _key(_whole(0), 0, "Above so many bytes the oldest goes first, however young; 0 sets no bound.")


@dataclass(frozen=True, slots=True)
class Parity:
    share: float = _key(
        RATIO,
        0.125,
        "So much of a sealed segment or of a checkpoint's file may rot and is restored, rounded up to sixteenths; 0 "
        "makes no parity. A change holds for parity that is made from then on.",
    )
    directory: str = _key(
        OPTIONAL_PATH,
        "",
        "Where parity lies, best on another device: there each journal has a directory of its own, named by its id. "
        "Empty: `parity` in the journal's directory.",
    )


@dataclass(frozen=True, slots=True)
class Scrub:
    bytes_per_second: int = _key(_whole(0), 64 << 20, "How fast `journal scrub` reads at most; 0 sets no bound.")


@dataclass(frozen=True, slots=True)
class Agents:
    validation: Literal["strict", "lenient", "off"] = _key(
        _choice("strict", "lenient", "off"),
        "lenient",
        "strict refuses a config that is no valid agent; lenient refuses no bytes and notes what it finds; off does "
        "not look.",
    )
    schema: Literal["auto", "caxton", "public"] = _key(
        _choice("auto", "caxton", "public"),
        "auto",
        "What the frontmatter is held against: caxton needs name, version, capabilities, tools and system_prompt; "
        "public needs name and description; auto is the style that a file is written in.",
    )
    backup: str = _key(
        OPTIONAL_PATH,
        "",
        "A directory of `NAME.md` files that `journal recover agents` looks into for agents that the journal cannot "
        "bring back. Empty: there is none.",
    )


@dataclass(frozen=True, slots=True)
class Reload:
    log: str = _key(
        OPTIONAL_PATH,
        "",
        "The log of the server, which is looked into where a failed reload does not say itself what failed. Empty: "
        "there is none.",
    )
    patterns: Mapping[Failure, str] = _key(
        FAILURE_PATTERNS,
        {},
        "What the log says of each type of failure, where it is not what docs/recovery.md lists. `{agent}` stands for "
        "the agent's name; a group `(?P<tool>…)` names a tool that cannot be loaded.",
    )

    @property
    def all_patterns(self) -> Mapping[Failure, str]:
        from recovery.failures import DEFAULT_PATTERNS

        return {**DEFAULT_PATTERNS, **self.patterns}


@dataclass(frozen=True, slots=True)
class Watch:
    memory: Literal["report", "revert", "adopt"] = _key(
        _choice("report", "revert", "adopt"),
        "report",
        "What a watch does about rows that another program changed in memory.db: report tells of them, revert rebuilds "
        "the file from the journal and puts the changed one into quarantine, adopt does the same and journals what was "
        "changed as events.",
    )


@dataclass(frozen=True, slots=True)
class Embeddings:
    model: str = _key(PATH, "models/all-MiniLM-L6-v2", "The directory of the sentence-transformers model.")
    batch_size: int = _key(_whole(1, 4096), 32, "Texts that are embedded at once.")
    mirror: str = _key(
        OPTIONAL_PATH, "", "A directory that holds the model's original files, or a directory of such directories: "
        "where `journal recover model` looks first.",
    )  # fmt: skip
    hub: str = _key(
        HUB, "", "The address of the hub that is asked after that. Empty means $HF_ENDPOINT, else "
        "https://huggingface.co; off never asks one. Journaled hashes decide whether what it sends is taken.",
    )  # fmt: skip
    repository: str = _key(REPOSITORY, "sentence-transformers/all-MiniLM-L6-v2", "The model's name on the hub.")
    revision: str = _key(REVISION, "main", "The branch, tag or commit there.")


@dataclass(frozen=True, slots=True)
class Disk:
    reserve_bytes: int = _key(
        _whole(0), 16 << 20, "Writes are refused while less than this is free, so that recovery has room to run."
    )


@dataclass(frozen=True, slots=True)
class Durability:
    strict: bool = _key(
        BOOLEAN,
        False,
        "Before a batch is acknowledged, its seq is synced to `journal/watermark`, too: a second sync a batch. Then an "
        "acknowledged event that is damaged at the journal's very end can never pass for one that was not, even where "
        "memory.db and every receipt are gone.",
    )


@dataclass(frozen=True, slots=True)
class Redact:
    patterns: tuple[str, ...] = _key(
        PATTERNS, (), "Regular expressions (Python's). What they match is replaced by `[redacted]`."
    )
    fields: tuple[str, ...] = _key(
        FIELD_NAMES, (), "Names of fields, in any case: `password` covers `\"password\": …` and `password=…`."
    )


@dataclass(frozen=True, slots=True)
class Config:
    """A whole journal.yaml. ``Config()`` is what an absent file means."""

    paths: Paths = _section(Paths, "Where things lie.")
    segment_bytes_max: int = _key(
        _whole(64 << 10, 1 << 30), 16 << 20, "A segment file is sealed, and the next one begun, at this length."
    )
    checkpoint: Checkpoint = _section(Checkpoint, "When a checkpoint is made: at whichever limit is reached first.")
    retention: Retention = _section(Retention, "Which checkpoints `journal checkpoint prune` keeps.")
    quarantine: Quarantine = _section(Quarantine, "How long damaged and replaced files are kept.")
    parity: Parity = _section(Parity, "Parity, from which files that rot are restored.")
    scrub: Scrub = _section(Scrub, "Reading everything, to find what rots.")
    agents: Agents = _section(Agents, "How agent configs are judged.")
    reload: Reload = _section(Reload, "How a failed hot reload is told.")
    watch: Watch = _section(Watch, "What `journal watch` and `open_server(watch=True)` do.")
    embeddings: Embeddings = _section(Embeddings, "The embedding model (extra `embeddings`).")
    disk: Disk = _section(Disk, "Free space.")
    durability: Durability = _section(Durability, "How much is synced before a write is acknowledged.")
    redact: Redact = _section(
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


# -- the table, read --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """One documented key, or a section (``kind`` is None)."""

    name: str
    doc: str
    kind: Kind | None
    default: object


class BadKey(Exception):
    """A key or value that is refused: ``where`` is its dotted name, the text says why, ``hint`` what to write."""

    def __init__(self, where: tuple[str, ...], reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.where = where
        self.reason = reason
        self.hint = hint


def keys(cls: type[Any] = Config, prefix: str = "") -> Iterator[Key]:
    """Every section and key, in the order of the file."""
    types = get_type_hints(cls)
    for each in fields(cls):
        kind = each.metadata.get("kind")
        default = None
        if kind is not None:
            default = each.default if each.default_factory is MISSING else each.default_factory()
        yield Key(prefix + each.name, each.metadata["doc"], kind, default)
        if kind is None:
            yield from keys(types[each.name], f"{prefix}{each.name}.")


def from_mapping(values: Mapping[str, object]) -> Config:
    """The configuration that a parsed journal.yaml holds. Raises BadKey."""
    config = _read(Config, values, ())
    _refuse_overlaps(config.paths)
    _refuse_parity_on(config.paths, config.parity.directory)
    return config


def _read(cls: type[T], values: Mapping[str, object], where: tuple[str, ...]) -> T:
    known = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]
    types = get_type_hints(cls)
    given: dict[str, object] = {}
    for name, value in values.items():
        here = (*where, name)
        if name not in known:
            raise BadKey(here, f"unknown key {'.'.join(here)[:200]!r}", _near(here))
        kind: Kind | None = known[name].metadata.get("kind")
        if kind is not None:
            try:
                given[name] = kind.read(value)
            except ValueError:
                raise BadKey(here, f"{'.'.join(here)} must be {kind.text}") from None
        elif value is not None:  # a section of which only the heading is there
            if not isinstance(value, dict) or not is_dataclass(types[name]):
                raise BadKey(here, f"{'.'.join(here)} must be a section of keys")
            given[name] = _read(types[name], value, here)
    return cls(**given)


def _near(where: tuple[str, ...]) -> str:
    """What was likely meant: the same section first, then that name in another section."""
    names = [key.name for key in keys()]
    dotted = ".".join(where)
    found = get_close_matches(dotted, names, n=1, cutoff=0.7)
    found = found or [name for name in names if get_close_matches(where[-1], [name.split(".")[-1]], cutoff=0.8)]
    if found:
        return f"did you mean {found[0]}?"
    prefix = "".join(f"{part}." for part in where[:-1])
    siblings = [name for name in names if name.startswith(prefix) and "." not in name[len(prefix) :]]
    return "known here: " + ", ".join(name[len(prefix) :] for name in siblings)


def _refuse_overlaps(paths: Paths) -> None:
    """Two names for one place, or state inside the journal, would let one overwrite or quarantine the other."""
    named = {each.name: getattr(paths, each.name) for each in fields(paths)}
    for name, path in named.items():
        for other, place in named.items():
            if name != other and (path == place or path.startswith(f"{place}/")):
                raise BadKey(("paths", name), f"paths.{name} lies in paths.{other}", "give each a place of its own")


def _refuse_parity_on(paths: Paths, directory: str) -> None:
    """Parity in a directory that something else keeps would be taken for its files, or be swept with them."""
    if not directory:
        return
    for each in fields(paths):
        place = getattr(paths, each.name)
        if directory == place or directory.startswith(f"{place}/") or place.startswith(f"{directory}/"):
            raise BadKey(("parity", "directory"), f"parity.directory lies in paths.{each.name}, or around it",
                         "give it a place of its own, or leave it empty")  # fmt: skip
