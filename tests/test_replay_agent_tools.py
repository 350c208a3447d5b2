"""Tools that cannot be loaded are taken out of a config; what a person wrote around them stays, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.agent_format import MARKDOWN
from replay.agent_tools import tools_of, without_tools

BEFORE = "---\nname:   a   # spaces\n\n# a remark\n"
AFTER = "description: 'x'\n---\n\ntools: in the body\n"

# how the tools are written → without b
STYLES: dict[str, tuple[str, str]] = {
    "flow": ("tools: [a, b, c]\n", "tools: [a, c]\n"),
    "flow, the first": ("tools: [b,  a, c] # why\n", "tools: [a, c] # why\n"),
    "flow, the last": ("tools: [a , 'c',\n  b ]\n", "tools: [a , 'c' ]\n"),
    "flow, the only one": ("tools: [b]\n", "tools: []\n"),
    "flow, twice": ("tools: [b, a, b]\n", "tools: [a]\n"),
    "block": ("tools:\n  - a\n  - b\n  - c\n", "tools:\n  - a\n  - c\n"),
    "block, the last, with a remark": ("tools:\n- a\n- b  # the broken one\n", "tools:\n- a\n"),
    "block, the first": ("tools:\n  - 'b'\n  # c is here too\n  - c\n", "tools:\n  - c\n"),
    "block, the only one": ("tools:\n  - b\n", "tools: []\n"),
    "block of mappings": (
        "tools:\n  - name: a\n    when: x\n  - name: b\n    when:\n      - y\n  - c\n",
        "tools:\n  - name: a\n    when: x\n  - c\n"),
    "text": ("tools: a, b,c\n", "tools: a,c\n"),
    "text in quotes": ('tools: "b, a"\n', 'tools: "a"\n'),
    "text, the only one": ("tools: b\n", 'tools: ""\n'),
}  # fmt: skip


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("style", STYLES)
def test_one_tool_goes_and_nothing_else_is_touched(style: str, line_end: str) -> None:
    before, after = (f"{BEFORE}{each}{AFTER}".replace("\n", line_end).encode() for each in STYLES[style])
    edited = without_tools(before, {"b", "not there"})
    assert edited == after
    assert "b" not in tools_of(edited)
    assert without_tools(edited, {"b"}) is None


def test_nothing_is_edited_that_is_not_understood() -> None:
    """Another recovery is wanted then, and not a guess."""
    for text in ("", "no frontmatter", "---\nname: a\n---\n", "---\ntools: {b: 1}\n---\n", "---\ntools: [b\n---\n",
                 "---\nx: &t [b]\ntools: *t\n---\n", "---\ntools: [b]\ntools: [b]\n---\n"):  # fmt: skip
        assert without_tools(text.encode(), {"b"}) is None


NAMES = st.sampled_from(["a", "b", "c d", "mcp/x", "Read", "*", "é"])


@settings(max_examples=100, deadline=None)
@given(st.lists(NAMES, max_size=6), st.sets(NAMES, max_size=3), st.sampled_from([None, "", "  ", "    "]))
def test_what_is_left_is_what_did_not_fail(tools: list[str], failing: set[str], indent: str | None) -> None:
    quoted = [f"'{each}'" for each in tools]
    if indent is None or not tools:
        written = f"tools: [{', '.join(quoted)}]\n"
    else:
        written = "tools:\n" + "".join(f"{indent}- {each}\n" for each in quoted)
    content = f"{BEFORE}{written}{AFTER}".encode()
    edited = without_tools(content, failing)
    assert (edited is None) == (not set(tools) & failing)
    if edited is not None:
        assert tools_of(edited) == [each for each in tools if each not in failing]
        assert edited.startswith(BEFORE.encode())
        assert edited.endswith(AFTER.encode())
        assert MARKDOWN.parse(edited).metadata["description"] == "x"
