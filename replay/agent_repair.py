"""Mends what commonly breaks an agent file: bytes → bytes, and a list of what was changed.

Pure; never raises. Knows the ways in which frontmatter is broken; must not know files, or what a repaired file is used
for: whether it is a valid agent now is the validator's judgement. Only what is broken is touched, and every line that
is not stays as it is, byte for byte: YAML that was read and written again would be another file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from replay.agent_yaml import TEXT_BYTES_MAX, BadYaml, load_mapping

_BOM = "\ufeff"
_FENCE = re.compile(r"-{3}[ \t]*\r?\n?")
_CLOSING = re.compile(r"(?:-{3}|\.{3})[ \t]*\r?\n?")
_KEY = re.compile(r"([A-Za-z_][\w-]*):(?=[ \t\r\n]|$)")
_HEAD = r"(?P<head>[ ]*(?:- +)*(?:(?P<key>[A-Za-z_][\w-]*):[ ]+|(?<=- )))"
_ENTRY = re.compile(_HEAD + r"(?P<value>\S.*?)[ \t]*\r?\n?")
_BLOCK = re.compile(r"[|>][+-]?\d?[+-]?(?:[ \t]+#.*)?")
_LINES_MAX = 5_000  # of frontmatter; each is tried by itself
_LISTS = ("tools", "capabilities")


@dataclass(frozen=True, slots=True)
class Repaired:
    """The bytes after the repair, and what was changed, in words; nothing where nothing was."""

    content: bytes
    changes: tuple[str, ...] = ()


def repair(content: bytes) -> Repaired:
    """Removes NUL bytes, adds missing fences, and mends tabs, unquoted values and empty values of the frontmatter."""
    changes: list[str] = []
    if count := content.count(0):
        content = content.replace(b"\x00", b"")
        changes.append(f"removed {count} NUL byte{'s' if count > 1 else ''}")
    text = content.decode(errors="surrogateescape")  # what is no UTF-8 stays as it is
    bom = _BOM if text.startswith(_BOM) else ""
    lines = text.removeprefix(_BOM).splitlines(keepends=True)
    lines = _joined(lines)
    split = _split(lines, changes)
    if split is not None:
        before, front, after = split
        front = _mended(front, len(before), changes)
        lines = [*before, *front, *after]
    return Repaired((bom + "".join(lines)).encode(errors="surrogateescape"), tuple(changes))


def _joined(lines: list[str]) -> list[str]:
    """str.splitlines also splits at form feeds and the like; a line here ends with LF."""
    joined: list[str] = []
    for line in lines:
        if joined and not joined[-1].endswith("\n"):
            joined[-1] += line
        else:
            joined.append(line)
    return joined


# -- fences -----------------------------------------------------------------------------------------------------------


def _split(lines: list[str], changes: list[str]) -> tuple[list[str], list[str], list[str]] | None:
    """What comes before the frontmatter (its opening fence with it), the frontmatter, and the rest. None: there is
    nothing that could be frontmatter."""
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if start == len(lines):
        return None
    end_of_line = "\r\n" if lines[start].endswith("\r\n") else "\n"
    opened = _FENCE.fullmatch(lines[start]) is not None
    if not opened:
        if not _KEY.match(lines[start]):
            return None
        closing = next((n for n in range(start, len(lines)) if _CLOSING.fullmatch(lines[n])), None)
        lines = [*lines[:start], f"---{end_of_line}", *lines[start:]]
        changes.append(f"line {start + 1}: added the opening line ---")
        if closing is not None:
            return lines[: start + 1], lines[start + 1 : closing + 1], lines[closing + 1 :]
    first = start + 1
    closing = next((n for n in range(first, len(lines)) if _FENCE.fullmatch(lines[n])), None)
    if closing is not None:
        return lines[:first], lines[first:closing], lines[closing:]
    end = _end_of_front(lines, first)
    if end == first:
        if not opened:
            changes.pop()
        return None
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += end_of_line
    changes.append(f"line {end + 1}: added the closing line ---")
    return lines[:first], lines[first:end], [f"---{end_of_line}", *lines[end:]]


def _end_of_front(lines: list[str], first: int) -> int:
    """Behind the last line that belongs to the frontmatter: keys, what is indented below them, and lists."""
    end = number = first
    while number < len(lines):
        line = lines[number]
        if _KEY.match(line) or (line[0] in " \t-" and line.strip() and end > first):
            end = number + 1
        elif not (_key_follows(lines, number) and (not line.strip() or line.startswith("#"))):
            break
        number += 1
    return end


def _key_follows(lines: list[str], number: int) -> bool:
    """Whether the next line with text is a key: else a blank line ends the frontmatter, and # begins a heading."""
    for line in lines[number + 1 :]:
        if line.strip():
            return _KEY.match(line) is not None or line[0] in " \t"
    return False


