"""Where another version of an agent config can be had, when the one in force is not valid. Only looks.

The journal comes first. What the journal never saw comes from git's history, the backup directory, a repair of the
bytes that lie there, and last of all a minimal config. Which is taken, the table says (`recovery.tables.rescue`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from journal.errors import Refused
from journal.events import ConfigWritten
from journal.limits import CONFIG_BYTES_MAX, check_agent_name
from journal.reader import LogReader
from recovery.agents.git import versions
from recovery.agents.measure import Measure
from recovery.data import Data
from recovery.facts import Rescue, Strategy, Try
from replay.agents import SUFFIX, AgentFact, Agents, look


class Found(NamedTuple):
    """A rescue, and the content of what it chose; None where it chose nothing."""

    rescue: Rescue
    content: bytes | None


class Rescuer:
    """Looks for versions of agents' configs. One pass over the journal answers for all of them."""

    def __init__(self, data: Data, reader: LogReader, measure: Measure) -> None:
        self.data = data
        self.reader = reader
        self.measure = measure
        self._journaled: dict[str, list[tuple[int, str, bytes]]] | None = None

    def find(
        self, name: str, complaint: str, *, but: Collection[str] = (), mend: bool = True, blank: bool = True
    ) -> Found:
        """The first valid version of `name`. `but` has the sha256 of those that will not do, whatever the validator
        says; without `mend`, only what somebody wrote is looked for, and without `blank` no minimal config will do."""
        tries: list[Try] = []
        try:
            check_agent_name("agent name", name)
        except Refused as error:
            return Found(Rescue(name, f"{complaint}; {error.message}"), None)
        for strategy, source, content, problem in self._versions(name, mend, blank):
            if content is not None and not problem:
                problem = self.measure.complaint(name, content)
                if not problem and len(content) > CONFIG_BYTES_MAX:
                    problem = f"{len(content)} bytes are more than an event takes"
            sha256 = hashlib.sha256(content).hexdigest() if content is not None else ""
            if not problem and sha256 in but:
                problem = "the server cannot load it"
            tries.append(Try(strategy, source, problem, sha256))
            if not problem:
                return Found(Rescue(name, complaint, tuple(tries)), content)
        return Found(Rescue(name, complaint, tuple(tries)), None)

    def _versions(self, name: str, mend: bool, blank: bool) -> Iterator[tuple[Strategy, str, bytes | None, str]]:
        yield from self._from_journal(name)
        directory = self.data.layout.agents
        for version in versions(directory, name + SUFFIX):
            yield "git", version.source, version.content, version.problem
        yield self._from_backup(name)
        if mend:
            yield self._repaired(name)
        if mend and not blank:
            yield "minimal", "a minimal config", None, "what is there can be read: nobody asked for less"
        elif mend:
            from replay.agent_format import minimal

            yield "minimal", "a minimal config", minimal(name, self.measure.schema), ""

    def _from_journal(self, name: str) -> Iterator[tuple[Strategy, str, bytes | None, str]]:
        seen: set[str] = set()
        for seq, sha256, content in reversed(self._history().get(name, ())):
            if sha256 not in seen:
                seen.add(sha256)
                yield "journal", f"seq {seq}", content, ""
        if not seen:
            yield "journal", "no version", None, "it was never journaled"

    def _history(self) -> dict[str, list[tuple[int, str, bytes]]]:
        if self._journaled is None:
            self._journaled = {}
            for batch in self.reader.batches():
                for seq, record in enumerate(batch.records(), batch.first_seq):
                    event = record.event
                    if isinstance(event, ConfigWritten):
                        self._journaled.setdefault(event.name, []).append((seq, event.sha256, event.content))
        return self._journaled

    def _from_backup(self, name: str) -> tuple[Strategy, str, bytes | None, str]:
        directory = self.data.agents_backup
        if directory is None:
            return "backup", "agents.backup", None, "no backup directory is configured"
        seen = look(self.data.storage, f"{directory}/{name}{SUFFIX}")
        problem = "" if seen.content is not None else seen.message or "it has no such file"
        return "backup", f"{directory}/{name}{SUFFIX}", seen.content, problem

    def _repaired(self, name: str) -> tuple[Strategy, str, bytes | None, str]:
        from replay.agent_repair import repair

        seen = look(self.data.storage, f"{self.data.layout.agents}/{name}{SUFFIX}")
        content = seen.content
        if not content:  # then the version that is in force, which will not do as it is
            content = next((each for _, _, each in reversed(self._history().get(name, ()))), b"")
        if not content:
            return "repair", "its bytes", None, seen.message or "there are none"
        repaired = repair(content)
        if not repaired.changes:
            return "repair", "its bytes", None, "nothing is wrong with them that could be mended"
        return "repair", ", ".join(repaired.changes), repaired.content, ""


def judged(
    data: Data, reader: LogReader, facts: Sequence[AgentFact], agents: Agents, asked: Collection[str]
) -> tuple[list[AgentFact], list[Rescue]]:
    """The facts with the validator's complaints, and what could take the place of each config that is not valid.

    `asked` are the names that somebody wants recovered: for these a link, or a file that cannot be read, is damage
    too, and one that lies only in the backup directory or in git is looked for there. A config that can be read, and
    only lacks what the schema asks for, gives way to a minimal one only if it is asked for: it may be all there is.
    """
    rescuer = Rescuer(data, reader, Measure.of(data.config.agents))
    result = [replace(fact, complaint=_complaint(data, rescuer.measure, fact, agents, asked)) for fact in facts]
    known = {fact.name for fact in facts} | set(rescuer._history()) if asked or data.agents_backup else set()
    for name in sorted(_elsewhere(data, asked) - known):
        found = rescuer.find(name, "there is no file", mend=False)
        if found.content is not None:
            complaint = "there is no file" if name in asked else ""
            result.append(AgentFact(name, "unjournaled", kind="missing", complaint=complaint))
    rescues = [
        rescuer.find(
            fact.name, fact.complaint, mend=fact.kind != "missing" or fact.expected is not None,
            blank=fact.name in asked or not _is_legible(data, fact, agents),
        ).rescue
        for fact in result
        if fact.complaint
    ]
    return sorted(result, key=lambda fact: fact.name), rescues


def _elsewhere(data: Data, asked: Collection[str]) -> set[str]:
    directory = data.agents_backup
    files = data.storage.list(directory) if directory is not None else []
    return {*asked, *(name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX))}


def _is_legible(data: Data, fact: AgentFact, agents: Agents) -> bool:
    """Whether the version in force can be read as far as its frontmatter goes."""
    from replay.agent_format import MARKDOWN

    content: bytes | None
    if fact.expected is not None:
        content = agents[fact.name][1]
    else:
        content = look(data.storage, f"{data.layout.agents}/{fact.name}{SUFFIX}").content
    return content is not None and all(
        each.level == "note" or each.code == "duplicate_key" for each in MARKDOWN.parse(content).findings
    )


def _complaint(data: Data, measure: Measure, fact: AgentFact, agents: Agents, asked: Collection[str]) -> str:
    """What the validator forbids the version in force for. In lenient mode nothing that was journaled is forbidden,
    unless it is damage and somebody asked."""
    if fact.condition == "refused":
        return ""
    if fact.expected is not None:
        if measure.mode != "strict" and fact.name not in asked:
            return ""
        return measure.complaint(fact.name, agents[fact.name][1])
    if fact.condition != "unjournaled":
        return ""
    seen = look(data.storage, f"{data.layout.agents}/{fact.name}{SUFFIX}")
    if seen.content is None:
        return seen.message if fact.name in asked else ""
    return measure.complaint(fact.name, seen.content)
