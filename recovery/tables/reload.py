"""What is done about a reload that failed, by the type of its failure; and what if that does not help either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recovery.config.kinds import Failure

StepName = Literal[
    "suspend", "roll_back", "validate", "rebuild_scope", "verify_scope", "reduce_tools", "rebuild_messages", "reload",
    "resume",
]  # fmt: skip

STEP_WORDS: dict[StepName, str] = {
    "suspend": "suspend the agent",
    "roll_back": "journal the failed text as rejected, and write the last good version",
    "validate": "validate the version in force",
    "rebuild_scope": "rebuild the scope agent:NAME from the journal, nothing else",
    "verify_scope": "compare the scope with the journal's",
    "reduce_tools": "write the config without the failing tools; the original stays in the journal",
    "rebuild_messages": "rebuild the agent's messages from the journal",
    "reload": "let the server load it again",
    "resume": "resume the agent",
}


@dataclass(frozen=True, slots=True)
class Remedy:
    """The steps for one type of failure, in order, and which type is gone on with where one of them fails; None: the
    agent's status becomes failed."""

    failure: Failure
    steps: tuple[StepName, ...]
    otherwise: Failure | None = "unknown"


RELOAD: tuple[Remedy, ...] = (
    Remedy("validation_failure", ("suspend", "roll_back", "validate", "reload", "resume")),
    Remedy("memory_corruption", ("rebuild_scope", "verify_scope", "reload")),
    Remedy("tool_loading_failure", ("reduce_tools", "reload")),
    Remedy("conversation_state_loss", ("rebuild_messages", "reload")),
    Remedy("unknown", ("suspend", "roll_back", "rebuild_scope", "rebuild_messages", "validate", "reload", "resume"),
           None),
)  # fmt: skip


def remedy_for(failure: Failure) -> Remedy:
    """The line for a type of failure: there is exactly one."""
    (remedy,) = (each for each in RELOAD if each.failure == failure)
    return remedy