# -- values -----------------------------------------------------------------------------------------------------------


def _parses(lines: list[str]) -> bool:
    try:
        load_mapping("".join(lines))
    except BadYaml:
        return False
    return True


def _mended(front: list[str], offset: int, changes: list[str]) -> list[str]:
    """Mends in steps, each only while the whole cannot be read. `offset` lines come before."""
    if len(front) > _LINES_MAX or sum(map(len, front)) > TEXT_BYTES_MAX:
        return front
    steps: tuple[Callable[[list[str], int], Iterator[tuple[int, int, str, str]]], ...] = (_tabs, _values)
    for step in steps:
        if _parses(front):
            break
        front = _applied(front, step(front, offset), changes)
    return _applied(front, _empty_values(front, offset), changes)


def _applied(front: list[str], edits: Iterator[tuple[int, int, str, str]], changes: list[str]) -> list[str]:
    """The lines with `edits` made: (from line, to line, text in their place, in words)."""
    result, at = list[str](), 0
    for begin, end, text, words in edits:
        result += [*front[at:begin], text]
        at = end
        changes.append(words)
    return result + front[at:]


def _tabs(front: list[str], offset: int) -> Iterator[tuple[int, int, str, str]]:
    for number, line in enumerate(front):
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        fixed = indent.replace("\t", "  ") + line[len(indent) :]
        if key := re.match(r"([ ]*(?:- +)*[A-Za-z_][\w-]*:)\t[ \t]*", fixed):
            fixed = f"{key[1]} {fixed[key.end() :]}"
        if fixed != line and line.strip():
            yield number, number + 1, fixed, f"line {offset + number + 1}: replaced tabs by spaces"


def _values(front: list[str], offset: int) -> Iterator[tuple[int, int, str, str]]:
    """Quotes the values that are no YAML by themselves: mostly text with an unquoted colon."""
    number = 0
    while number < len(front):
        entry = _ENTRY.fullmatch(front[number])
        end = number + 1
        if entry is None:
            number = end
            continue
        indent = len(front[number]) - len(front[number].lstrip(" "))
        while end < len(front) and (not front[end].strip() or _indent(front[end]) > indent):
            end += 1
        while not front[end - 1].strip():
            end -= 1
        value = entry["value"]
        if _BLOCK.fullmatch(value):
            number = end
            continue
        single = end == number + 1
        if not _is_value(front[number:end], indent):
            alone = single or not _is_value(front[number : number + 1], indent)
            if not single and alone and _is_nested(front[number + 1 : end]):
                end, single = number + 1, True  # what stands below has keys of its own
            text = " ".join(line.strip() for line in [value, *front[number + 1 : end]] if line.strip())
            what = f"the value of {entry['key']!r}" if entry["key"] else "a list's item"
            quoted = json.dumps(text, ensure_ascii=False)
            tail = "\r\n" if front[end - 1].endswith("\r\n") else "\n" if front[end - 1].endswith("\n") else ""
            yield number, end, f"{entry['head']}{quoted}{tail}", f"line {offset + number + 1}: quoted {what}"
        elif not single and entry["key"] is None:
            end = number + 1  # a list's item with keys below: each is looked at by itself
        number = end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _is_nested(lines: list[str]) -> bool:
    return all(_KEY.match(line.lstrip(" -")) for line in lines if line.strip())


def _is_value(lines: list[str], indent: int) -> bool:
    """Whether an entry of the frontmatter is YAML by itself."""
    text = "".join(line[indent:] if line.strip() else line for line in lines)
    try:
        if text.startswith("- "):
            load_mapping("x:\n" + "".join(f"  {line}" for line in text.splitlines(keepends=True)))
        else:
            load_mapping(text)
    except BadYaml:
        return False
    return True


def _empty_values(front: list[str], offset: int) -> Iterator[tuple[int, int, str, str]]:
    """A top-level key with nothing behind it is null, which no key of an agent may be."""
    for number, line in enumerate(front):
        bare = re.fullmatch(r"([A-Za-z_][\w-]*):[ \t]*(\r?\n?)", line)
        below = next((each for each in front[number + 1 :] if each.strip() and not each.lstrip().startswith("#")), "")
        if bare is None or below.startswith((" ", "\t", "- ", "-\n", "-\r")):
            continue
        value = "[]" if bare[1] in _LISTS else '""'
        words = f"line {offset + number + 1}: {bare[1]!r} had no value"
        yield number, number + 1, f"{bare[1]}: {value}{bare[2]}", words
