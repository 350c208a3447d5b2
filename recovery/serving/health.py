"""Asking a server how it is, until it is well or the time is over. What an answer means is `recovery.tables.serving`'s.

An answer is a JSON object as Caxton's `GET /api/v1/health` gives it, `{"status", "memory_backend", "agents"}`, or as
`journal serve` and every server with a control socket gives it at `/v1/health`, which adds `model` and `components`.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from http.client import HTTPException
from time import monotonic, sleep
from typing import Any, Protocol

import msgspec

from recovery.control.remote import SOCKET, UnixConnection
from recovery.data import Data
from recovery.rows import Decision, first
from recovery.serving.control import request
from recovery.tables.serving import SERVING, ServingFacts

ANSWER_BYTES_MAX = 1 << 20
ASK_SECONDS = 10.0


class HealthCheck(Protocol):
    """Asks a server once."""

    def ask(self) -> dict[str, Any]:
        """Its answer. Raises OSError, ValueError or HTTPException where it gives none."""
        ...


class HttpHealth:
    """By GET. A status of 503 with a JSON body is an answer, too: it says what is wrong."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = url
        self._token = token

    def ask(self) -> dict[str, Any]:
        try:
            with request("GET", self._url, self._token, ASK_SECONDS) as answer:
                body = answer.read(ANSWER_BYTES_MAX)
        except urllib.error.HTTPError as error:
            with error:
                body = error.read(ANSWER_BYTES_MAX)
            if not body.lstrip().startswith(b"{"):
                raise
        return _document(body)


class SocketHealth:
    """By the control socket of the process that holds the journal."""

    def __init__(self, data: Data) -> None:
        self._path = f"{data.layout.journal}/{SOCKET}"

    def ask(self) -> dict[str, Any]:
        connection = UnixConnection(self._path, ASK_SECONDS)
        try:
            connection.request("GET", "/v1/health")
            return _document(connection.getresponse().read(ANSWER_BYTES_MAX))
        finally:
            connection.close()


def _document(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it answered what is no JSON object: {error}") from None


def health_check(data: Data) -> HealthCheck:
    """The one that journal.yaml names."""
    url = data.config.server.health
    return HttpHealth(url, data.server_token()) if url else SocketHealth(data)


def facts_of(answer: dict[str, Any], expected: ServingFacts) -> ServingFacts:
    """What an answer says, beside what is expected. What it leaves out stays unknown, never good."""
    told = answer.get("components")
    components = told if isinstance(told, dict) else {}
    agents = answer.get("agents")
    memory = _word(components.get("memory")) or _word(answer.get("memory"))
    return msgspec.structs.replace(
        expected, answers=True, status=_word(answer.get("status")),
        memory=memory or ("told" if answer.get("memory_backend") else ""),
        agents=agents if isinstance(agents, int) and not isinstance(agents, bool) else None,
        model=_word(answer.get("model")) or _word(components.get("model")),
    )  # fmt: skip


def _word(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("state", value.get("status", value.get("health")))
    return value.lower()[:100] if isinstance(value, str) else ""


def wait_for_health(
    check: HealthCheck,
    expected: ServingFacts,
    *,
    seconds: float,
    interval: float,
    tick: Callable[[float], None] | None = None,
) -> tuple[ServingFacts, Decision]:
    """Asks until the verdict is final or `seconds` are over, and returns the last one; `tick` gets the seconds passed.

    Final is healthy, and degraded unless a model is still being loaded.
    """
    started = monotonic()
    while True:
        try:
            facts = facts_of(check.ask(), expected)
        except (OSError, ValueError, HTTPException) as error:
            facts = msgspec.structs.replace(expected, problem=str(error) or type(error).__name__)
        passed = monotonic() - started
        facts = msgspec.structs.replace(facts, seconds=round(passed, 3))
        decision = first(SERVING, facts).decision("server", facts)
        final = decision.health == "healthy" or (decision.health == "degraded" and facts.model != "loading")
        if final or passed >= seconds:
            return facts, decision
        if tick is not None:
            tick(passed)
        sleep(min(interval, max(seconds - passed, 0.0)))
