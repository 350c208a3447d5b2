"""A section of journal.yaml as a class: its keys in order, each with its kind, default and meaning; frozen.

A data class would do, but there are twenty sections, every command makes them all, and it takes half a millisecond to
write the methods of each. Must not know what keys there are.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, TypeVar

from recovery.config.kinds import Kind


class Entry(NamedTuple):
    """What a section says of one key; or, where ``section`` is given, of a section within it."""

    doc: str
    kind: Kind | None = None
    default: object = None
    section: type[Section] | None = None

    def value(self) -> object:
        """The default, nobody else's."""
        if self.section is not None:
            return self.section()
        return dict(self.default) if isinstance(self.default, dict) else self.default


def key(kind: Kind, default: object, doc: str) -> Any:
    return Entry(doc, kind, default)


def section(cls: type[Section], doc: str) -> Any:
    return Entry(doc, section=cls)


class Section:
    """Keys are class attributes made by `key` and `section`. An instance takes values by name, and keeps them."""

    _entries: ClassVar[dict[str, Entry]] = {}

    def __init_subclass__(cls) -> None:
        cls._entries = {name: each for name, each in vars(cls).items() if isinstance(each, Entry)}
        for name in cls._entries:
            delattr(cls, name)

    def __init__(self, **given: Any) -> None:
        unknown = given.keys() - self._entries.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        for name, entry in self._entries.items():
            self.__dict__[name] = given[name] if name in given else entry.value()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} does not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} does not change")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def entries(of: Section | type[Section]) -> dict[str, Entry]:
    """Its keys and sections by name, in the order of the file."""
    return of._entries


AnySection = TypeVar("AnySection", bound=Section)


def replaced(old: AnySection, **given: Any) -> AnySection:
    """The same with other values."""
    return type(old)(**{**vars(old), **given})
