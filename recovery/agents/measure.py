"""What the configuration asks of an agent config, as one question: is there anything that forbids these bytes?

Pure. Knows the configured mode and schema; must not know where the bytes come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replay.agents import damage_in

if TYPE_CHECKING:
    from recovery.config.table import Agents
    from replay.agent_format import Mode, Schema


@dataclass(frozen=True, slots=True)
class Measure:
    """``mode`` decides what forbids: in strict whatever the schema refuses, else only damage that no person writes."""

    mode: Mode
    schema_name: str

    @classmethod
    def of(cls, config: Agents, *, strictly: bool = False) -> Measure:
        """As configured; ``strictly`` where a server has said that it cannot load what lenient takes."""
        return cls("strict" if strictly else config.validation, config.schema)

    @property
    def schema(self) -> Schema | None:
        from replay.agent_format import SCHEMAS

        return SCHEMAS[self.schema_name]

    def complaint(self, name: str, content: bytes) -> str:
        """What forbids the bytes, in words, with its line; empty where nothing does."""
        if self.mode == "strict":
            from replay.agent_format import validate  # the YAML behind it takes longer to import than most commands run

            verdict = validate(name, content, "strict", schema=self.schema)
            return next((str(each) for each in verdict.findings if each.level == "error"), "")
        return damage_in(content)[1]
