"""YAML of unknown origin → a plain dict, or one sentence that says why not.

Knows what makes PyYAML crash, hang or lie; must not know what an agent is. Every bound is checked on the parser's
events, before a node or an object exists: a few hundred bytes of aliases expand to gigabytes only later, when somebody
prints or compares the result, and nesting ends in RecursionError inside the composer.
"""

from __future__ import annotations

from typing import Any

import yaml

TEXT_BYTES_MAX = 256 * 1024
DEPTH_MAX = 32
INTEGER_MAX = (1 << 63) - 1
NODES_MAX = 20_000  # aliases count as what they expand to

_CORE_TAGS = {"!"} | {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_BaseLoader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadYaml(Exception):
    """Why the text is no usable YAML; ``line`` is 1-based within the text, or None."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class _Loader(_BaseLoader):  # type: ignore[misc]
    """SafeLoader without YAML 1.1's surprises in keys and dates.

    A scalar key is the text that was written: `on:` is "on", not True, and `1:` is "1". Dates stay text, so that
    2024-99-99 is somebody's string and no ValueError. Keys written twice are collected, the last one holds.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[str] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:  # before `<<` is merged in: overriding a merged key is no mistake
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    key.tag = "tag:yaml.org,2002:str"
                    if key.value in seen:
                        self.duplicates.append(key.value)
                    seen.add(key.value)
        result: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return result

    def construct_yaml_int(self, node: Any) -> int:
        """Base 60 (`59:59:…`) makes a number of any length, in quadratic time, that Python then refuses to print."""
        value: int = super().construct_yaml_int(node) if len(node.value) <= 80 else INTEGER_MAX + 1
        if abs(value) > INTEGER_MAX:
            raise BadYaml("an integer beyond 64 bits", node.start_mark.line + 1)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _BaseLoader.yaml_implicit_resolvers.items()
}


def load_mapping(text: str) -> tuple[dict[str, Any], list[str]]:
    """The mapping that `text` holds, and the keys that it holds twice. An empty text is an empty mapping.

    Raises BadYaml for everything else: broken, too large, too deep, a bomb, Python objects, a list.
    """
    if len(text) > TEXT_BYTES_MAX:
        raise BadYaml(f"longer than {TEXT_BYTES_MAX} characters")
    try:
        _check_bounds(text)
        loader = _Loader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadYaml(error.problem or error.context or "cannot be parsed", mark.line + 1 if mark else None) from error
    except yaml.YAMLError as error:  # the reader's: a control character, with a position instead of a mark
        position = getattr(error, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else None
        raise BadYaml(getattr(error, "reason", None) or "cannot be parsed", line) from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        # PyYAML's scalar constructors leak these for `!!bool x` or `!!int ""`
        raise BadYaml(f"a value cannot be read: {error}") from error
    if value is None:
        return {}, []
    if not isinstance(value, dict):
        raise BadYaml(f"a {type(value).__name__} where a mapping belongs")
    if not all(isinstance(key, str) for key in value):
        raise BadYaml("a key that is no text")
    return value, loader.duplicates


def _line(event: yaml.Event) -> int | None:
    return event.start_mark.line + 1 if event.start_mark is not None else None


def _check_bounds(text: str) -> None:
    """Walks the events once, without recursion, counting nodes as if every alias were written out."""
    expanded: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]  # anchor and size of each open collection
    for event in yaml.parse(text, Loader=_BaseLoader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in expanded:
                raise BadYaml(f"alias *{anchor} names nothing before it, or itself", _line(event))
            size = expanded[anchor]
        elif isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent):
            if event.tag is not None and event.tag not in _CORE_TAGS:
                raise BadYaml(f"tag {event.tag} is not allowed", _line(event))
            if isinstance(event, yaml.CollectionStartEvent):
                expanded.pop(anchor or "", None)  # it may shadow an earlier anchor, and an alias inside it names itself
                open_nodes.append((anchor, 1))
                if len(open_nodes) > DEPTH_MAX + 1:
                    raise BadYaml(f"nested deeper than {DEPTH_MAX}", _line(event))
                continue
            size = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        else:
            continue
        if anchor is not None:
            expanded[anchor] = size
        outer, total = open_nodes[-1]
        open_nodes[-1] = (outer, total + size)
        if total + size > NODES_MAX:
            raise BadYaml(f"more than {NODES_MAX} values", _line(event))
