"""Journaling what a person did to the agent files: a hand edit becomes the next version, as it is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from journal.errors import Refused, UsageError
from journal.events import ConfigWritten
from journal.limits import admit
from recovery.appending import append_groups
from recovery.data import Data
from recovery.decide import decide_journal
from recovery.diagnose import diagnose
from recovery.rows import stop_error
from replay.agents import SUFFIX, look

_DIFFERENT = ("drift", "unjournaled", "damaged")


class AdoptedAgents(msgspec.Struct):
    """Agents whose bytes on disk were journaled, and files that were not, each with its reason."""

    agents: list[str] = []
    left_out: list[str] = []


def adopt_agents(data: Data, names: Sequence[str] = (), *, dry_run: bool = False) -> AdoptedAgents:
    """Journals the files of `names`, or of every agent whose bytes the journal never saw.

    Raises UsageError for a name that has no file. A file that cannot be an agent (a link, a name that is none, too
    long) is left out and named; so is a damaged one (empty, NUL bytes) that `names` does not ask for.
    """
    found = diagnose(data)
    if found.journal.error:
        raise stop_error(decide_journal(found.journal))
    facts = {fact.name: fact for fact in found.agents}
    unknown = [name for name in names if name not in facts or facts[name].condition == "missing"]
    if unknown:
        raise UsageError(
            f"there is no file for agent {unknown[0]!r}",
            path=f"{data.layout.agents}/{unknown[0]}{SUFFIX}",
            hint="journal check lists the agents whose files differ",
        )
    result = AdoptedAgents()
    chosen = [fact for fact in facts.values() if (not names or fact.name in names) and fact.condition in _DIFFERENT]
    events = []
    for fact in chosen:
        if fact.condition == "damaged" and not names:  # nothing that a person wrote, unless a person says so
            result.left_out.append(f"agent {fact.name}: its file is damaged ({fact.message or fact.detail})")
            continue
        seen = look(data.storage, f"{data.layout.agents}/{fact.name}{SUFFIX}")
        if seen.content is None:
            result.left_out.append(f"agent {fact.name}: {fact.message or seen.message or seen.kind}")
            continue
        try:
            events.append(admit(ConfigWritten(fact.name, seen.content, origin="import"))[0])
        except Refused as error:
            result.left_out.append(f"agent {fact.name}: {error.message}")
            continue
        result.agents.append(fact.name)
    if events and not dry_run:
        append_groups(data, [(event,) for event in events])
    return result
