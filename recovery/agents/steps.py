"""The step that gives an agent a valid config again: journaled with its source, then written as a file.

Nothing is brought back silently: the config and the record of where it came from are one group, all or none.
"""

from __future__ import annotations

from contextlib import closing
from time import time_ns

from journal.errors import EnvironmentFault
from journal.events import ConfigWritten, RecoveryStepCompleted
from journal.log import Log
from recovery.agents.measure import Measure
from recovery.agents.rescue import Rescuer
from recovery.data import Data
from recovery.plan import Step
from recovery.recovered import Recovered, Rescued
from replay.catchup import catch_up
from replay.own_events import journal_events
from replay.rebuild import renew_agents
from replay.schema import connect

_REASON_MAX = 2000


def rescue_agents(data: Data, log: Log, step: Step, result: Recovered) -> dict[str, int]:
    """Journals a valid version of each agent of the step, and brings the files along; edits go to quarantine."""
    rescuer = Rescuer(data, log.reader(), Measure.of(data.config.agents))
    counts = {"rescued": 0}
    for name in step.names:
        found = rescuer.find(name, step.reason)
        chosen = found.rescue.chosen
        if chosen is None or found.content is None:
            over = "; ".join(found.rescue.passed_over)
            raise EnvironmentFault(f"agent {name}: nothing can take its place ({over})", path=data.layout.agents)
        reason = f"{chosen.source}; passed over: {'; '.join(found.rescue.passed_over) or 'nothing'}"
        told = RecoveryStepCompleted(
            result.recovery_id, f"agent {name}"[:500], chosen.strategy, {"bytes": len(found.content)},
            reason[:_REASON_MAX],
        )  # fmt: skip
        written = ConfigWritten(name, found.content, origin="recovery")
        seq = journal_events(log, (written, told))[0].seq
        result.rescued.append(Rescued(name, chosen.strategy, chosen.source, seq, found.rescue.passed_over))
        counts["rescued"] += 1
    path = data.generations.current().path
    assert path is not None  # memory.db comes first in every plan
    with closing(connect(path)) as connection:
        catch_up(connection, log.reader())
    outcome = renew_agents(
        data.storage, data.layout, log.reader(), time=time_ns(), reason="journal recover", names=step.names
    )
    result.agents_written += outcome.written
    result.quarantined += outcome.set_aside.values()
    return counts | {"written": len(outcome.written), "set_aside": len(outcome.set_aside)}
