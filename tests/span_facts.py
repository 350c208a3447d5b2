"""Spans of OTLP as plain facts, so that what a backend gives back can be held against what was sent, field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

Facts = dict[str, Any]


def facts(span: Span) -> Facts:
    """All that a span says, under OTLP's names; times in UTC ns, ids in hex, attributes with their types."""
    found: Facts = {}
    for field in Span.DESCRIPTOR.fields:
        value = getattr(span, field.name)
        if field.name in ("trace_id", "span_id", "parent_span_id"):
            found[field.name] = value.hex()
        elif field.name == "attributes":
            found |= {f"attribute {key}": each for key, each in _attributes(value).items()}
        elif field.name == "status":
            found |= {"status.code": value.code, "status.message": value.message}
        elif field.name == "links":
            found["links"] = [(each.trace_id.hex(), each.span_id.hex(), _attributes(each.attributes)) for each in value]
            found["links.flags"] = [each.flags for each in value]
            found["links.trace_state"] = [each.trace_state for each in value]
        elif field.name == "events":
            found["events"] = [str(each) for each in value]
        else:
            found[field.name] = value
    return found


def _attributes(told: Iterable[Any]) -> dict[str, tuple[str, Any]]:
    return {each.key: (kind := each.value.WhichOneof("value"), getattr(each.value, kind)) for each in told}


def all_facts(spans: Iterable[Span], leave_out: Collection[str] = ()) -> dict[str, Facts]:
    """By span id; each must be there once."""
    told = [facts(span) for span in spans]
    doubled = [span for span, count in Counter(each["span_id"] for each in told).items() if count > 1]
    assert not doubled, f"{len(doubled)} spans are there more than once"
    return {each["span_id"]: {key: value for key, value in each.items() if key not in leave_out} for each in told}


def assert_same(got: Iterable[Span], sent: Iterable[Span], *, changed: Collection[str] = ()) -> None:
    """Every span of either is in the other, and every field but those of `changed` is equal."""
    there, expected = all_facts(got, changed), all_facts(sent, changed)
    assert expected, "nothing was sent"
    assert not (lost := expected.keys() - there.keys()), f"{len(lost)} spans are lost"
    assert not (strange := there.keys() - expected.keys()), f"{len(strange)} spans were never sent"
    for span, told in expected.items():
        assert there[span] == told


def changed_fields(got: Iterable[Span], sent: Iterable[Span]) -> set[str]:
    """The fields that at least one span has otherwise than it was sent."""
    there, expected = all_facts(got), all_facts(sent)
    return {
        key
        for span, told in expected.items()
        for key in told.keys() | there[span].keys()
        if told.get(key) != there[span].get(key)
    }
