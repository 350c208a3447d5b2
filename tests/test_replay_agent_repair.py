"""Bytes of agent files as crashes, editors and models break them, and what the repair makes of each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.agent_format import CAXTON, MARKDOWN, PUBLIC, Schema, minimal, validate
from replay.agent_repair import repair

FIXTURES = Path(__file__).parent / "fixtures" / "agents"
FULL = """---
name: clerk
version: "1.2.0"
capabilities:
  - filing
tools: [search, mail]
system_prompt: |
  You file: everything.
---

# Clerk
"""

# what was broken → the bytes, the bytes after it, and what is said about it
AILMENTS: dict[str, tuple[str, str, list[str]]] = {
    "NUL bytes within": ("---\nname: a\0b\ndescription: x\n---\n", "---\nname: ab\ndescription: x\n---\n",
        ["removed 1 NUL byte"]),
    "NUL bytes where the end was": (FULL + "\0" * 512, FULL, ["removed 512 NUL bytes"]),
    "tabs before keys": (
        "---\nname: a\ndescription: x\nmodel:\n\t- one\n\t- two\n---\n",
        "---\nname: a\ndescription: x\nmodel:\n  - one\n  - two\n---\n",
        ["line 5: replaced tabs by spaces", "line 6: replaced tabs by spaces"]),
    "an unquoted colon": ("---\nname: a\ndescription: Use when: asked\n---\n",
        '---\nname: a\ndescription: "Use when: asked"\n---\n', ["line 3: quoted the value of 'description'"]),
    "an unquoted colon, CRLF": ("---\r\nname: a\r\ndescription: Use when: asked\r\n---\r\nBody\r\n",
        '---\r\nname: a\r\ndescription: "Use when: asked"\r\n---\r\nBody\r\n',
        ["line 3: quoted the value of 'description'"]),
    "an unquoted colon over lines": (
        "---\nname: a\ndescription: Use when: asked,\n  and never: else\n---\n",
        '---\nname: a\ndescription: "Use when: asked, and never: else"\n---\n',
        ["line 3: quoted the value of 'description'"]),
    "an unquoted colon in a list": (
        "---\nname: a\ndescription: x\nuses:\n  - when: a: b\n  - plain\n---\n",
        '---\nname: a\ndescription: x\nuses:\n  - when: "a: b"\n  - plain\n---\n',
        ["line 5: quoted the value of 'when'"]),
    "a quote that is never closed": ('---\nname: a\ndescription: "half\n---\n',
        '---\nname: a\ndescription: "\\"half"\n---\n', ["line 3: quoted the value of 'description'"]),
    "a glob, which YAML takes for an alias": ("---\nname: a\ndescription: *.py\n---\n",
        '---\nname: a\ndescription: "*.py"\n---\n', ["line 3: quoted the value of 'description'"]),
    "a pattern that begins with a sign": ("---\nname: a\ndescription: @all of them\n---\n",
        '---\nname: a\ndescription: "@all of them"\n---\n', ["line 3: quoted the value of 'description'"]),
    "an empty value": ("---\nname: a\ndescription: x\nmodel:\ntools:\n---\n",
        '---\nname: a\ndescription: x\nmodel: ""\ntools: []\n---\n',
        ["line 4: 'model' had no value", "line 5: 'tools' had no value"]),
    "no closing fence": ("---\nname: a\ndescription: x\n\n# Title\n\nnote: not a key\n",
        "---\nname: a\ndescription: x\n---\n\n# Title\n\nnote: not a key\n", ["line 4: added the closing line ---"]),
    "no closing fence, nor line end": ("---\nname: a\ndescription: x", "---\nname: a\ndescription: x\n---\n",
        ["line 4: added the closing line ---"]),
    "no opening fence": ("name: a\ndescription: x\n---\n\nBody\n", "---\nname: a\ndescription: x\n---\n\nBody\n",
        ["line 1: added the opening line ---"]),
    "no fence at all": ("name: a\ndescription: x\n\nYou do: things.\n",
        "---\nname: a\ndescription: x\n---\n\nYou do: things.\n",
        ["line 1: added the opening line ---", "line 4: added the closing line ---"]),
    "no fence, behind a byte order mark": (
        "\ufeffname: a\ndescription: x\n", "\ufeff---\nname: a\ndescription: x\n---\n",
        ["line 1: added the opening line ---", "line 4: added the closing line ---"]),
}  # fmt: skip


@pytest.mark.parametrize("name", AILMENTS)
def test_an_ailment_is_mended_and_nothing_else_is_touched(name: str) -> None:
    broken, mended, changes = AILMENTS[name]
    repaired = repair(broken.encode())
    assert repaired.content.decode() == mended
    assert list(repaired.changes) == changes
    again = repair(repaired.content)
    assert (again.content, again.changes) == (repaired.content, ())
    errors = [each for each in validate("a", repaired.content, "strict").findings if each.level == "error"]
    assert [each for each in errors if "model" not in each.message] == []


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.md")), ids=lambda path: path.stem)
def test_a_sound_file_is_not_touched_and_a_broken_one_is_never_made_worse(path: Path) -> None:
    content = path.read_bytes()
    repaired = repair(content)
    broken = [each.code for each in MARKDOWN.parse(content).findings if each.level == "error"]
    if not broken:
        assert repaired.content == content
    after = [each.code for each in MARKDOWN.parse(repaired.content).findings if each.level == "error"]
    assert set(after) <= set(broken)
    assert not {"broken_yaml", "unclosed_frontmatter", "nul_bytes"} & set(after)


def test_a_block_of_text_keeps_its_colons() -> None:
    """They are text there: only the line that is broken is mended."""
    content = FULL.replace("name: clerk", "name: clerk: of the court").encode()
    assert repair(content).content == content.replace(b"clerk: of the court", b'"clerk: of the court"')


def test_what_cannot_be_mended_is_left_and_said_so() -> None:
    for content in (b"", b"\x00", b"# Only a title\n", b"---\n", b"---\n---\n", b"\xff\xfe\xff", b"- a\n- b\n"):
        repaired = repair(content)
        assert not validate("a", repaired.content, "strict").accepted


@pytest.mark.parametrize("schema", [None, CAXTON, PUBLIC])
@pytest.mark.parametrize("name", ["clerk", "a b", "été", "-rf", "#: ]", '"', "'", "{{x}}", "null", "1.5"])
def test_a_minimal_config_is_valid_under_every_schema(name: str, schema: Schema | None) -> None:
    for judge in (None, CAXTON, PUBLIC) if schema is None else (schema,):
        assert validate(name, minimal(name, schema), "strict", schema=judge).findings == ()


# -- whatever the bytes are -------------------------------------------------------------------------------------------

PIECES = st.sampled_from([
    "---\n", "---", "...\n", "name: a\n", "name:\n", "description: a: b\n", "tools: [a, b\n", "tools:\n", "  - x\n",
    "\t- y\n", "- z: 1: 2\n", "key: |\n", "  text: more: text\n", "key: 'half\n", "key: *x\n", "&a [*a]\n", "\0",
    "\r\n", "\x85", "{",
    "# head\n", "\n", "\ufeff", "é: ü\n", "  \n", "a:\tb\n", "!!python/object:x {}\n", "? x\n", "<<: *a\n", "\x0c",
])  # fmt: skip
TEXTS = st.lists(PIECES, max_size=14).map(lambda pieces: "".join(pieces).encode())


def broken_somewhere(data: st.DataObject, content: bytes) -> bytes:
    """A file with a part cut out, overwritten, doubled or filled with zeros, as a crash or an editor leaves it."""
    begin = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(begin, min(len(content), begin + 40)))
    with_ = data.draw(st.sampled_from([b"", bytes(end - begin), content[begin:end] * 2, b"\t", b": ", b"\xff"]))
    return content[:begin] + with_ + content[end:]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_are_taken_and_a_second_repair_says_the_same(data: st.DataObject) -> None:
    """It never raises, says that it changed something exactly where it did, and touches nothing behind the fences."""
    content = data.draw(st.one_of(TEXTS, st.binary(max_size=80)))
    if data.draw(st.booleans()):
        content = broken_somewhere(data, FULL.encode())
    repaired = repair(content)
    assert bool(repaired.changes) == (repaired.content != content)
    assert b"\x00" not in repaired.content
    body = re.search(rb"\n---[ \t]*\r?\n(?!.*\n---).*\Z", content.replace(b"\x00", b""), re.DOTALL)
    if body is not None and content.count(b"---") == 2 and content.startswith(b"---\n"):
        assert repaired.content.endswith(body[0].partition(b"---")[2])
    verdict = validate("a", repaired.content, "strict")
    if verdict.accepted:
        assert MARKDOWN.parse(repaired.content).metadata["name"]
    again = repair(repaired.content)
    assert validate("a", again.content, "strict").accepted or not verdict.accepted
