"""A file that the user names to be written to: whole or not at all, and never over what is live."""

from __future__ import annotations

import os

from recovery.cli.app import App


def check_output(app: App, output: str) -> None:
    """Raises UsageError where nothing can be written, before any work is done."""
    from journal.errors import UsageError
    from recovery.places import is_within, place_of

    if _is_stream(output):
        return
    path, layout = os.path.realpath(output), app.data.layout
    place_of(os.path.dirname(path), "the directory of -o")
    if is_within(path, os.path.realpath(layout.journal)) or path == os.path.realpath(layout.memory_db):
        raise UsageError("the live data lies there", path=path, hint="name a file elsewhere")
    if not os.path.isdir(os.path.dirname(path)) or os.path.isdir(path):
        raise UsageError("no file can be written there", path=path, hint="name a file in a directory that exists")


def write_output(app: App, output: str, content: bytes) -> None:
    """Puts a file in the place of the one that is there, whole and synced. A pipe or a device gets it as it is."""
    from journal.files import write_file

    check_output(app, output)
    if _is_stream(output):  # a rename would take its name away, from the whole system perhaps
        with open(output, "wb") as stream:
            stream.write(content)
    else:
        write_file(app.data.storage, os.path.realpath(output), content)


def _is_stream(output: str) -> bool:
    return os.path.exists(output) and not os.path.isfile(output) and not os.path.isdir(output)
