"""What a difference between an agent's file and its journaled version means while somebody watches the directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Lies = Literal["journaled", "missing", "text", "damage", "no_file"]
"""What lies under an agent's name: its journaled bytes, nothing, other bytes, bytes that no person writes (empty, NUL),
or something that is no regular file or cannot be read."""
WatchAction = Literal["none", "wait", "report", "write", "remove", "reject", "reject_and_put_back"]


@dataclass(frozen=True, slots=True)
class WatchFact:
    """One name, seen under the writer's lock.

    ``is_agent``: the state has such an agent. ``is_writing``: the hook has still to write this file itself.
    ``is_held``: a process has the file open. ``has_directory``: agents/ is there. ``is_safe``: an event can hold name
    and bytes. ``complaint`` is what strict validation refuses the bytes for, empty in the other modes.
    """

    name: str
    lies: Lies
    is_agent: bool
    has_directory: bool = True
    is_writing: bool = False
    is_held: bool = False
    is_safe: bool = True
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class WatchRow:
    case: str
    when: str
    action: WatchAction


def watch_case(fact: WatchFact) -> str:
    """The case of a fact: the first line that holds. Total."""
    if not fact.has_directory:
        return "no_directory"
    if fact.lies == "journaled" or (fact.lies == "missing" and not fact.is_agent):
        return "same"
    if fact.is_writing:
        return "own"
    if fact.lies == "missing":
        return "deleted"
    if fact.lies == "no_file":
        return "no_file"
    if not fact.is_safe:
        return "unsafe"
    if fact.is_held:
        return "held"
    if fact.lies == "damage":
        return "damaged" if fact.is_agent else "unfinished"
    if fact.complaint:
        return "refused" if fact.is_agent else "refused_new"
    return "edited" if fact.is_agent else "new"


WATCH: tuple[WatchRow, ...] = (
    WatchRow("no_directory", "agents/ itself is gone: no agent was deleted", "report"),
    WatchRow("same", "the journaled bytes, or no file of no agent: what the hook writes is not echoed", "none"),
    WatchRow("own", "the hook has still to write this file itself", "none"),
    WatchRow("deleted", "the file of an agent is gone", "remove"),
    WatchRow("no_file", "a link, a directory, a pipe, or a file that cannot be read", "report"),
    WatchRow("unsafe", "a name that no event can hold", "report"),
    WatchRow("held", "a program has the file open: it may not have written all", "wait"),
    WatchRow("damaged", "the file of an agent is empty or holds NUL bytes", "reject_and_put_back"),
    WatchRow("unfinished", "a new file that is empty or holds NUL bytes", "report"),
    WatchRow("refused", "strict validation refuses the edit of an agent", "reject_and_put_back"),
    WatchRow("refused_new", "strict validation refuses a new file, which stays where it is", "reject"),
    WatchRow("edited", "other bytes, older journaled ones too: somebody's edit", "write"),
    WatchRow("new", "the file of a new agent", "write"),
)


def watch_row(fact: WatchFact) -> WatchRow:
    case = watch_case(fact)
    return next(row for row in WATCH if row.case == case)
