"""`journal append` reads lines that somebody made to do harm: each is refused in its place, in bounded memory."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ENVIRONMENT, arguments, process, small_history

MEMORY = 1 << 30
MIB = 1 << 20


def event(content: str) -> bytes:
    return json.dumps({"event": {"type": "memory.observation_added", "scope": "global", "entity": "Acme",
                                 "content": content}}).encode()  # fmt: skip


def in_event(field: str, value: bytes) -> bytes:
    return event("x")[:-2] + b', "%s": %s}}' % (field.encode(), value)


BOMBS: dict[str, bytes] = {
    "no end of lists": b"[" * 200_000,
    "no end of objects": b'{"event":' * 100_000,
    "nested within an event": in_event("metadata", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "empty objects": b'{"event": [' + b"{}," * (16 * MIB // 3) + b"{}]}",
    "events that are none": b'{"events": [' + b"0," * (8 * MIB) + b"0]}",
    "empty events": b'{"events": [' + b"{}," * (8 * MIB) + b"{}]}",
    "many keys": b"{" + b",".join(b'"k%d":0' % number for number in range(500_000)) + b"}",
    "many keys in an event": in_event("x", b"0," + b",".join(b'"k%d":0' % number for number in range(400_000))),
    "metadata of empty lists": in_event("metadata", b'{"a": [' + b"[]," * (3 * MIB) + b"[]]}"),
    "a number of a million digits": in_event("metadata", b'{"a": ' + b"9" * MIB + b"}"),
    "an exponent": in_event("metadata", b'{"a": 1e999999999}'),
    "a lone surrogate": event("\\ud800").replace(b"\\\\", b"\\"),
    "no UTF-8": event("x").replace(b'"x"', b'"\xff\xfe"'),
    "a NUL within": event("x").replace(b'"x"', b'"\0"'),
    "NaN": in_event("metadata", b'{"a": NaN}'),
    "a text that is too long": event("x" * (20 * MIB)),
    "an op_id that is too long": event("x")[:-1] + b', "op_id": "' + b"o" * (20 * MIB) + b'"}',
    "a million op_ids": event("x")[:-1] + b', "op_id": [' + b"1," * MIB + b"1]}",
    "a group that is too large": b'{"events": [' + b",".join([event("x")[10:-1]] * 10_001) + b"]}",
}


def bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile") / "data"
    small_history(place)
    return place


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds memory on Linux alone")
def test_each_bomb_is_refused_in_its_place_and_the_line_behind_it_is_taken(data: Path) -> None:
    lines = [each for name, bomb in BOMBS.items() for each in (bomb, event(f"behind {name}"))]
    ran = process(data, "append", input=b"\n".join(lines) + b"\n", text=False, preexec_fn=bounded, timeout=300)
    assert b"Traceback" not in ran.stderr, ran.stderr[-3000:]
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 3, ran.stderr
    assert [sorted(each)[0] for each in told] == ["error", "chain"] * len(BOMBS), told
    for name, each in zip(BOMBS, told[::2], strict=True):
        assert each["error"]["code"] in ("invalid", "too_large"), name
        assert len(each["error"]["message"]) < 500, name


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds memory on Linux alone")
def test_a_line_of_100_mb_and_many_long_ones_are_not_gathered_in_memory(data: Path) -> None:
    """A thousand lines may wait at once: bounded by their number alone they would take gigabytes."""
    import subprocess

    def lines() -> Iterator[bytes]:
        yield b"x" * (100 * MIB) + b"\n"
        for number in range(60):
            yield event(f"{number} " + "x" * (8 * MIB)) + b"\n"
        yield event("the end") + b"\n"

    with subprocess.Popen(arguments(data, "append"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=ENVIRONMENT, preexec_fn=bounded) as child:  # fmt: skip
        assert child.stdin is not None
        for line in lines():
            child.stdin.write(line)
        out, err = child.communicate(timeout=300)
    told = [json.loads(line) for line in out.splitlines()]
    assert (child.returncode, len(told)) == (3, 62), err[-3000:]
    assert {each["error"]["code"] for each in told[:-1]} == {"too_large"}
    assert [each["error"]["line"] for each in told[:-1]] == list(range(1, 62))
    assert "seq" in told[-1]
