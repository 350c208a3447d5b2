"""`journal trace`: the history, as spans, in the tracing backend that is there."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Literal

import click

from recovery.cli.app import App, Verb, VerbGroup

if TYPE_CHECKING:
    from recovery.telemetry.export import Exported


@click.group(cls=VerbGroup, examples=("journal trace export --endpoint http://127.0.0.1:4318",))
def command() -> None:
    """Send the history to a tracing backend.

    The journal is the outbox: whatever a backend missed, because it or the server was down, is still there and goes out
    later, with its own times.
    """


class _Protocol(click.Choice[str]):
    """The standard variable says http/protobuf for http."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert("http" if value in ("http/protobuf", "http/json") else value, param, ctx)


@command.command(
    "export",
    cls=Verb,
    examples=(
        "journal trace export --endpoint http://127.0.0.1:4318",
        "journal trace export --endpoint https://otlp.example.com --header 'authorization=Bearer abc'",
        "journal trace export --endpoint http://127.0.0.1:4317 --protocol grpc --follow",
        "journal trace export --endpoint http://127.0.0.1:5000 --header x-mlflow-experiment-id=0 --since '1 days ago'",
    ),
)
@click.option("--endpoint", metavar="URL", envvar="OTEL_EXPORTER_OTLP_ENDPOINT", required=True, show_envvar=True,
              help="The backend's base URL; /v1/traces is appended for HTTP.")  # fmt: skip
@click.option("--protocol", type=_Protocol(["http", "grpc"]), default="http", show_default=True, show_envvar=True,
              envvar="OTEL_EXPORTER_OTLP_PROTOCOL", help="OTLP over HTTP (protobuf), or gRPC.")  # fmt: skip
@click.option("--header", "headers", multiple=True, metavar="K=V", help="Sent with every request. "
              "[env var: OTEL_EXPORTER_OTLP_HEADERS, so that a secret need not be an argument]")  # fmt: skip
@click.option("--since", metavar="WHEN", help="From this moment on, instead of where the cursor stands.")
@click.option("--until", metavar="WHEN", help="Up to this moment.")
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="Only what it wrote, and its recoveries.")
@click.option("--cursor", "cursor_name", metavar="NAME", help="The cursor's name. Default: the URL, and the agents.")
@click.option("--include-content", is_flag=True, help="Send what was written, too. The `redact` rules hold.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is appended, until Ctrl-C, and wait for a backend "
              "that is away as long as it takes.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(min=0.1, max=3600), default=10.0, show_default=True,
              metavar="SECONDS", help="How long one request may take.")  # fmt: skip
@click.option("--patience", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="SECONDS",
              help="How long a backend that is down may stay so, without --follow.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would go out, and send nothing.")
@click.pass_obj
def export_command(
    app: App,
    endpoint: str,
    protocol: Literal["http", "grpc"],
    headers: tuple[str, ...],
    since: str | None,
    until: str | None,
    agents: tuple[str, ...],
    cursor_name: str | None,
    include_content: bool,
    follow: bool,
    timeout: float,
    patience: float,
    dry_run: bool,
) -> int | None:
    """Send the journal's records as spans, from where the last export to this URL stopped.

    Each event is a span at its own time; a recovery is a span with a child a step. A change links to the request that
    caused it, a restore to what it undid. Ids follow from the journal's id and seq, so sending twice does no harm.
    docs/telemetry.md lists the spans and attributes.

    Takes no lock while it sends; then a cursor is journaled, through a live server if there is one. A backend that is
    down, slow or busy is waited for (Retry-After is kept to); what it refuses stays in the journal. Exit code 1: it
    could not be reached, or refused; 3: it rejected some of the spans. Needs the extra `otlp`.
    """
    from journal.errors import UsageError
    from recovery.cli.log import bounds
    from recovery.telemetry.connection import connection
    from recovery.telemetry.cursor import consumer_of
    from recovery.telemetry.delivery import Delivery
    from recovery.telemetry.encode import Encoder
    from recovery.telemetry.endpoint import endpoint_of, without_secrets
    from recovery.telemetry.export import Export, Wanted
    from recovery.telemetry.transport import connected

    if follow and (until is not None or dry_run):
        raise UsageError("--follow has no end", hint="leave out --until and --dry-run")
    to, how = endpoint_of(endpoint), connection(os.environ, headers, timeout)
    data = app.data
    reader = data.reader()
    first, last = bounds(data, reader, since, until)
    if since is not None and last is not None and first > last + 1:
        raise UsageError("--since is after --until")
    if not all(agents):
        raise UsageError("--agent takes a name")
    name = cursor_name or " ".join([without_secrets(endpoint), *(f"agent={each}" for each in sorted(agents))])
    wanted = Wanted(consumer_of(name), first if since is not None else None, last, agents, include_content)
    encoder = Encoder({"service.instance.id": reader.journal_id.hex()})
    told = _Termination(is_an_end=follow)

    def shipped(done: Exported) -> None:
        if app.json:
            app.out.documents([_as_json(done, endpoint)], flush=True)

    with connected(to, protocol, how, encoder) as transport, app.out.progress("exporting") as bar:
        if dry_run:
            from recovery.telemetry.dry import Counting

            transport = Counting()
        delivery = Delivery(transport, None if follow else patience, app.out.note)
        run = Export(data, wanted, delivery, app.out.note, bar.advance, shipped, keeps_cursor=not dry_run)
        with told:
            done = run.run(follow=follow)
        if told.came:
            done = run.done
    _print(app, done, endpoint, dry_run)
    return 3 if done.rejected else None


class _Termination:
    """SIGTERM ends the block as Ctrl-C does. To a follower that is no failure: a service manager stops it so."""

    def __init__(self, *, is_an_end: bool) -> None:
        self.is_an_end = is_an_end
        self.came = False

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self.came = True
        raise KeyboardInterrupt

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        signal.signal(signal.SIGTERM, self._before)
        return self.is_an_end and self.came and kind is KeyboardInterrupt


def _as_json(done: Exported, endpoint: str) -> dict[str, object]:
    from msgspec import to_builtins

    from recovery.telemetry.endpoint import without_secrets

    told: dict[str, object] = {"endpoint": without_secrets(endpoint), **to_builtins(done)}
    return told


def _print(app: App, done: Exported, endpoint: str, dry_run: bool) -> None:
    if done.unsettled:
        app.out.note(
            f"the last {done.unsettled} events are not known to be synced: the next export after the next open has them"
        )
    if app.json:
        app.out.document(_as_json(done, endpoint) | ({"dry_run": True} if dry_run else {}))
        return
    if done.to_seq < done.from_seq:
        app.out.line(f"nothing is new since seq {done.to_seq}")
        return
    rejected = f", {done.rejected} rejected" if done.rejected else ""
    verb = "would export" if dry_run else "exported"
    app.out.line(f"{verb} {done.spans} spans of seq {done.from_seq} to {done.to_seq}{rejected}")
