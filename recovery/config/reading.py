"""A parsed journal.yaml held against the table of its keys: a `Config`, or one line on what is wrong with it.

Pure. Also lists the table's keys, for whoever documents them or looks for what was likely meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from recovery.config.kinds import Kind
from recovery.config.section import AnySection, Section, entries
from recovery.config.server import Server
from recovery.config.table import Config, Paths


class Key(NamedTuple):
    """One documented key, or a section (``kind`` is None)."""

    name: str
    doc: str
    kind: Kind | None
    default: object


class BadKey(Exception):
    """A key or value that is refused: ``where`` is its dotted name, the text says why, ``hint`` what to write."""

    def __init__(self, where: tuple[str, ...], reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.where = where
        self.reason = reason
        self.hint = hint


def keys(cls: type[Section] = Config, prefix: str = "") -> Iterator[Key]:
    """Every section and key, in the order of the file."""
    for name, each in entries(cls).items():
        yield Key(prefix + name, each.doc, each.kind, each.value() if each.kind is not None else None)
        if each.section is not None:
            yield from keys(each.section, f"{prefix}{name}.")


def from_mapping(values: Mapping[str, object]) -> Config:
    """The configuration that a parsed journal.yaml holds. Raises BadKey."""
    config = _read(Config, values, ())
    _refuse_overlaps(config.paths)
    _refuse_parity_on(config.paths, config.parity.directory)
    _refuse_half_a_control(config.server)
    return config


def _read(cls: type[AnySection], values: Mapping[str, object], where: tuple[str, ...]) -> AnySection:
    known = entries(cls)
    given: dict[str, object] = {}
    for name, value in values.items():
        here = (*where, name)
        if name not in known:
            raise BadKey(here, f"unknown key {'.'.join(here)[:200]!r}", _near(here))
        kind, section = known[name].kind, known[name].section
        if kind is not None:
            try:
                given[name] = kind.read(value)
            except ValueError:
                raise BadKey(here, f"{'.'.join(here)} must be {kind.text}") from None
        elif value is not None:  # a section of which only the heading is there
            if not isinstance(value, dict) or section is None:
                raise BadKey(here, f"{'.'.join(here)} must be a section of keys")
            given[name] = _read(section, value, here)
    return cls(**given)


def _near(where: tuple[str, ...]) -> str:
    """What was likely meant: the same section first, then that name in another section."""
    from difflib import get_close_matches

    names = [key.name for key in keys()]
    dotted = ".".join(where)
    found = get_close_matches(dotted, names, n=1, cutoff=0.7)
    found = found or [name for name in names if get_close_matches(where[-1], [name.split(".")[-1]], cutoff=0.8)]
    if found:
        return f"did you mean {found[0]}?"
    prefix = "".join(f"{part}." for part in where[:-1])
    siblings = [name for name in names if name.startswith(prefix) and "." not in name[len(prefix) :]]
    return "known here: " + ", ".join(name[len(prefix) :] for name in siblings)


def _refuse_overlaps(paths: Paths) -> None:
    """Two names for one place, or state inside the journal, would let one overwrite or quarantine the other."""
    named = {name: getattr(paths, name) for name in entries(paths)}
    for name, path in named.items():
        for other, place in named.items():
            if name != other and (path == place or path.startswith(f"{place}/")):
                raise BadKey(("paths", name), f"paths.{name} lies in paths.{other}", "give each a place of its own")


def _refuse_parity_on(paths: Paths, directory: str) -> None:
    """Parity in a directory that something else keeps would be taken for its files, or be swept with them."""
    if not directory:
        return
    for name in entries(paths):
        place = getattr(paths, name)
        if directory == place or directory.startswith(f"{place}/") or place.startswith(f"{directory}/"):
            raise BadKey(("parity", "directory"), f"parity.directory lies in paths.{name}, or around it",
                         "give it a place of its own, or leave it empty")  # fmt: skip


def _refuse_half_a_control(server: Server) -> None:
    """A server that can be stopped and not started would stay down after a recovery."""
    needs = {"systemd": ("unit",), "command": ("start", "stop"), "http": ("start_url", "stop_url")}
    for name in needs.get(server.control, ()):
        if not getattr(server, name):
            raise BadKey(("server", name), f"server.control: {server.control} needs server.{name}",
                         "set it, or take another control")  # fmt: skip
