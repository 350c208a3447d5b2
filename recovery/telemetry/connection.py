"""How a backend is spoken to: headers, certificates, compression, as the standard OTEL_* variables and options say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from journal.errors import UsageError

_PREFIX = "OTEL_EXPORTER_OTLP_"


@dataclass(frozen=True, slots=True)
class Connection:
    """``timeout`` is of one request, in seconds. The three files are PEM: whom to trust instead of the system's
    authorities, and who we are."""

    timeout: float
    headers: Mapping[str, str] = field(default_factory=dict)
    is_compressed: bool = False
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None

    def read(self, path: str | None) -> bytes | None:
        """A file's content. Raises UsageError for one that cannot be read."""
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise UsageError(f"the certificate or key {path} cannot be read: {error.strerror}") from None

    def without_secrets(self, text: str) -> str:
        """A backend's words without what it was shown: some repeat the token that they refuse."""
        for value in self.headers.values():
            for part in sorted({value, *value.split()}, key=len, reverse=True):
                if len(part) >= 8:
                    text = text.replace(part, "…")
        return text


def connection(environment: Mapping[str, str], headers: Iterable[str], timeout: float) -> Connection:
    """From the variables of traces, or else the general ones; ``headers`` (K=V) are given besides, and win.

    Raises UsageError without repeating a value: it may be a secret.
    """

    def told(name: str) -> str:
        return environment.get(f"{_PREFIX}TRACES_{name}", "") or environment.get(_PREFIX + name, "")

    compression = told("COMPRESSION") or "none"
    if compression not in ("gzip", "none"):
        raise UsageError(f"{_PREFIX}COMPRESSION is gzip or none")
    from_environment = [unquote(each) for each in told("HEADERS").split(",") if each.strip()]
    made = Connection(
        timeout, dict(map(_header, (*from_environment, *headers))), compression == "gzip",
        told("CERTIFICATE") or None, told("CLIENT_CERTIFICATE") or None, told("CLIENT_KEY") or None,
    )  # fmt: skip
    if (made.client_certificate is None) != (made.client_key is None):
        raise UsageError(f"{_PREFIX}CLIENT_CERTIFICATE and {_PREFIX}CLIENT_KEY go together")
    for path in (made.certificate, made.client_certificate, made.client_key):
        made.read(path)
    return made


def _header(given: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in given.partition("="))
    if not equals or not name or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
        raise UsageError("a header is NAME=VALUE", hint="--header x-tenant=blue")
    if not value.isprintable() or not value.isascii():
        raise UsageError(f"the value of header {name} holds what no header can")
    return name.lower(), value
