"""The agent file format behind a small codec, and a judgement of whether a file is a valid agent.

Knows frontmatter and the two public styles of it; must not know files, events or what happens to a file that is
refused. The raw bytes are the truth and are what is journaled: parsing is for people and for findings, never for
writing back (re-emitted frontmatter is another file in two cases out of three).

A further format (TOML, say) is one more `Codec`; the rest does not change.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from frontmatter.default_handlers import YAMLHandler

from replay.agent_yaml import BadYaml, load_mapping

Mode = Literal["strict", "lenient", "off"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about a file. An ``error`` makes it no valid agent, a ``note`` does not; ``line`` is 1-based."""

    code: str
    message: str
    level: Literal["error", "note"] = "error"
    line: int | None = None

    def __str__(self) -> str:
        return (f"line {self.line}: " if self.line is not None else "") + self.message


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed agent file. ``metadata`` is empty where there is no readable frontmatter; ``findings`` say why.

    ``lines`` are those of the top-level keys, ``begins`` is that of the frontmatter's opening; both 1-based.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    body: str = ""
    findings: tuple[Finding, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    begins: int = 1


class Codec(Protocol):
    """A file format of agents. ``suffix`` ends every file name, with the dot."""

    suffix: str

    def parse(self, content: bytes) -> Document:
        """Never raises: what cannot be read is a finding."""
        ...


# -- markdown with YAML frontmatter -----------------------------------------------------------------------------------

_KEY = re.compile(r"^([A-Za-z_][\w-]*)[ \t]*:", re.MULTILINE)
_TOP_LEVEL_LINE = re.compile(r"^([A-Za-z_][\w-]*):[ \t](.*)$", re.MULTILINE)


class MarkdownCodec:
    """`agents/{name}.md`: YAML between two lines of dashes, then the body.

    The handler of python-frontmatter splits. Its `loads` is not used: it passes the keys on as Python arguments, and
    a key `content:` or `on:` crashes it.
    """

    suffix = ".md"

    def __init__(self) -> None:
        self._handler = YAMLHandler()

    def parse(self, content: bytes) -> Document:
        if not content:
            return Document(findings=(Finding("empty", "the file is empty"),))
        findings = []
        if b"\x00" in content:
            findings.append(Finding("nul_bytes", "holds NUL bytes", line=content.count(b"\n", 0, content.find(0)) + 1))
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            message = f"is not UTF-8: {error.reason} at byte {error.start}"
            return Document(findings=(*findings, Finding("not_utf8", message)))
        findings += _notes_on_bytes(content)
        return self._split(text.removeprefix("\ufeff"), tuple(findings))

    def _split(self, text: str, findings: tuple[Finding, ...]) -> Document:
        start = len(text) - len(text.lstrip())  # blank lines before the first dashes are tolerated, as elsewhere
        begins = text.count("\n", 0, start) + 1
        if not self._handler.detect(text[start:]):
            none = Finding("no_frontmatter", "does not begin with frontmatter (a line `---`)", line=1)
            return Document({}, text, (*findings, none))
        try:
            front, body = self._handler.split(text[start:])
        except ValueError:  # one boundary only
            unclosed = Finding("unclosed_frontmatter", "the frontmatter has no closing line `---`", line=1)
            return Document({}, text, (*findings, unclosed))
        first_line = text.count("\n", 0, text.index(front, start + 3))
        lines = {match[1]: first_line + front.count("\n", 0, match.start()) + 1 for match in _KEY.finditer(front)}
        try:
            metadata, duplicates = load_mapping(front)
        except BadYaml as error:
            line = first_line + error.line if error.line is not None else None
            broken = Finding("broken_yaml", f"frontmatter: {error.reason}", line=line)
            return Document(_by_lines(front), body, (*findings, broken), lines, begins)
        twice = [Finding("duplicate_key", f"key {key!r} is written twice", line=lines.get(key)) for key in duplicates]
        return Document(metadata, body, (*findings, *twice), lines, begins)


MARKDOWN: Codec = MarkdownCodec()


def _by_lines(front: str) -> dict[str, Any]:
    """What a reader of plain `key: value` lines sees. Public tools read files so whose YAML is broken by a second
    colon in the description, and a listing should still show it."""
    return {match[1]: match[2].strip().strip("\"'") for match in _TOP_LEVEL_LINE.finditer(front)}


def _notes_on_bytes(content: bytes) -> list[Finding]:
    notes = []
    if content.startswith(b"\xef\xbb\xbf"):
        notes.append(Finding("bom", "begins with a byte order mark", "note", 1))
    if b"\r\n" in content:
        notes.append(Finding("crlf", "has CRLF line ends", "note"))
    if not content.endswith(b"\n"):
        notes.append(Finding("no_final_newline", "does not end with a line end", "note"))
    return notes


# -- schemas ----------------------------------------------------------------------------------------------------------

# MAJOR.MINOR.PATCH without leading zeros, then an optional pre-release and build, as semver.org defines them
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE_RELEASE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PRE_RELEASE}(?:\.{_PRE_RELEASE})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)

