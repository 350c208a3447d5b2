"""`journal serve`: the one writer as a process of its own, for servers in other languages."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import nullcontext
from threading import Event
from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb
from recovery.cli.paths import FILE

if TYPE_CHECKING:
    from recovery.data import Data
    from replay.core import Core

TOKEN_BYTES = 32
LOOP_SECONDS = 1.0


@click.command(
    cls=Verb,
    examples=(
        "journal serve",
        "journal serve --http 127.0.0.1:8700",
    ),
)
@click.option("--http", "address", metavar="HOST:PORT", help="Listen there too; clients show the token.")
@click.option(
    "--token-file", type=FILE, metavar="FILE",
    help="The token. Default: journal/token, made where there is none.",
)  # fmt: skip
@click.option("--quick-check", is_flag=True, help="Open without comparing memory.db with the journal by digest.")
@click.pass_obj
def command(app: App, address: str | None, token_file: str | None, quick_check: bool) -> int | None:
    """Hold the journal, and answer others over HTTP, until it is told to stop.

    Opens the directory as a server does: checks, repairs, catches up. Then it listens on journal/control.sock, which
    only this user and root may use, and with --http on a loopback address, where every request shows the token.
    /openapi.json describes it: append (an event, a group, or JSON Lines), log, health, status, checkpoint, replay,
    recover, metrics for Prometheus. Other verbs of this command find it and work through it.

    Under systemd it says when it is ready, feeds the watchdog, and takes sockets that were activated for it.
    """
    with app.out.logging(always=True):
        return _serve(app, address, token_file, quick_check)


def _serve(app: App, address: str | None, token_file: str | None, quick_check: bool) -> int | None:
    from recovery import systemd
    from recovery.control.listen import Control
    from recovery.control.writer import CoreWriter
    from recovery.opened import say_opened
    from recovery.opening import background_of, open_core
    from recovery.telemetry import meters
    from recovery.telemetry.gathering import Metrics
    from replay.hook import SyncHook

    data = app.data
    sockets = systemd.activated_sockets()
    if address is not None:
        sockets.append(_bind(address))
    token = None
    if token_file is not None:  # a link, perhaps, as mounted secrets are
        token = _token_in(data, os.path.realpath(token_file))
    opened = open_core(  # which a signal ends at once: a rebuild may take long, and is taken up by the next open
        data, check="quick" if quick_check else "full", progress=lambda *_: systemd.extend_timeout(60)
    )
    say_opened(data, opened.core, opened.recovered, opened.kept)
    told = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    background = background_of(data, opened.core, checkpoints=True, embeddings=True)
    alive = Event()
    alive.set()
    with SyncHook(opened.core, background) as hook, systemd.watchdog(alive):
        if token is None and any(each.family != socket.AF_UNIX for each in sockets):
            token = _own_token(data)
        writer = CoreWriter(data, opened.core, background, hook.settle)
        metrics = writer.metrics = Metrics(data, opened.core)
        metrics.watch()
        meter = meters.meter()
        measuring = nullcontext() if meter is None else meters.measured(metrics, meter)
        with measuring, Control(data, writer, sockets, token) as control:
            places = [*control.addresses(), *([control.problem] if control.problem else [])]
            app.out.note(f"serving {data.root} at seq {opened.core.log.next_seq - 1}: {', '.join(places)}")
            systemd.notify("READY=1", f"STATUS=at seq {opened.core.log.next_seq - 1}")
            while not told.wait(LOOP_SECONDS):
                if opened.core.log.poisoned is not None:  # only opening it again helps: that is for who started this
                    alive.clear()
                    app.out.note(f"stopping: {opened.core.log.poisoned}")
                    break
                (alive.set if is_alive(opened.core, systemd.watchdog_seconds()) else alive.clear)()
            systemd.notify("STOPPING=1")
    app.out.note("closed")
    return None if told.is_set() else 1


def is_alive(core: Core, seconds: float) -> bool:
    """Whether the service manager is to be told so: not while a batch has been at work for longer than `seconds` (0:
    however long). The disk hangs then, and whoever waits for a receipt waits for ever."""
    return not 0 < seconds < core.committing_seconds


def _bind(address: str) -> socket.socket:
    """A socket on a loopback address. Raises UsageError for another: a token in clear is for one machine."""
    import ipaddress

    from journal.errors import UsageError

    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--http takes HOST:PORT, not {address!r}", hint="127.0.0.1:8700")
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise UsageError(
            f"--http listens on loopback addresses only, not on {host}",
            hint="put a proxy with TLS before 127.0.0.1 for other machines",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, int(port)))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on {address}: {error.strerror}", hint="take another port") from None
    return sock


def _own_token(data: Data) -> str:
    """The token of TCP clients in journal/token, made where there is none: by the one that holds the journal."""
    import secrets

    from journal.files import write_file

    place = f"{data.layout.journal}/token"
    if data.storage.kind(place) == "missing":
        write_file(data.storage, place, secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n")
    return _token_in(data, place)


def _token_in(data: Data, place: str) -> str:
    """Raises UsageError where the file holds no token."""
    from journal.errors import UsageError

    try:
        token = data.storage.read(place).decode("ascii", errors="replace").strip()
    except FileNotFoundError:
        raise UsageError("there is no token file", path=place, hint="write one line into it, mode 0600") from None
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise UsageError("a token is one word of at least 16 characters", path=place)
    return token
