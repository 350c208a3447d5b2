"""Which verbs there are, in the order of `journal --help`, and what the exit codes mean. Imports no verb by itself.

To write a verb NAME:
 1. Add `recovery/cli/NAME.py` with a function `command`, under `@click.command(cls=Verb, examples=(...))` - or a group
    of verbs under `@click.group(cls=VerbGroup)`. Its docstring is its help, and teaches; every example must parse.
 2. Add `"NAME": "what it does"` to VERBS: the line in `journal --help`.
 3. Take the run with `@click.pass_obj` as `app: App`. `app.data` is the directory (NotAJournal where there is none),
    `app.out` prints, `app.json` says which of the two ways. The options of every verb, --data and so on, are there.
 4. If it changes something, say in `cut` what remains after Ctrl-C; whatever was begun must be whole, or as it was.
 5. Return an exit code, or None for 0. Raise JournalError for what went wrong: `run` prints it and exits with its code.
 6. Import what is slow inside the function; print text of others with `app.out` only.
 7. Run `make docs`: docs/cli.md is written from the tree of verbs, and a test compares.
"""

from __future__ import annotations

from importlib import import_module

import click

VERBS = {
    "init": "begin a journal in a data directory",
    "append": "append events from stdin, print receipts",
    "log": "print records, oldest first, filtered or followed",
    "show": "one record in full, or what was known of an entity",
    "status": "say where things stand, at once",
    "check": "say whether journal, memory.db and agents are healthy",
    "head": "print where the journal ends, to be kept elsewhere",
    "verify": "read every byte, name all damage, prove receipts",
    "scrub": "read everything at a bounded rate, make parity",
    "compact": "pack sealed segments, to a fraction of their space",
    "recover": "rebuild what is damaged from the journal",
    "adopt": "journal what lies on disk now",
    "agents": "list, show and validate agents; suspend and resume",
    "watch": "journal edits of agents/ while they are made",
    "checkpoint": "make, list, verify and thin checkpoints",
    "drill": "rehearse the whole recovery beside the live state",
    "backup": "copy the journal while writing goes on",
    "replay": "restore a past moment, beside or in place",
    "revert": "undo exactly the changes that are named",
    "diff": "say what changed between two moments",
    "messages": "what a consumer has not acknowledged, and acknowledging it",
    "timeline": "draw what happened over time",
    "report": "write one page about the journal, for a browser",
    "tag": "give a moment a name",
    "import": "take in what another memory server wrote",
    "export": "write memory as another server reads it",
    "serve": "hold the journal and answer others over HTTP",
    "trace": "send the history to a tracing backend",
    "embed": "compute the vectors that are pending",
    "completion": "print the completion script of a shell",
}

EXIT_CODES = {
    0: "ok",
    1: "failed",
    2: "usage",
    3: "partial or degraded",
    10: "no journal here",
    11: "locked by another writer",
    12: "corrupt",
    13: "ambiguous tail",
    14: "diverged",
    15: "unsupported version",
    130: "interrupted",
}


def load(name: str) -> click.Command:
    """A verb of the table."""
    module = name.replace("-", "_") + ("_" if name == "import" else "")
    command = import_module(f"recovery.cli.{module}").command
    assert isinstance(command, click.Command)
    command.name = name
    return command
