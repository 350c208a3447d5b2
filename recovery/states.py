"""How each part of an open server is, asked of the hook itself: what `hook.health()` and `/v1/health` report.

Cheap enough for a supervisor that asks every second: nothing is scanned, unless pending texts are to be counted.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from journal.errors import JournalError
from recovery.data import Data
from recovery.rows import Health, first
from recovery.tables.states import STATES, LiveFacts, ModelWord

if TYPE_CHECKING:
    from replay.background import Background
    from replay.core import Core

_ORDER: tuple[Health, ...] = ("healthy", "degraded", "failed")
_AGAIN_SECONDS = 60.0  # before the journal is asked again whether there ever was a model


class ComponentState(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part's state, which line of its table that is, and why; ``hint`` is what to run."""

    state: Health
    case: str
    reason: str
    hint: str = ""


class LiveHealth(msgspec.Struct, frozen=True):
    """``status`` is the worst of ``components``. ``agents`` is how many there are, None while memory.db is gone."""

    status: Health
    last_seq: int
    position: int
    agents: int | None
    model: ModelWord
    components: dict[str, ComponentState]


class LiveStates:
    """What an open core and its helpers say of themselves."""

    def __init__(self, data: Data, core: Core, background: Background) -> None:
        self._data = data
        self._core = core
        self._background = background
        self._journaled: tuple[float, bool] | None = None

    def look(self, *, count_pending: bool = False) -> LiveFacts:
        """The facts, taken without the writer's lock: a batch that is under way may be in or not."""
        core, background = self._core, self._background
        state = core.state
        model, problem = self._model()
        return LiveFacts(
            poisoned=core.log.poisoned or "",
            free_bytes=self._data.storage.free_bytes(self._data.layout.journal),
            reserve_bytes=self._data.config.disk.reserve_bytes,
            lag=max(0, core.log.next_seq - 1 - state.applied_seq),
            waiting=core.committer.waiting,
            away=core.away, refuses=core.policy == "refuse",
            unwritten=tuple(sorted(state.unwritten)),
            model=model, model_problem=problem,
            pending=self._pending() if count_pending else None,
            background=background.last_error or "" if background.last_failed == "checkpoints" else "",
        )  # fmt: skip

    def health(self, *, count_pending: bool = True) -> LiveHealth:
        facts = self.look(count_pending=count_pending)
        rows = {component: first(table, facts) for component, table in STATES.items()}
        states = {
            component: ComponentState(row.health, row.case, self._data.redactor.text(row.reason(facts)), row.hint)
            for component, row in rows.items()
        }
        worst = max((each.state for each in states.values()), key=_ORDER.index)
        core = self._core
        return LiveHealth(
            worst, core.log.next_seq - 1, core.state.applied_seq, self._count_agents(), facts.model, states
        )

    def _model(self) -> tuple[ModelWord, str]:
        from replay.encoder import is_available

        background = self._background
        if self._data.storage.kind(self._data.config.model_path(self._data.root)) == "missing":
            return ("missing" if self._was_journaled() else "absent"), ""
        if not is_available(self._data.config.embeddings.backend):
            return "no_extra", ""
        if background.last_failed == "embeddings" and not self._core.away:
            return "refused", background.last_error or ""
        return ("loaded" if background.has_model else "available"), ""

    def _was_journaled(self) -> bool:
        from recovery.model.journaled import journaled_manifest

        if self._journaled is None or monotonic() - self._journaled[0] > _AGAIN_SECONDS:
            try:
                known = journaled_manifest(self._data, self._data.reader()) is not None
            except JournalError:
                known = False  # what is wrong with the journal is told of the journal
            self._journaled = (monotonic(), known)
        return self._journaled[1]

    def _count_agents(self) -> int | None:
        return self._ask("SELECT count(*) FROM agents")

    def _pending(self) -> int | None:
        from replay.embeddings import pending
        from replay.schema import connect

        fingerprint = self._background.fingerprint
        try:
            with closing(connect(self._data.layout.memory_db, read_only=True)) as connection:
                return pending(connection, fingerprint)
        except (sqlite3.Error, OSError):
            return None

    def _ask(self, sql: str) -> int | None:
        from replay.schema import connect

        try:
            with closing(connect(self._data.layout.memory_db, read_only=True)) as connection:
                return int(connection.execute(sql).fetchone()[0])
        except (sqlite3.Error, OSError):
            return None
