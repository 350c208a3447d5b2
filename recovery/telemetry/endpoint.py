"""Where a backend is: an address as people give it, taken apart and checked, and what of it may be told. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from journal.errors import UsageError

Protocol = Literal["http", "grpc"]
PATH = "/v1/traces"
GRPC_PORT = 4317


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``url`` is where spans go by HTTP, without ``login`` (user, password); ``target`` is gRPC's host and port."""

    url: str
    target: str
    is_secure: bool
    login: tuple[str, str] | None = None


def endpoint_of(given: str) -> Endpoint:
    """Raises UsageError for what is no base URL of HTTP(S)."""
    try:
        url = urlsplit(given)
        host, port = (url.hostname or "").encode("idna").decode(), url.port
    except ValueError:  # a port that is none, half an IPv6 address, a label that is too long
        raise _no_address(given) from None
    is_text = given.isprintable() and " " not in given
    if url.scheme not in ("http", "https") or not host or port == 0 or not is_text:
        raise _no_address(given)
    literal = f"[{host}]" if ":" in host else host
    path = url.path.rstrip("/")
    place = literal if port is None else f"{literal}:{port}"
    is_secure = url.scheme == "https"
    login = (unquote(url.username), unquote(url.password or "")) if url.username else None
    traces = SplitResult(url.scheme, place, path if path.endswith(PATH) else path + PATH, url.query, "")
    return Endpoint(urlunsplit(traces), f"{literal}:{port or (443 if is_secure else GRPC_PORT)}", is_secure, login)


def without_secrets(given: str) -> str:
    """The address without user, password and query, as it may be told and journaled. Takes any text."""
    try:
        url = urlsplit(given)
    except ValueError:
        return given.rpartition("@")[2].partition("?")[0]
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path.rstrip("/"), "", ""))


def _no_address(given: str) -> UsageError:
    return UsageError(f"--endpoint takes http://HOST:PORT or https://HOST, not {without_secrets(given)!r}")
