"""Runs the `journal` command as a process, as a user does; with a verb `probe` put in where one must misbehave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("JOURNAL_", "_JOURNAL_"))}
ENVIRONMENT.pop("PYTHONUNBUFFERED", None)  # what is printed must wait for a flush, as it does for users
ENVIRONMENT["PYTHONPATH"] = str(ROOT)


def journal(*arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "env": ENVIRONMENT, "timeout": 60, **settings}
    return subprocess.run([sys.executable, "-m", "recovery", *arguments], check=False, **settings)


def script(verb_source: str, *arguments: str) -> list[str]:
    """A command line that runs the frame with one more verb, `probe`, whose body is given."""
    body = "\n    ".join(verb_source.strip().splitlines())
    program = f"""
import os, sys, time
import click
from journal.errors import *
from recovery.cli import app as frame
@click.command(cls=frame.Verb)
@click.pass_obj
def probe(app):
    {body}
probe.name = "probe"
frame.VERBS["probe"] = "misbehave"
frame.load = lambda name: probe
sys.exit(frame.run(sys.argv[1:]))
"""
    return [sys.executable, "-c", program, "probe", *arguments]


def probe(verb_source: str, *arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "env": ENVIRONMENT, "timeout": 60, **settings}
    return subprocess.run(script(verb_source, *arguments), check=False, **settings)
