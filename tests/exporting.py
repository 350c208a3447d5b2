"""What the tests of `journal trace export` share: histories that grow, spans by their seqs, a follower."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from journal.events import ObservationAdded
from recovery import open_server_sync
from recovery.data import Data
from recovery.records import Entry, entries
from tests.commands import ENVIRONMENT, arguments
from tests.otlp import Receiver


def records(data: Path) -> list[Entry]:
    reader = Data.at(data).reader()
    return list(entries(reader.batches()))


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def by_seq(receiver: Receiver) -> dict[int, Any]:
    """The spans of events, by their seqs."""
    return {told["journal.seq"]: span for span in receiver.spans if "journal.seq" in (told := attributes(span))}


def add(data: Path, *contents: str, **envelope: Any) -> None:
    with open_server_sync(data, background=False, check="quick") as hook:
        for content in contents:
            hook.append(ObservationAdded("global", "Acme", content), **envelope)


def grown(data: Path) -> int:
    """A history of several requests; returns its last seq."""
    with open_server_sync(data, background=False, check="quick") as hook:
        for part in range(6):
            hook.append_all([ObservationAdded("global", "Acme", f"fact {part} {n}") for n in range(250)])
        return hook.core.log.next_seq - 1


def following(data: Path, *words: str) -> subprocess.Popen[str]:
    command = arguments(data, "trace", "export", "--follow", "--json", *words)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
