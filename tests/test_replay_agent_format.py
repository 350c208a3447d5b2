"""Agent files as people write them: every oddity is taken by `lenient`, named, and crashes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.agent_format import CAXTON, MARKDOWN, PUBLIC, schema_of, validate
from replay.agent_yaml import BadYaml, load_mapping

FIXTURES = Path(__file__).parent / "fixtures" / "agents"

# file → what strict refuses it for, and what is merely noted
EXPECTED: dict[str, tuple[set[str], set[str]]] = {
    "Name With Spaces": (set(), {"name_differs"}),
    "alias-bomb": ({"broken_yaml"}, set()),
    "byte-order-mark": (set(), {"bom"}),
    "content-key": (set(), set()),
    "crlf": (set(), {"crlf"}),
    "deep-nesting": ({"broken_yaml"}, set()),
    "folded-description": (set(), set()),
    "no-final-newline": (set(), {"no_final_newline"}),
    "no-frontmatter": ({"no_frontmatter"}, set()),
    "on-key": (set(), set()),
    "powershell-5.1-Expert.agent": (set(), set()),
    "python-looking": ({"broken_yaml"}, set()),
    "release-helper": (set(), set()),
    "research-analyst": (set(), set()),
    "same-key-twice": ({"duplicate_key"}, set()),
    "tab-indented": ({"broken_yaml"}, set()),
    "template-braces": ({"broken_yaml"}, {"name_differs"}),
    "unclosed": ({"unclosed_frontmatter"}, set()),
    "unicode": (set(), set()),
    "unquoted-colon": ({"broken_yaml"}, set()),
    "very-long-line": (set(), set()),
}


def fixture(name: str) -> bytes:
    return (FIXTURES / f"{name}.md").read_bytes()


def front(yaml: str) -> bytes:
    return f"---\n{yaml}\n---\n\nBody.\n".encode()


def test_the_table_covers_every_fixture() -> None:
    assert {path.stem for path in FIXTURES.glob("*.md")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_odd_file(name: str) -> None:
    errors, notes = EXPECTED[name]
    lenient = validate(name, fixture(name))
    assert lenient.accepted
    assert {finding.code for finding in lenient.findings if finding.level == "error"} == errors
    assert {finding.code for finding in lenient.findings if finding.level == "note"} == notes
    assert validate(name, fixture(name), "strict").accepted is not bool(errors)
    assert validate(name, fixture(name), "off") == validate("other", b"\xff", "off")
    json.dumps(MARKDOWN.parse(fixture(name)).metadata)  # a bomb would blow up here


def test_keys_that_yaml_1_1_or_a_parser_would_misread_stay_as_written() -> None:
    metadata = MARKDOWN.parse(fixture("on-key")).metadata
    assert metadata["on"] == {"push": ["main"]}
    assert (metadata["yes"], metadata["404"]) == (False, "not a number")
    assert MARKDOWN.parse(fixture("content-key")).metadata["content"] == "inline text"


def test_an_unquoted_colon_is_named_by_line_and_still_listed() -> None:
    document = MARKDOWN.parse(fixture("unquoted-colon"))
    (finding,) = document.findings
    assert (finding.code, finding.line) == ("broken_yaml", 3)
    assert document.metadata["description"].startswith("Reviews pull requests. Use when: a change")
    assert document.metadata["model"] == "haiku"


def test_lines_are_counted_from_the_top_of_the_file() -> None:
    (finding,) = MARKDOWN.parse(b"\n\n" + fixture("unquoted-colon")).findings
    assert finding.line == 5


def test_python_looking_yaml_is_never_constructed(capsys: pytest.CaptureFixture[str]) -> None:
    (finding,) = MARKDOWN.parse(fixture("python-looking")).findings
    assert "python/object/apply:builtins.print is not allowed" in finding.message
    assert capsys.readouterr().out == ""


def test_body_and_unicode_survive() -> None:
    document = MARKDOWN.parse(fixture("unicode"))
    assert document.metadata["description"] == "Übersetzt zwischen Deutsch, 日本語 und العربية – mit Sorgfalt 🧭"
    assert "Cafe\u0301" in document.body
    assert MARKDOWN.parse(fixture("no-frontmatter")).body == fixture("no-frontmatter").decode()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (bytes(4096), "nul_bytes"),
        (b"---\nname: a\x00\n---\n", "nul_bytes"),
        (b"---\nname: \xff\n---\n", "not_utf8"),
        (front("- a\n- b"), "broken_yaml"),
        (front("? [a]\n: b"), "broken_yaml"),
        (front("a: [1, 2"), "broken_yaml"),
        (front("a: !!bool x"), "broken_yaml"),
        (front('a: !!int ""'), "broken_yaml"),
        (front("a: " + "9" * 5000), "broken_yaml"),
        (front("a: " + ":".join(["59"] * 5000)), "broken_yaml"),
        (front("a: 0b_"), "broken_yaml"),
        (front("a: &a [*a]"), "broken_yaml"),
        (front("a: " + "[" * 20_000), "broken_yaml"),
        (front("? " * 5000), "broken_yaml"),
        (front("a: " + "x" * 300_000), "broken_yaml"),
        (front("a: \x07"), "broken_yaml"),
    ],
)
def test_content_that_crashes_parsers_is_a_finding(content: bytes, code: str) -> None:
    assert code in {finding.code for finding in MARKDOWN.parse(content).findings}
    assert validate("a", content).accepted
    assert not validate("a", content, "strict").accepted


def test_dates_that_do_not_exist_are_text() -> None:
    assert load_mapping("a: 2024-99-99\nb: 2024-02-03") == ({"a": "2024-99-99", "b": "2024-02-03"}, [])


def test_merge_keys_may_be_overridden_but_not_written_twice() -> None:
    metadata, duplicates = load_mapping("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  x: 3")
    assert metadata["mine"] == {"x": 3, "y": 2}
    assert duplicates == []
    assert load_mapping("a: {x: 1, x: 2}")[1] == ["x"]


def test_an_alias_inside_its_own_anchor_is_refused_even_where_the_name_was_used_before() -> None:
    with pytest.raises(BadYaml, match="itself"):
        load_mapping("a: &a 1\nb: &a [*a]")


def test_the_style_of_a_file_decides_what_it_needs() -> None:
    assert schema_of(MARKDOWN.parse(fixture("research-analyst")).metadata) is CAXTON
    assert schema_of(MARKDOWN.parse(fixture("release-helper")).metadata) is PUBLIC
    verdict = validate("release-helper", fixture("release-helper"), "strict", schema=CAXTON)
    assert not verdict.accepted
    assert [finding.message.split("'")[1] for finding in verdict.findings if finding.code == "missing_key"] == [
        "version",
        "capabilities",
        "system_prompt",
    ]


@pytest.mark.parametrize(
    ("version", "fine"),
    [
        ("1.4.0", True),
        ("1.0.0-rc.1+build.7", True),
        ("1.0", False),
        ("v1.0.0", False),
        ("01.0.0", False),
        ("1.4.0 beta", False),
    ],
)
def test_versions_are_semantic(version: str, fine: bool) -> None:
    content = fixture("research-analyst").replace(b"1.4.0", version.encode())
    assert validate("research-analyst", content, "strict").accepted is fine


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"---\n{text}\n---\n".encode(errors="ignore")))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_the_codec_raise(content: bytes) -> None:
    document = MARKDOWN.parse(content)
    assert all(isinstance(key, str) for key in document.metadata)
