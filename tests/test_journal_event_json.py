"""Events as JSON: there and back, and what is wrong named by its key."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from journal.errors import Refused
from journal.event_json import event_from_json, event_to_json
from journal.events import (
    ConfigRejected,
    ConfigWritten,
    EntityCreated,
    EntityUpdated,
    Event,
    type_dictionary,
    type_named,
)


def sample(cls: type[Event]) -> Event:
    """An event with a value in every field."""
    values: dict[str, Any] = {
        "str": "x", "bytes": b"x", "int": 1, "float": 0.5, "bool": True, "dict[str, Any]": {"k": [1]},
        "dict[str, str]": {"k": "v"}, "dict[str, int]": {"k": 1}, "list[str]": ["x"], "list[list[int]]": [[1, 2]],
    }  # fmt: skip
    hints = cls.__annotations__
    return cls(**{field: values[hints[field].removesuffix(" | None")] for field in cls.__struct_fields__})


@pytest.mark.parametrize("name", sorted(type_dictionary()))
def test_every_type_comes_back_from_its_json(name: str) -> None:
    cls = type_named(name)
    assert cls is not None
    event = sample(cls)
    spelled = json.loads(json.dumps(event_to_json(event)))
    assert next(iter(spelled)) == "type"
    assert event_from_json(spelled) == event


@pytest.mark.parametrize("content", [b"", b"---\nname: x\n", b"caf\xc3\xa9", b"\0"])
def test_bytes_that_are_text_are_spelled_as_text(content: bytes) -> None:
    spelled = event_to_json(ConfigWritten("writer", content))
    assert spelled["content"] == content.decode()
    assert "content_base64" not in spelled
    assert event_from_json(spelled) == ConfigWritten("writer", content)


def test_other_bytes_are_spelled_in_base64() -> None:
    event = ConfigRejected("writer", b"\xff\xfe", ["no UTF-8"])
    spelled = event_to_json(event)
    assert base64.b64decode(spelled["content_base64"]) == b"\xff\xfe"
    assert "content" not in spelled
    assert event_from_json(spelled) == event


def test_defaults_may_be_left_out() -> None:
    spelled = {"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "company"}
    assert event_from_json(spelled) == EntityCreated("global", "Acme", "company", {}, 1.0)
    assert event_from_json({"type": "memory.entity_updated", "scope": "global", "name": "Acme"}) == EntityUpdated(
        "global", "Acme"
    )


CONFIG = {"type": "agent.config_written", "name": "writer"}


@pytest.mark.parametrize(
    ("spelled", "code", "message"),
    [
        ([], "invalid", "a JSON object, not list"),
        (None, "invalid", "a JSON object, not NoneType"),
        ({}, "invalid", "no type"),
        ({"type": 1}, "invalid", "no type"),
        ({"type": "memory.entity_create"}, "unknown_type", "did you mean memory.entity_created?"),
        ({"type": "no.such_thing"}, "unknown_type", "unknown event type 'no.such_thing'"),
        ({"type": "memory.entity_created", "scope": "global"}, "invalid", "needs name, entity_type"),
        ({"type": "memory.scope_cleared", "scope": "global", "scop": 1}, "invalid", "no field 'scop'"),
        ({"type": "memory.scope_cleared", "scope_base64": "eA=="}, "invalid", "no field 'scope_base64'"),
        ({**CONFIG, "content_base64": "//8"}, "invalid", "content_base64 is no base64"),
        ({**CONFIG, "content_base64": "é"}, "invalid", "content_base64 is no base64"),
        ({**CONFIG, "content_base64": "eA==!"}, "invalid", "content_base64 is no base64"),
        ({**CONFIG, "content_base64": 7}, "invalid", "content_base64 is int"),
        ({**CONFIG, "content": "x", "content_base64": "eA=="}, "invalid", "both content and content_base64"),
        ({**CONFIG, "content": "\ud800"}, "invalid", "lone surrogate"),
    ],
)
def test_what_is_wrong_is_named(spelled: Any, code: str, message: str) -> None:
    with pytest.raises(Refused) as refused:
        event_from_json(spelled)
    assert refused.value.code == code
    assert message in str(refused.value)
