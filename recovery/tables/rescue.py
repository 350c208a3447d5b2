"""What takes the place of an agent config that is not valid. Replay first; what comes after it is for configs of which
the journal has no valid version.
"""

from __future__ import annotations

from recovery.facts import Rescue, Strategy
from recovery.rows import Row


def _from(strategy: Strategy, when: str, words: str) -> Row[Rescue]:
    def reason(rescue: Rescue) -> str:
        chosen = rescue.chosen
        assert chosen is not None
        over = "; ".join(rescue.passed_over)
        return f"{words.format(chosen.source)}" + (f" (passed over: {over})" if over else "")

    def holds(rescue: Rescue) -> bool:
        return rescue.chosen is not None and rescue.chosen.strategy == strategy

    return Row(strategy, when, holds, "rescue", "failed", 1, reason, "journal recover agents")


RESCUE: tuple[Row[Rescue], ...] = (
    _from("journal", "a version that was journaled is valid: the newest such", "its last valid version is {}"),
    _from("git", "agents/ lies in a git repository, and HEAD or one of the five commits before it has a valid one",
          "git has it in {}"),
    _from("backup", "`agents.backup` names a directory that has a valid one", "the backup has it in {}"),
    _from("repair", "its bytes can be mended: NUL bytes, fences, tabs, values without quotes, empty values",
          "its bytes can be repaired: {}"),
    _from("minimal", "none of these, and a config that only says so can be written", "nothing of it is left: {}"),
    Row("none", "no event can hold a config of this name", lambda r: True, "keep", "failed", 1,
        lambda r: "nothing can take its place: " + ("; ".join(r.passed_over) or r.complaint),
        "rename the file, or move it elsewhere"),
)  # fmt: skip