Check = Callable[[Any], str | None]


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value.strip() else "must be text, not empty"


def _semver(value: Any) -> str | None:
    if isinstance(value, str) and _SEMVER.fullmatch(value):
        return None
    return "must be a semantic version such as 1.4.0 (quoted, if YAML reads it as a number)"


def _texts(value: Any) -> str | None:
    fine = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    return None if fine else "must be a list of texts"


def _text_or_texts(value: Any) -> str | None:
    return None if _text(value) is None or _texts(value) is None else "must be text or a list of texts"


@dataclass(frozen=True, slots=True)
class Schema:
    """What a style of agent file asks of its frontmatter."""

    name: str
    required: Mapping[str, Check]
    optional: Mapping[str, Check] = field(default_factory=dict)


CAXTON = Schema(
    "caxton",
    {"name": _text, "version": _semver, "capabilities": _texts, "tools": _texts, "system_prompt": _text},
    {"description": _text, "user_prompt_template": _text},
)
PUBLIC = Schema("public", {"name": _text, "description": _text}, {"tools": _text_or_texts, "model": _text_or_texts})
SCHEMAS: Mapping[str, Schema | None] = {"auto": None, "caxton": CAXTON, "public": PUBLIC}
"""By the name that journal.yaml gives them; ``auto`` holds a file against the style that it is written in."""


def schema_of(metadata: Mapping[str, Any]) -> Schema:
    """The style that a file is written in: only Caxton's has the prompt or capabilities in the frontmatter."""
    return CAXTON if metadata.keys() & {"system_prompt", "capabilities"} else PUBLIC


def _findings_of_schema(document: Document, schema: Schema) -> list[Finding]:
    metadata = document.metadata
    findings = [
        Finding("missing_key", f"frontmatter has no {key!r}, which the {schema.name} style needs", line=document.begins)
        for key in schema.required
        if key not in metadata
    ]
    for key, check in {**schema.required, **schema.optional}.items():
        complaint = check(metadata[key]) if key in metadata else None
        if complaint is not None:
            findings.append(Finding("bad_value", f"{key!r} {complaint}", line=document.lines.get(key)))
    return findings


def minimal(name: str, schema: Schema | None = None) -> bytes:
    """The smallest config that the schema takes, for an agent of which nothing else is left. It says what it is."""
    quoted = json.dumps(name, ensure_ascii=False)
    told = "This configuration takes the place of one that was damaged and could not be brought back."
    front = [f"name: {quoted}", f"description: {json.dumps(told)}"]
    if schema is None or schema is CAXTON:
        front += ['version: "0.0.0"', "capabilities: []", "tools: []", "system_prompt: |", f"  {told}"]
        front += ["  Say so to whoever asks, and do nothing else until you are configured."]
    lines = ["---", *front, "---", "", f"# {name}", "", f"{told} Write it anew, or bring an earlier version back", ""]
    lines[-2] += f" (`journal agents history {shlex.quote(name)}`)."
    return "\n".join(lines).encode()


# -- the judgement ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the bytes are taken, and what there is to say about them."""

    accepted: bool
    findings: tuple[Finding, ...] = ()


def validate(
    name: str, content: bytes, mode: Mode = "lenient", *, schema: Schema | None = None, codec: Codec = MARKDOWN
) -> Verdict:
    """Judges the bytes of agent `name`. Without `schema`, the file's own style is the measure.

    ``strict`` refuses a file with an error; ``lenient`` refuses nothing, public tools accept what strict YAML does
    not; ``off`` does not even look.
    """
    if mode == "off":
        return Verdict(True)
    document = codec.parse(content)
    findings = list(document.findings)
    if not any(finding.level == "error" for finding in findings):
        findings += _findings_of_schema(document, schema or schema_of(document.metadata))
    own_name = document.metadata.get("name")
    if isinstance(own_name, str) and own_name != name:
        line = document.lines.get("name")
        findings.append(Finding("name_differs", f"calls itself {own_name!r}; the file is {name!r}", "note", line))
    accepted = mode == "lenient" or all(finding.level == "note" for finding in findings)
    return Verdict(accepted, tuple(findings))
