"""Reads journal.yaml: bounded YAML → `Config`, or one line that names the file, the line and what to write.

Knows YAML and its traps; must not know what a key means. The file is a person's, so anything clever in it is refused
before it is expanded: aliases (a few hundred bytes of them unfold to gigabytes), tags, nesting, a second document.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from journal.errors import UsageError
from journal.filesystems import os_fault
from recovery.config.reading import BadKey, from_mapping
from recovery.config.table import Config
from recovery.redact import Redactor, rules_of

if TYPE_CHECKING:
    import yaml

FILE_NAME = "journal.yaml"
FILE_BYTES_MAX = 64 << 10
DEPTH_MAX = 8
NODES_MAX = 4096
_HINT = "see docs/config.md"

Lines = dict[tuple[str, ...], int]


def load(root: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Config:
    """The configuration of the data directory ``root``: ``path`` if given, else its journal.yaml, else the defaults.

    Raises UsageError.
    """
    chosen = os.fspath(path) if path is not None else os.path.join(root, FILE_NAME)
    try:
        with open(chosen, "rb", opener=_open_plainly) as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        if path is None:
            return Config()
        hint = "leave out --config for journal.yaml in the data directory, or the defaults"
        raise UsageError("there is no such configuration file", path=chosen, hint=hint) from error
    except PermissionError as error:
        raise os_fault(error, chosen) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"the configuration cannot be read: {reason}", path=chosen) from error
    return parse(data, chosen)


def load_rules(root: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Redactor:
    """The rules of redaction alone, of that same file: those that can be read, whatever else is wrong with it."""
    return rules_of(_readable(root, path).get("redact"))


def load_log_format(root: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> str:
    """`log.format` alone, likewise."""
    section = _readable(root, path).get("log")
    chosen = section.get("format") if isinstance(section, dict) else None
    return "json" if chosen == "json" else "text"


def _readable(root: str | os.PathLike[str], path: str | os.PathLike[str] | None) -> dict[str, object]:
    """What that file says, as far as it is YAML that is taken here."""
    chosen = os.fspath(path) if path is not None else os.path.join(root, FILE_NAME)
    try:
        with open(chosen, "rb", opener=_open_plainly) as file:
            return _values(file.read(FILE_BYTES_MAX + 1), chosen)[0]
    except (OSError, ValueError, UsageError):
        return {}


def _open_plainly(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # a FIFO of that name must not hang the command
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is no regular file")
    return descriptor


def parse(data: bytes, path: str) -> Config:
    """The configuration in the bytes of a file; ``path`` is for messages. Raises UsageError."""
    values, lines = _values(data, path)
    try:
        return from_mapping(values)
    except BadKey as error:
        told = rules_of(values.get("redact"))  # the key itself may be what must not be told
        line = lines.get(error.where) or lines.get(error.where[:1]) or 1
        reason = told.text(error.reason)
        raise UsageError(f"line {line}: {reason}", path=path, hint=told.text(error.hint or _HINT)) from error


def _values(data: bytes, path: str) -> tuple[dict[str, object], Lines]:
    """What the file says, and in which lines."""
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"the configuration is longer than {FILE_BYTES_MAX} bytes", path=path, hint=_HINT)
    import yaml  # takes longer than the rest of a `--help`

    lines: Lines = {(): 1}
    try:
        text = data.decode()
        _refuse_cleverness(yaml, text, path)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        values = _value(yaml, loader, node, (), lines, path) if node is not None else None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"line {line}: the configuration is not UTF-8", path=path) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise UsageError(f"{where}{error.problem or error.context}", path=path, hint=_HINT) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
        raise UsageError(f"the configuration cannot be read: {reason}", path=path, hint=_HINT) from error
    if values is None:
        return {}, lines
    if not isinstance(values, dict):
        raise UsageError("line 1: the configuration must be a map of keys", path=path, hint=_HINT)
    return values, lines


def _refuse_cleverness(yaml: Any, text: str, path: str) -> None:
    """Walks the parser's events, which are made without recursion, before a node exists."""
    depth = nodes = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        reason = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            reason = "anchors and aliases are not allowed here"
        elif getattr(event, "tag", None) is not None:
            reason = "tags are not allowed here"
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            reason = "a second document is not allowed here" if documents > 1 else None
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            depth += isinstance(event, yaml.CollectionStartEvent)
            if depth > DEPTH_MAX:
                reason = f"nested deeper than {DEPTH_MAX}"
            elif nodes > NODES_MAX:
                reason = f"more than {NODES_MAX} values"
        if reason:
            raise UsageError(f"line {event.start_mark.line + 1}: {reason}", path=path, hint=_HINT)


def _value(yaml: Any, loader: Any, node: yaml.Node, where: tuple[str, ...], lines: Lines, path: str) -> object:
    lines[where] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_value(yaml, loader, each, (*where, str(index)), lines, path) for index, each in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    values: dict[str, object] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"line {line}: a key must be plain text", path=path, hint=_HINT)
        name = key.value  # as written: YAML would read the key `on` as true
        if name in values:
            raise UsageError(f"line {line}: key {name[:80]!r} is written twice", path=path, hint="keep one of them")
        values[name] = _value(yaml, loader, value, (*where, name), lines, path)
        lines[(*where, name)] = line
    return values
