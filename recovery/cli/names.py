"""Completing the names of agents, and saying which one was likely meant."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from journal.errors import UsageError


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
            known = _known(app) if app is not None else set()
        except (JournalError, OSError):  # there is nothing to complete from, and nobody to tell
            return []
        return [CompletionItem(each) for each in sorted(known) if each.startswith(incomplete)]


def _known(app: object) -> set[str]:
    import sqlite3

    from recovery.cli.app import App
    from recovery.reading import reading
    from replay.agents import SUFFIX

    assert isinstance(app, App)
    data = app.data
    names = {file.removesuffix(SUFFIX) for file in data.storage.list(data.layout.agents) if file.endswith(SUFFIX)}
    path = data.generations.current().path
    if path is not None:
        try:
            with reading(path) as connection:
                names.update(name for (name,) in connection.execute("SELECT name FROM agents"))
        except (sqlite3.Error, OSError):
            pass
    return {name for name in names if name.isprintable()}


AGENT_NAME = AgentName()


def no_agent(name: str, known: Collection[str], where: str = "") -> UsageError:
    """The error for a name of no agent, with the ones that are spelt like it."""
    from difflib import get_close_matches

    from journal.errors import UsageError

    near = get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "journal agents list names them"
    return UsageError(f"there is no agent {name!r}{where}", hint=hint)
