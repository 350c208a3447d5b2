"""Completing the names of agents and entities, and saying which agent was likely meant."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from journal.errors import UsageError
    from recovery.data import Data

_ENTITIES_MAX = 1000


class AgentName(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """An agent's name; the shell completes it from memory.db and the files."""

    name = "name"

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from journal.errors import JournalError
        from recovery.cli.app import App

        app = context.find_object(App)
        try:
            known = self.known(app.data, incomplete) if app is not None else set()
        except (JournalError, OSError):  # there is nothing to complete from, and nobody to tell
            return []
        return [CompletionItem(each) for each in sorted(known) if each.startswith(incomplete) and each.isprintable()]

    def known(self, data: Data, incomplete: str) -> set[str]:
        from replay.agents import SUFFIX

        files = data.storage.list(data.layout.agents)
        names = {file.removesuffix(SUFFIX) for file in files if file.endswith(SUFFIX)}
        return names | _rows(data, "SELECT name FROM agents")


def _rows(data: Data, query: str, *values: object) -> set[str]:
    import sqlite3

    from recovery.reading import reading

    path = data.generations.current().path
    if path is None:
        return set()
    try:
        with reading(path) as connection:
            return {name for (name,) in connection.execute(query, values)}
    except (sqlite3.Error, OSError):
        return set()


AGENT_NAME = AgentName()


class EntityName(AgentName):
    """An entity's name, of any scope; completed from memory.db, where there are not too many to choose from."""

    def known(self, data: Data, incomplete: str) -> set[str]:
        query = "SELECT DISTINCT name FROM entities WHERE substr(name, 1, ?) = ? LIMIT ?"
        return _rows(data, query, len(incomplete), incomplete, _ENTITIES_MAX)


ENTITY_NAME = EntityName()


def no_agent(name: str, known: Collection[str], where: str = "") -> UsageError:
    """The error for a name of no agent, with the ones that are spelt like it."""
    from difflib import get_close_matches

    from journal.errors import UsageError

    near = get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "journal agents list names them"
    return UsageError(f"there is no agent {name!r}{where}", hint=hint)
