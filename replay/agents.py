"""Agent rows → files `agents/{name}.md`, byte for byte; and how the files compare with the rows.

Knows names, bytes and file types; must not know where the rows come from or what recovery decides. The rows are the
state, the files are made from them: a file is only ever replaced or removed here if its bytes are in the journal, or
after it went to quarantine. Everything happens under the writer's lock.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from journal.errors import EnvironmentFault, Refused, Unreadable
from journal.files import publish
from journal.storage import Kind, Storage
from replay.agent_quarantine import printable, set_aside
from replay.agent_twins import SUFFIX as SUFFIX
from replay.agent_twins import are_one, folded, groups

NAME_BYTES_MAX = 255 - len(SUFFIX)
READ_BYTES_MAX = 16 << 20  # beyond any content that an event takes: such a file is no journaled version
TEMPORARY = ".agent.tmp"  # one at a time, and not made of the agent's name, which may fill NAME_MAX already

Agents = Mapping[str, tuple[str, bytes]]
"""The current agents: name → (sha256 in hex, content)."""

Versions = Callable[[str], Collection[str]]
"""Every sha256 ever journaled for a name. Asked only where a file differs from its current version: it may be as slow
as a scan of the journal. Behind a live write the one version before is answer enough: all else is somebody's edit."""

Condition = Literal["ok", "missing", "stale", "drift", "damaged", "unjournaled", "refused"]
Detail = Literal[
    "", "empty", "nul_bytes", "link", "not_a_file", "unreadable", "too_large", "broken_yaml", "unsafe_name",
    "content_mismatch", "twin",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """What lies under a name. ``content`` is None unless it is a file that could be read; ``detail`` says why not."""

    kind: Kind
    content: bytes | None = None
    detail: Detail = ""
    message: str = ""

    @property
    def sha256(self) -> str | None:
        return hashlib.sha256(self.content).hexdigest() if self.content is not None else None


@dataclass(frozen=True, slots=True)
class AgentFact:
    """How one file compares with the state.

    ``ok``: the current bytes. ``missing``. ``stale``: an older journaled version, or that of a removed agent.
    ``drift``: bytes that the journal never saw, a hand edit. ``damaged``: nothing that a person wrote. ``unjournaled``:
    a file of no agent, left alone. ``refused``: a row that is not made into a file. ``detail`` says more, ``found``
    and ``expected`` are sha256 in hex, ``expected`` is None where no such agent exists now. ``complaint`` is what the
    validator forbids the version in force for, the journaled one or an unjournaled file's own; empty where it was not
    asked.
    """

    name: str
    condition: Condition
    detail: Detail = ""
    message: str = ""
    kind: Kind = "missing"
    found: str | None = None
    expected: str | None = None
    complaint: str = ""


@dataclass(slots=True)
class Outcome:
    """What was done: names, in order. ``kept`` is drift that nobody has decided about, ``changed`` what differs from
    its fact by now and was not touched; ``set_aside`` gives the place in quarantine."""

    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    set_aside: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


# -- names ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def file_name(name: str) -> str:
    """The file of agent `name`. Raises Refused for a name that could leave the directory or is no file name.

    Asked again at every use, although events are checked before they are journaled: the row may have been put into
    the database by another program.
    """
    if not name or name in (".", "..") or any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise Refused("unsafe_name", f"agent name {name!r} is no safe file name")
    if len(name.encode()) > NAME_BYTES_MAX:
        raise Refused("unsafe_name", f"agent name {name[:40]!r}… is longer than {NAME_BYTES_MAX} bytes")
    return name + SUFFIX


# -- comparing --------------------------------------------------------------------------------------------------------


def look(storage: Storage, path: str) -> Seen:
    """What lies at `path`. A link is not followed, and what is no file is not opened (a pipe would block)."""
    kind = storage.kind(path)
    try:
        if kind == "link":
            return Seen(kind, None, "link", f"a link to {printable(storage.read_link(path))}")
        if kind == "missing":
            return Seen(kind)
        if kind != "file":
            return Seen(kind, None, "not_a_file", "a directory" if kind == "directory" else "no regular file")
        size = storage.size(path)
        if size > READ_BYTES_MAX:
            return Seen(kind, None, "too_large", f"{size} bytes")
        return Seen(kind, storage.read(path))
    except FileNotFoundError:
        return Seen("missing")
    except (EnvironmentFault, Unreadable) as error:
        return Seen(kind, None, "unreadable", error.message)


def judge(name: str, seen: Seen, expected: str | None, versions: Versions) -> AgentFact:
    """One file's fact. Bytes that the journal holds are never damage, whatever they look like."""
    found = seen.sha256

    def fact(condition: Condition, detail: Detail = "", message: str = "") -> AgentFact:
        return AgentFact(name, condition, detail, message, seen.kind, found, expected)

    if seen.kind == "missing":
        return fact("missing" if expected is not None else "ok")
    if found is not None and found == expected:
        return fact("ok")
    journaled = versions(name)
    if expected is None and not journaled:
        return replace(fact("unjournaled", seen.detail, seen.message), name=printable(name))
    if found is not None and found in journaled:
        return fact("stale")
    detail, message = _oddity(seen)
    if detail in ("", "broken_yaml", "too_large") or expected is None:  # nothing replaces a removed agent's file
        return fact("drift", detail, message)
    return fact("damaged", detail, message)


def damage_in(content: bytes) -> tuple[Detail, str]:
    """What no person writes into an agent file, and in words; nothing where the bytes may be somebody's."""
    if not content:
        return "empty", "the file is empty"
    if b"\x00" in content:
        return "nul_bytes", f"{content.count(0)} of {len(content)} bytes are NUL"
    return "", ""


def _oddity(seen: Seen) -> tuple[Detail, str]:
    """What a file that is no journaled version has about it."""
    if seen.content is None:
        return seen.detail, seen.message
    detail, message = damage_in(seen.content)
    if detail:
        return detail, message
    from replay.agent_format import MARKDOWN  # the YAML behind it takes longer to import than most commands to run

    for finding in MARKDOWN.parse(seen.content).findings:
        if finding.code == "broken_yaml":
            return "broken_yaml", str(finding)
    return "", ""


def inspect(
    storage: Storage, directory: str, agents: Agents, versions: Versions, names: Iterable[str] | None = None
) -> list[AgentFact]:
    """The facts of every current agent and of every agent file in `directory`, by name; or only of `names`.

    Reads one file at a time and changes nothing.
    """
    if names is None:
        on_disk = (name.removesuffix(SUFFIX) for name in storage.list(directory) if name.endswith(SUFFIX))
        names = {*agents, *on_disk}
    twins = _twins(storage, directory, agents)
    return [_inspect_one(storage, directory, name, agents, versions, twins.get(name)) for name in sorted(names)]


def _twins(storage: Storage, directory: str, agents: Agents) -> dict[str, str]:
    """Agents that have no file of their own, since the directory takes it for another one's: name → that one's."""
    found: dict[str, str] = {}
    for names in groups(agents):
        held = look(storage, f"{directory}/{names[0]}{SUFFIX}").sha256
        first, *others = sorted(names, key=lambda name: agents[name][0] != held)  # the one whose bytes lie there
        found |= {name: first for name in others if are_one(storage, directory, first, name)}
    return found


def _inspect_one(
    storage: Storage, directory: str, name: str, agents: Agents, versions: Versions, twin: str | None
) -> AgentFact:
    expected, content = agents.get(name, (None, b""))
    if twin is not None:
        message = f"its file would be that of {twin!r}: the file system takes the two names for one"
        return AgentFact(name, "refused", "twin", message, expected=expected)
    if expected is None:
        return judge(name, look(storage, f"{directory}/{name}{SUFFIX}"), None, versions)
    try:
        path = f"{directory}/{file_name(name)}"
    except Refused as error:
        return AgentFact(name, "refused", "unsafe_name", error.message, expected=expected)
    if hashlib.sha256(content).hexdigest() != expected:
        message = "the row's content is not what its sha256 says: repair memory.db first"
        return AgentFact(name, "refused", "content_mismatch", message, expected=expected)
    return judge(name, look(storage, path), expected, versions)


# -- materialising ----------------------------------------------------------------------------------------------------


def write_files(storage: Storage, directory: str, files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Writes agents (name, content) over whatever lies there; returns their names.

    Each file is synced before its rename, so that no crash shows a name with half its bytes; the names become durable
    together, by one directory sync.
    """
    if storage.kind(directory) == "missing":
        storage.make_directory(directory)
    written: list[str] = []
    folds: dict[str, str] = {}
    try:
        for name, content in files:
            path = f"{directory}/{file_name(name)}"
            twin = folds.setdefault(folded(name), name)
            if twin != name and are_one(storage, directory, twin, name):
                raise EnvironmentFault(
                    f"the file system takes the agents {twin!r} and {name!r} for one file",
                    path=directory, hint="write them to a file system that tells them apart",
                )  # fmt: skip
            publish(storage, f"{directory}/{TEMPORARY}", path, content)
            written.append(name)
    finally:
        if written:
            storage.sync_dir(directory)
    return written


Action = Literal["none", "keep", "refuse", "write", "remove", "set_aside", "set_aside_and_write"]


def action_for(fact: AgentFact, *, drift: Literal["keep", "set_aside"]) -> Action:
    """What brings one file to the current version. Total: every condition has its line."""
    wanted = fact.expected is not None
    match fact.condition:
        case "ok" | "unjournaled":
            return "none"
        case "refused":
            return "refuse"
        case "missing":
            return "write"
        case "stale":
            return "write" if wanted else "remove"
        case "drift" if drift == "keep":
            return "keep"
        case "drift" | "damaged":
            return "set_aside_and_write" if wanted else "set_aside"


def bring_current(
    storage: Storage,
    directory: str,
    facts: Sequence[AgentFact],
    agents: Agents,
    *,
    drift: Literal["keep", "set_aside"],
    quarantine: str,
    time: int,
    reason: str,
) -> Outcome:
    """Brings the files of `facts` to the state in `agents`; with drift ``keep``, all but the hand edits.

    `quarantine` is the journal's directory for what is set aside, `time` (UTC ns) and `reason` go into its notes.
    Running it again, after a crash too, ends in the same files.
    """
    outcome = Outcome()

    def to_write() -> Iterator[tuple[str, bytes]]:
        for fact in facts:
            action = action_for(fact, drift=drift)
            if action == "keep":
                outcome.kept.append(fact.name)
            elif action == "refuse":
                outcome.refused.append(fact.name)
            if action in ("none", "keep", "refuse"):
                continue
            path = f"{directory}/{file_name(fact.name)}"
            seen = look(storage, path)
            if (seen.kind, seen.sha256) != (fact.kind, fact.found):  # an editor saved since the facts were taken
                outcome.changed.append(fact.name)
                continue
            if action == "remove":
                storage.remove(path)
                outcome.removed.append(fact.name)
            if action in ("set_aside", "set_aside_and_write"):
                why = f"{reason}: {fact.detail or fact.condition}"
                outcome.set_aside[fact.name] = set_aside(storage, path, quarantine, time=time, reason=why)
            if action in ("write", "set_aside_and_write"):
                yield fact.name, agents[fact.name][1]

    outcome.written = write_files(storage, directory, to_write())
    if outcome.removed or outcome.set_aside:
        storage.sync_dir(directory)
    return outcome
