"""The agent file format behind a small codec, and a judgement of whether a file is a valid agent.

Knows frontmatter and the two public styles of it; must not know files, events or what happens to a file that is
refused. The raw bytes are the truth and are what is journaled: parsing is for people and for findings, never for
writing back (re-emitted frontmatter is another file in two cases out of three).

A further format (TOML, say) is one more `Codec`; the rest does not change.
"""

from __future__ import annotations

import re
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
    """A parsed agent file. ``metadata`` is empty where there is no readable frontmatter; ``findings`` say why."""

    metadata: dict[str, Any] = field(default_factory=dict)
    body: str = ""
    findings: tuple[Finding, ...] = ()


class Codec(Protocol):
    """A file format of agents. ``suffix`` ends every file name, with the dot."""

    suffix: str

    def parse(self, content: bytes) -> Document:
        """Never raises: what cannot be read is a finding."""
        ...


# -- markdown with YAML frontmatter -----------------------------------------------------------------------------------

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
        metadata, body, more = self._split(text.removeprefix("\ufeff"))
        return Document(metadata, body, (*findings, *more))

    def _split(self, text: str) -> tuple[dict[str, Any], str, list[Finding]]:
        start = len(text) - len(text.lstrip())  # blank lines before the first dashes are tolerated, as elsewhere
        if not self._handler.detect(text[start:]):
            return {}, text, [Finding("no_frontmatter", "does not begin with frontmatter (a line `---`)", line=1)]
        try:
            front, body = self._handler.split(text[start:])
        except ValueError:  # one boundary only
            return {}, text, [Finding("unclosed_frontmatter", "the frontmatter has no closing line `---`", line=1)]
        first_line = text.count("\n", 0, text.index(front, start + 3))
        try:
            metadata, duplicates = load_mapping(front)
        except BadYaml as error:
            line = first_line + error.line if error.line is not None else None
            return _by_lines(front), body, [Finding("broken_yaml", f"frontmatter: {error.reason}", line=line)]
        return metadata, body, [Finding("duplicate_key", f"key {key!r} is written twice") for key in duplicates]


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


def schema_of(metadata: Mapping[str, Any]) -> Schema:
    """The style that a file is written in: only Caxton's has the prompt or capabilities in the frontmatter."""
    return CAXTON if metadata.keys() & {"system_prompt", "capabilities"} else PUBLIC


def _findings_of_schema(metadata: Mapping[str, Any], schema: Schema) -> list[Finding]:
    findings = [
        Finding("missing_key", f"frontmatter has no {key!r}, which the {schema.name} style needs")
        for key in schema.required
        if key not in metadata
    ]
    for key, check in {**schema.required, **schema.optional}.items():
        complaint = check(metadata[key]) if key in metadata else None
        if complaint is not None:
            findings.append(Finding("bad_value", f"{key!r} {complaint}"))
    return findings


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
        findings += _findings_of_schema(document.metadata, schema or schema_of(document.metadata))
    own_name = document.metadata.get("name")
    if isinstance(own_name, str) and own_name != name:
        findings.append(Finding("name_differs", f"calls itself {own_name!r}; the file is {name!r}", "note"))
    accepted = mode == "lenient" or all(finding.level == "note" for finding in findings)
    return Verdict(accepted, tuple(findings))
