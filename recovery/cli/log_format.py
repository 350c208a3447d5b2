"""Whether what the command says on stderr is text for people or JSON: by option, else environment, else journal.yaml.

An option or a configuration that is wrong is told as well, so the choice is made without either having been understood.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

VARIABLE = "JOURNAL_LOG_FORMAT"
OPTION = "--log-format"
FORMATS = ("text", "json")


def given_format(arguments: Sequence[str]) -> str | None:
    """What the option says, wherever it stands: a mistake may stand before it."""
    words = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    found = [word.partition("=")[2] for word in words if word.startswith(OPTION + "=")]
    found += [after for word, after in pairwise(words) if word == OPTION]
    return next((each for each in reversed(found) if each in FORMATS), None)


def log_format(arguments: Sequence[str], place: str, config: str | None) -> str:
    """For the run with these arguments in the data directory ``place``, configured by ``config`` or its own file."""
    from recovery.config.file import load_log_format

    chosen = given_format(arguments) or os.environ.get(VARIABLE)
    return chosen if chosen in FORMATS else load_log_format(place, config)
