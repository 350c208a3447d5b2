"""What kind of failure a reload ended in: from what the server's callback raised, else from what its log says.

Pure. Servers raise these exceptions, or their own with an attribute ``failure`` (and ``tools``), or declare which of
theirs mean what. Must not know what is done about a failure: that is the table's (`recovery.tables.reload`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from journal.errors import EnvironmentFault
from recovery.config.kinds import FAILURE_NAMES as FAILURES
from recovery.config.kinds import Failure

DEFAULT_PATTERNS: Mapping[Failure, str] = {
    "validation_failure": r"validation_failed\b.*{agent}",
    "memory_corruption": r"memory_corruption\b.*{agent}",
    "tool_loading_failure": r"tool_loading_error\b.*{agent}(?:.*\btool[=: ]+(?P<tool>[\w./-]+))?",
    "conversation_state_loss": r"conversation_state_lost\b.*{agent}",
}


class ReloadError(Exception):
    """Base of what a reload callback may raise to say what went wrong. By itself it says that nobody knows."""

    failure: ClassVar[Failure] = "unknown"


class ValidationFailure(ReloadError):
    """The server does not accept the config."""

    failure = "validation_failure"


class MemoryCorruption(ReloadError):
    """What the server reads of the agent's memory makes no sense."""

    failure = "memory_corruption"


class ToolLoadingFailure(ReloadError):
    """Some of the agent's tools cannot be loaded; ``tools`` names them."""

    failure = "tool_loading_failure"

    def __init__(self, message: str = "", tools: Sequence[str] = ()) -> None:
        super().__init__(message or f"cannot load {', '.join(tools)}")
        self.tools = tuple(tools)


class ConversationStateLoss(ReloadError):
    """Messages of the agent's conversations are not there."""

    failure = "conversation_state_loss"


class ReloadFailed(EnvironmentFault):
    """A reload failed; what was done about it is ``outcome``. The agent has its previous version again, or its status
    is failed."""

    code = "reload_failed"

    def __init__(self, message: str, outcome: Any, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.outcome = outcome


def failure_of(
    error: BaseException, declared: Mapping[type[BaseException], Failure] | None = None
) -> tuple[Failure, tuple[str, ...]]:
    """The type of failure that an exception means, and the tools that it names; its causes are asked after it."""
    for each in _causes(error):
        told = getattr(each, "failure", None)
        said: Failure = next((kind for kind in FAILURES if kind == told), "unknown")
        if said == "unknown":
            said = next((kind for cls, kind in (declared or {}).items() if isinstance(each, cls)), "unknown")
        if said != "unknown":
            tools = getattr(each, "tools", ())
            named = tools if isinstance(tools, list | tuple | set | frozenset) else ()
            return said, tuple(tool for tool in named if isinstance(tool, str))
    return "unknown", ()


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if any(each is other for other in seen):
            continue
        seen.append(each)
        yield each
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
        waiting += [cause for cause in (each.__cause__, each.__context__) if cause is not None]


def failure_in(text: str, agent: str, patterns: Mapping[Failure, str]) -> tuple[Failure, tuple[str, ...], str]:
    """The type of the first line of a log that speaks of a failure of `agent`, the tools that such lines name, and the
    line. A pattern's {agent} stands for the name, whole: `writer` is not found in `writer-2`."""
    name = rf"(?<![\w.-]){re.escape(agent)}(?![\w-]|\.\w)"
    compiled = [(kind, re.compile(patterns[kind].replace("{agent}", name))) for kind in FAILURES if kind in patterns]
    first: tuple[Failure, str] | None = None
    tools: list[str] = []
    for line in text.splitlines():
        for kind, pattern in compiled:
            found = pattern.search(line)
            if found is None:
                continue
            first = first or (kind, line.strip())
            if kind == "tool_loading_failure" and found.groupdict().get("tool"):
                tools.append(found["tool"])
            break
    if first is None:
        return "unknown", (), ""
    return first[0], tuple(dict.fromkeys(tools)), first[1]
