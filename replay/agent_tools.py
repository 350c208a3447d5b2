"""Takes tools out of an agent's config: an edit of its raw bytes that leaves every other byte as it is.

Pure. The places are those that the YAML parser reports; the result is read again, and is only given back if it says
the same but for the tools that went.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import yaml

from replay.agent_format import MARKDOWN

_COMMENT = re.compile(r"[ \t]*(?:#[^\n]*)?")


class Edit(NamedTuple):
    """A stretch of the frontmatter, in characters, and what stands there instead."""

    begin: int
    end: int
    text: str


def tools_of(content: bytes) -> list[str]:
    """The tools that a config names: a list of texts, of mappings with a name, or one text with commas."""
    return [name for name in map(_name, _items(MARKDOWN.parse(content).metadata.get("tools"))) if name]


def without_tools(content: bytes, failing: Collection[str]) -> bytes | None:
    """The bytes without the tools named; None where none of them is in it, or it cannot be edited so."""
    document = MARKDOWN.parse(content)
    if not set(tools_of(content)) & set(failing) or any(each.level == "error" for each in document.findings):
        return None
    text = content.decode()
    span = _frontmatter(text)
    if span is None:
        return None
    front = text[span[0] : span[1]]
    edits = list(_edits(front, failing))
    edited = front
    for edit in sorted(edits, reverse=True):
        edited = edited[: edit.begin] + edit.text + edited[edit.end :]
    result = (text[: span[0]] + edited + text[span[1] :]).encode()
    kept = [item for item in _items(document.metadata.get("tools")) if _name(item) not in failing]
    after = MARKDOWN.parse(result)
    same = {**document.metadata, "tools": None} == {**after.metadata, "tools": None} and after.body == document.body
    return result if same and _items(after.metadata.get("tools")) == kept else None


def _items(tools: Any) -> list[Any]:
    if isinstance(tools, str):
        return [each.strip() for each in tools.split(",") if each.strip()]
    return tools if isinstance(tools, list) else []


def _name(item: Any) -> str | None:
    if isinstance(item, dict):
        item = item.get("name")
    return item if isinstance(item, str) else None


def _frontmatter(text: str) -> tuple[int, int] | None:
    """Where the YAML begins and ends: behind the line that opens it, and before the one that closes it."""
    opening = re.match(r"\ufeff?\s*-{3,}[ \t]*\r?\n", text)
    if opening is None:
        return None
    closing = re.compile(r"^-{3,}\s*$", re.MULTILINE).search(text, opening.end())
    return (opening.end(), closing.start()) if closing is not None else None


def _edits(front: str, failing: Collection[str]) -> Iterator[Edit]:
    root = yaml.compose(front, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return
    for key, value in root.value:
        if not (isinstance(key, yaml.ScalarNode) and key.value == "tools"):
            continue
        if isinstance(value, yaml.ScalarNode):
            yield from _of_text(front, value, failing)
        elif isinstance(value, yaml.SequenceNode):
            gone = [_name(_plain(each)) in failing for each in value.value]
            if all(gone):
                end = value.end_mark.index if value.flow_style else _end_of_block(front, value)
                begin = value.start_mark.index if value.flow_style else key.end_mark.index + 1  # behind the colon
                yield Edit(begin, end, "[]" if value.flow_style else f" []{_line_end(front, end)}")
            elif value.flow_style:
                yield from _of_flow(value, gone)
            else:
                yield from _of_block(front, value, gone)


def _plain(node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if isinstance(node, yaml.MappingNode):
        return {key.value: each.value for key, each in node.value if isinstance(key, yaml.ScalarNode)}
    return None


def _of_text(front: str, value: Any, failing: Collection[str]) -> Iterator[Edit]:
    """`tools: Read, Write`: the pieces that stay keep the blanks around them."""
    begin, end = value.start_mark.index, value.end_mark.index
    written = front[begin:end]
    quote = written[0] if written[:1] in ("'", '"') else ""
    inner = written[1:-1] if quote else written
    kept = [piece for piece in inner.split(",") if piece.strip() not in failing]
    text = ",".join(kept).strip()
    yield Edit(begin, end, f"{quote}{text}{quote}" if text else '""')


def _of_flow(value: Any, gone: list[bool]) -> Iterator[Edit]:
    """`[a, b, c]`: an item goes with the comma before it, or behind it where nothing before it stays."""
    items = value.value
    first = gone.index(False)
    for index, item in enumerate(items):
        if gone[index] and index < first:
            yield Edit(item.start_mark.index, items[index + 1].start_mark.index, "")
        elif gone[index]:
            yield Edit(items[index - 1].end_mark.index, item.end_mark.index, "")


def _of_block(front: str, value: Any, gone: list[bool]) -> Iterator[Edit]:
    """An item goes with its lines, up to the next one's."""
    items = value.value
    begins = [_line_begin(front, item.start_mark.index) for item in items]
    ends = [*begins[1:], _end_of_block(front, value)]
    for begin, end, goes in zip(begins, ends, gone, strict=True):
        if goes:
            yield Edit(begin, end, "")


def _line_begin(front: str, index: int) -> int:
    return front.rfind("\n", 0, index) + 1


def _end_of_block(front: str, value: Any) -> int:
    """Behind the last item's line: the parser's end lies before the next key, comments and blank lines included."""
    end = value.value[-1].end_mark.index
    if front[end - 1 : end] == "\n":  # of a mapping, or of a text over lines
        return int(end)
    match = _COMMENT.match(front, end)
    end = match.end() if match is not None else end
    newline = front.find("\n", end)
    return newline + 1 if newline >= 0 else len(front)


def _line_end(front: str, end: int) -> str:
    return "\r\n" if front[:end].endswith("\r\n") else "\n" if front[:end].endswith("\n") else ""
