"""What the facts about one agent's file mean; a hand edit is kept until its owner decides."""

from __future__ import annotations

from recovery.rows import Row
from replay.agents import AgentFact

_MEMORY = "journal recover memory"
_AGENTS = "journal recover agents"


def _detail(fact: AgentFact) -> str:
    return f" ({fact.message or fact.detail})" if fact.detail else ""


AGENT: tuple[Row[AgentFact], ...] = (
    Row("refused", "its row cannot be made into a file: an unsafe name, or content with another sha256",
        lambda a: a.condition == "refused", "keep", "failed", 1,
        lambda a: "it is not made into a file" + _detail(a), _MEMORY),
    Row("broken", "a file of no agent that is damaged, or that the validator refuses",
        lambda a: a.condition == "unjournaled" and bool(a.complaint), "rescue", "degraded", 3,
        lambda a: f"the journal never saw this file, and it is not valid: {a.complaint}",
        f"{_AGENTS}, or write it anew and: journal adopt agents NAME"),
    Row("elsewhere", "no file, and the journal never saw one, but the backup directory has it",
        lambda a: a.condition == "unjournaled" and a.kind == "missing", "none", "healthy", 0,
        lambda a: "only the backup directory has this agent", f"{_AGENTS} --agent NAME"),
    Row("no_file", "a link, a directory or a pipe of no agent",
        lambda a: a.condition == "unjournaled" and a.kind != "file", "none", "healthy", 0,
        lambda a: f"it is no agent's and no file{_detail(a)}", "move it out of the agents directory"),
    Row("unjournaled", "a file of no agent",
        lambda a: a.condition == "unjournaled", "none", "healthy", 0,
        lambda a: "the journal never saw this file", "journal adopt agents NAME"),
    Row("invalid", "the journaled version itself is one that the validator refuses",
        lambda a: bool(a.complaint) and a.expected is not None, "rescue", "failed", 1,
        lambda a: f"its journaled version is not valid: {a.complaint}", f"{_AGENTS} --agent NAME"),
    Row("missing", "no file",
        lambda a: a.condition == "missing" and a.expected is not None, "write", "failed", 1,
        lambda a: "its file is missing", _AGENTS),
    Row("stale", "the bytes of an older journaled version",
        lambda a: a.condition == "stale" and a.expected is not None, "write", "healthy", 0,
        lambda a: "an older journaled version, renewed by the next open"),
    Row("removed", "the journaled bytes of an agent that was removed",
        lambda a: a.condition == "stale", "remove", "healthy", 0,
        lambda a: "the file of a removed agent, removed by the next open"),
    Row("damaged", "empty, NUL bytes, a link, a directory, a pipe, unreadable",
        lambda a: a.condition == "damaged" and a.expected is not None, "set_aside_and_write", "failed", 1,
        lambda a: "its file is damaged" + _detail(a), _AGENTS),
    Row("drift", "bytes that the journal never saw: a hand edit, broken YAML too",
        lambda a: a.condition == "drift" and a.expected is not None, "set_aside_and_write", "degraded", 3,
        lambda a: "it was edited by hand" + _detail(a), f"journal adopt agents NAME, or {_AGENTS}"),
    Row("drift_of_removed", "the same, where the agent was removed",
        lambda a: a.condition in ("drift", "damaged"), "set_aside", "degraded", 3,
        lambda a: "the agent was removed, and its file edited by hand" + _detail(a),
        f"journal adopt agents NAME, or {_AGENTS}"),
    Row("ok", "the journaled bytes", lambda a: True, "none", "healthy", 0, lambda a: "the journaled bytes"),
)  # fmt: skip
