"""What its owner calls secret, kept out of errors, logs, reports and traces. Pure, and total: it takes any value.

The rules are the `redact` keys of journal.yaml: regular expressions, and names of fields whose values go. The journal
itself is not touched, and neither is what a person asks to see of it (`journal log`, `show`, `diff`, `agents`): that is
content. Knows text and JSON values; must not know where either comes from.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from journal.errors import JournalError

MARK = "[redacted]"
E = TypeVar("E", bound=JournalError)

# A field in a text: its name, maybe quoted, `:` or `=`, and a value. A quoted value ends with its quote, or where the
# text was cut; a bare one where JSON's would (after a quoted name), else with the line (`:`) or the word (`=`). A
# backslash before a quote: JSON that was quoted within JSON.
_QUOTED = r"""\\+"(?:(?!\\+").)*(?:\\+"|$)|"(?:[^"\\]|\\.)*(?:"|\\?$)|'(?:[^'\\]|\\.)*(?:'|\\?$)"""
_FIELD = (
    r"""(?is)(?<![\w-])(NAMES)(?:(\\*["']\s*:\s*)(?:QUOTED|[^\n,}\]]+)|(\s*:\s*)(?:QUOTED|[^\n]+)"""
    r"""|(\s*=\s*)(?:QUOTED|[^\s&;]+))"""
).replace("QUOTED", _QUOTED)


@dataclass(frozen=True)
class Redactor:
    """``patterns`` are regular expressions, ``fields`` names of fields, in any case. Without either nothing changes."""

    patterns: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.patterns or self.fields)

    @cached_property
    def _expressions(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(pattern) for pattern in self.patterns)

    @cached_property
    def _in_text(self) -> re.Pattern[str] | None:
        if not self.fields:
            return None
        names = "|".join(sorted(map(re.escape, self.fields), key=len, reverse=True))
        return re.compile(_FIELD.replace("NAMES", names))

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(name.casefold() for name in self.fields)

    def text(self, text: str) -> str:
        """The text with every match of a pattern, and every value of a field, replaced by `MARK`."""
        if self._in_text is not None:
            text = self._in_text.sub(lambda found: "".join(part for part in found.groups() if part) + MARK, text)
        for expression in self._expressions:
            text = expression.sub(MARK, text)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value with its strings redacted, keys too; the value of a secret field goes whatever it is."""
        if not self:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {
                self.text(key) if isinstance(key, str) else key: MARK if self._is_secret(key) else self.value(each)
                for key, each in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value

    def _is_secret(self, key: object) -> bool:
        return isinstance(key, str) and key.casefold() in self._names

    def error(self, error: E) -> E:
        """The error as it may be told; the one that was raised stays as it is."""
        if not self:
            return error
        told = copy.copy(error)
        told.message = self.text(error.message)
        told.path, told.hint = (part and self.text(part) for part in (error.path, error.hint))
        told.args = (told.message,)
        return told


NOTHING = Redactor()


def problem_with(pattern: str) -> str | None:
    """Why a pattern is no rule, or None if it is one."""
    try:
        expression = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return "it matches the empty text" if expression.search("") else None


def rules_of(section: object) -> Redactor:
    """Those rules of a `redact` section that are rules, whatever else is wrong with the file that it stands in."""
    given = section if isinstance(section, dict) else {}
    return Redactor(
        tuple(each for each in _texts(given.get("patterns")) if problem_with(each) is None),
        tuple(_texts(given.get("fields"))),
    )


def _texts(value: object) -> Iterable[str]:
    return [each for each in value if isinstance(each, str) and each] if isinstance(value, list | tuple) else []
