"""Options that name a file or a directory: the shell completes them; whether it is there is the verb's to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Place(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Text that the shell completes from the file system."""

    def __init__(self, name: str) -> None:
        self.name = name

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=self.name)]


DIRECTORY = Place("dir")
FILE = Place("file")
