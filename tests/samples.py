"""Values that are accepted and easily mangled, for histories and strategies."""

from __future__ import annotations

SCOPES = ("global", "workspace:east", "agent:writer", "agent:Writer")
RELATIONS = ("knows", "owns", "знает")
NAMES = (
    "Acme", "acme", "Acme ", "O'Brien; DROP TABLE entities; --", '"quoted"', "50%_of*all?", "😀 grin", "שלום",
    "e\u0301te\u0301", "été", "a\u202eb", "\ufeffbom", "x" * 512, "тест", "𝔘𝔫𝔦", "\U0010ffff",
)  # fmt: skip
"""Accepted names that are easily mangled: case, quotes, patterns, directions, two spellings of one word."""
AGENT_NAMES = (
    "writer", "Writer", "x.agent", "powershell-5.1-expert", "été", "e\u0301te\u0301", "a b", "-rf", "z" * 252,
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "NUL \0 inside", "\0ends", "line\r\nline\n", "'single' \"double\" `back`", "\\u0000 \\x00",
    "😀👩‍👩‍👧‍👦🏳️‍🌈", "שלום \u202eעולם", "e\u0301" * 20, "\ufeff", "\ufffe\uffff", "\x1b[31m", "long " * 4000,
    "42", "4.2e1", "NULL",
)  # fmt: skip
CONFIGS = (
    b"", b"\0" * 600, b"\xff\xfe\x00broken", b"---\nname: writer\n---\nbody\n",
    b"\xef\xbb\xbf---\r\nname: x\r\n---\r\n",
    b"---\ndescription: a: b\n---\n", b"no frontmatter", b"#" * 70_000,
)  # fmt: skip
WORDS = (
    "renewed", "contract", "in", "May", "with", "the", "buyer", "of", "parts", "who", "prefers", "mail", "late",
)  # fmt: skip
