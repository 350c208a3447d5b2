"""What a value in journal.yaml may be: each kind in words, and the check that goes with the words.

Pure. Must not know which key takes which kind, nor YAML.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple, get_args

from recovery.redact import problem_with

Failure = Literal[
    "validation_failure", "memory_corruption", "tool_loading_failure", "conversation_state_loss", "unknown"
]
"""Why an agent could not be reloaded."""
FAILURE_NAMES: tuple[Failure, ...] = get_args(Failure)
Level = Literal["critical", "normal", "stateless"]
LEVELS: tuple[Level, ...] = ("critical", "normal", "stateless")


class Kind(NamedTuple):
    """What a value may be, in words, and the check. ``read`` raises ValueError for anything else."""

    text: str
    read: Callable[[object], object]


def whole(low: int, high: int = (1 << 62)) -> Kind:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"a whole number, at least {low}" + (f" and at most {high}" if high < 1 << 62 else ""), read)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _number(value: object, *, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError
    return float(value)


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value.encode()) > 4000:
        raise ValueError
    if posixpath.normpath(value) in (".", "..") or posixpath.normpath(value).startswith("../"):
        raise ValueError
    return posixpath.normpath(value)


def choice(*allowed: str) -> Kind:
    def read(value: object) -> object:
        if value is False and "off" in allowed:
            return "off"  # YAML reads a bare `off` as false
        if value not in allowed or isinstance(value, bool):
            raise ValueError
        return value

    return Kind("one of " + ", ".join(allowed), read)


def _levels(value: object) -> Mapping[str, Level]:
    if not isinstance(value, dict) or not all(isinstance(name, str) and name for name in value):
        raise ValueError
    if not all(level in LEVELS for level in value.values()):
        raise ValueError
    return dict(value)


def _patterns(value: object) -> Mapping[Failure, str]:
    if not isinstance(value, dict) or not set(value) <= {each for each in FAILURE_NAMES if each != "unknown"}:
        raise ValueError
    for pattern in value.values():
        if not isinstance(pattern, str) or "{agent}" not in pattern or len(pattern) > 1000:
            raise ValueError
        try:
            re.compile(pattern.replace("{agent}", "x"))
        except re.error as error:
            raise ValueError from error
    return dict(value)


def _weights(value: object) -> Mapping[Level, float]:
    if not isinstance(value, dict) or not set(value) <= set(LEVELS):
        raise ValueError
    return WEIGHTS | {level: _number(weight, low=0.001, high=1000) for level, weight in value.items()}


def _optional_path(value: object) -> str:
    return "" if value == "" else _path(value)


def _hub(value: object) -> str:
    if value is False or value == "off":
        return "off"  # YAML reads a bare `off` as false
    if not isinstance(value, str) or (value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value)):
        raise ValueError
    return value.rstrip("/")


def _matching(pattern: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return read


def _rules(value: object, *, patterns: bool) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > 100:
        raise ValueError
    for each in value:
        if not isinstance(each, str) or not 0 < len(each) <= 1000 or (patterns and problem_with(each) is not None):
            raise ValueError
    return tuple(value)


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > 100:
        raise ValueError
    for each in value:
        if not isinstance(each, str) or "\0" in each or len(each) > 4000:
            raise ValueError
    return tuple(value)


def _globs(value: object) -> tuple[str, ...]:
    words = _words(value)
    if not all(each and ".." not in each.split("/") for each in words):
        raise ValueError
    return words


PATH = Kind("a path inside the data directory, or an absolute one", _path)
OPTIONAL_PATH = Kind(f"{PATH.text}, or empty", _optional_path)
HUB = Kind("an http or https address, or empty, or off", _hub)
URL = Kind("an http or https address, or empty", _matching(r"(https?://[^\s/]+(/\S*)?)?"))
UNIT = Kind("the name of a systemd unit, or empty", _matching(r"([\w:.\\@-]+)?"))
COMMAND = Kind("a list of at most 100 words: a program and its arguments, run without a shell", _words)
GLOBS = Kind("a list of at most 100 patterns (`*`, `?`, `[…]`) of paths inside the data directory, or absolute", _globs)
SECONDS = Kind("a number of seconds from 0 to 604800", partial(_number, low=0.0, high=604_800.0))
SOME_SECONDS = Kind("a number of seconds from 0.01 to 86400", partial(_number, low=0.01, high=86_400.0))
REPOSITORY = Kind("OWNER/NAME", _matching(r"[\w.-]+/[\w.-]+"))
REVISION = Kind("the name of a branch or tag, or a commit", _matching(r"[\w./-]+"))
POSITIVE = whole(1)
BOOLEAN = Kind("true or false", _boolean)
RATIO = Kind("a number from 0 to 1", partial(_number, low=0.0, high=1.0))
PATTERNS = Kind(
    "a list of at most 100 regular expressions, none of which matches the empty text", partial(_rules, patterns=True)
)
FIELD_NAMES = Kind("a list of at most 100 names of fields", partial(_rules, patterns=False))
AGENT_LEVELS = Kind(f"a map from agent name or pattern (`*`, `?`, `[…]`) to one of {', '.join(LEVELS)}", _levels)
FAILURE_PATTERNS = Kind(
    "a map from type of failure to a regular expression that holds {agent}: " + ", ".join(FAILURE_NAMES[:-1]), _patterns
)
LEVEL_WEIGHTS = Kind("a map from level to a number from 0.001 to 1000", _weights)
WEIGHTS: dict[Level, float] = {"critical": 4.0, "normal": 1.0, "stateless": 0.1}
