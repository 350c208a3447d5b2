"""The frame of the `journal` command: finds verbs by name, takes the options of every verb, turns errors into exits.

Knows click and exit codes; must not know what a verb does. Which verbs there are, and how to write one, is
`recovery.cli.verbs`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeGuard

import click

from journal import __version__
from journal.errors import IOFault, JournalError, NotAJournal, UsageError
from recovery.cli.log_format import FORMATS, OPTION, VARIABLE
from recovery.cli.output import Output, discard
from recovery.cli.paths import DIRECTORY, FILE
from recovery.cli.verbs import EXIT_CODES, VERBS, load

if TYPE_CHECKING:
    import sqlite3

    from click.shell_completion import CompletionItem

    from recovery.data import Data
    from recovery.redact import Redactor


class App:
    """One run of the command: what the options of every verb said."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.arguments = arguments
        self.data_option: str | None = None
        self.config_option: str | None = None
        self.out = Output(redaction=self._redaction, log_format=self._log_format)

    @property
    def json(self) -> bool:
        return self.out.json

    @property
    def place(self) -> str:
        """The absolute directory that --data or JOURNAL_DATA names, else the current one; a journal or not."""
        from recovery.places import place_of

        if self.data_option is None:
            return os.getcwd()
        place_of(self.data_option, "--data")
        return os.path.abspath(self.data_option)  # its links stay as they were named

    @cached_property
    def data(self) -> Data:
        """The data directory, configured. Raises NotAJournal if none was named and here is none."""
        from recovery.data import Data

        data = Data.at(self.place, self.config_option)
        if self.data_option is None and not os.path.isdir(data.layout.journal):
            hint = "name one with --data DIR, or begin one: journal init --data DIR"
            raise NotAJournal("no journal here", path=data.root, hint=hint)
        return data

    def _log_format(self) -> str:
        from recovery.cli.log_format import log_format

        try:
            return log_format(self.arguments, self.place, self.config_option)
        except JournalError:
            return log_format(self.arguments, os.getcwd(), self.config_option)

    def _redaction(self) -> Redactor:
        """The rules of the configuration that holds here; those that can be read, where it cannot be wholly."""
        from recovery.config.file import load_rules

        try:
            return load_rules(self.place, self.config_option)
        except JournalError:
            return load_rules(os.getcwd(), self.config_option)


class Interrupted(JournalError):
    """Ctrl-C: whatever was acknowledged stays, whatever was not is as it was."""

    exit_code = 130
    code = "interrupted"


# -- the options of every verb ----------------------------------------------------------------------------------------


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keeps what was given, before the verb or after it; what comes later holds."""
    app = context.find_object(App)
    if app is None or value is None:
        return
    match parameter.name:
        case "data":
            app.data_option = value
        case "config":
            app.config_option = value
        case "json":
            app.out.json = True
        case "log_format":
            app.out.log_format = value
        case "no_color":
            app.out.color = False


def _common_options(*, of_verb: bool) -> list[click.Parameter]:
    def option(*names: str, **settings: Any) -> click.Option:
        return click.Option(names, expose_value=False, is_eager=True, hidden=of_verb, callback=_remember, **settings)

    return [
        option(
            "--data",
            type=DIRECTORY,
            metavar="DIR",
            envvar=None if of_verb else "JOURNAL_DATA",
            help="The data directory. Default: $JOURNAL_DATA, else the current directory if it holds a journal.",
        ),
        option(
            "--config", type=FILE, metavar="FILE",
            help="The configuration. Default: journal.yaml in the data directory.",
        ),
        option("--json", is_flag=True, default=None, help="One JSON document, or one a line for streams."),
        option(
            OPTION, type=click.Choice(FORMATS), envvar=None if of_verb else VARIABLE,
            help="What stderr is: text, or a JSON object a line. Default: $JOURNAL_LOG_FORMAT, else log.format.",
        ),
        option("--no-color", is_flag=True, default=None, help="No colours. So does the variable NO_COLOR."),
    ]


class _Described(click.Command):
    """Help with examples, and a pointer to the options of every verb instead of their repetition. ``cut`` says what is
    left to do where Ctrl-C stopped it: of a verb that changes something."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), cut: str | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = tuple(examples)
        self.cut = cut
        self.params = [*self.params, *_common_options(of_verb=True)]

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(context, formatter)
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))
        formatter.write_paragraph()
        formatter.write_text(
            "Every verb takes --data DIR, --config FILE, --json, --log-format and --no-color; see journal --help."
        )

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """The options of every verb, too, although its help leaves them out."""
        from click.shell_completion import CompletionItem

        found = super().shell_complete(context, incomplete)
        if incomplete.startswith("-"):
            hidden = [each for each in self.params if isinstance(each, click.Option) and each.hidden]
            names = [(name, each) for each in hidden for name in each.opts if name.startswith(incomplete)]
            found += [CompletionItem(name, help=each.help) for name, each in names]
        return found

    def invoke(self, context: click.Context) -> Any:
        app = context.find_object(App)
        with app.out.logging() if app is not None else nullcontext():
            try:
                return super().invoke(context)
            except KeyboardInterrupt:
                raise Interrupted("interrupted", hint=self.cut) from None


class Verb(_Described):
    """One verb."""


class VerbGroup(_Described, click.Group):
    """Verbs under one name: `journal checkpoint create`."""

    command_class = Verb

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(80)) for name in self.commands])


class _Journal(click.Group):
    """The verbs, imported one by one when asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return load(name)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, arguments)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(arguments[0], possibilities=VERBS, ctx=context) from error

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


TELEMETRY = (
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER",
)  # fmt: skip
"""The variables any of which sets up OpenTelemetry for a run."""


@click.group(cls=_Journal, params=_common_options(of_verb=False), context_settings={"max_content_width": 100})
@click.version_option(__version__, message="journal %(version)s")
def cli() -> None:
    """A recovery journal for agent servers.

    What an agent server knows (memory.db, agents/*.md) is rebuilt from its journal when it breaks: to now, or to any
    past moment. Options may stand before or after the verb; data goes to stdout, everything else to stderr.
    """


# -- running ----------------------------------------------------------------------------------------------------------


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code. A declared error is printed, never raised."""
    app = App(arguments)
    try:
        with _told_to_backends(app, arguments):
            return _guarded(app, list(arguments))
    except BrokenPipeError:  # the reader has gone (`journal log | head`): nobody is left to tell
        discard(sys.stdout)
        return 0
    except OSError as error:  # stdout itself cannot be written
        discard(sys.stdout)
        app.out.json = False
        return _failed(app, _declared(error))


@contextmanager
def _told_to_backends(app: App, arguments: Sequence[str]) -> Iterator[None]:
    """OpenTelemetry around the run, where variables of its ask for that; else nothing is imported."""
    if not any(os.environ.get(name) for name in TELEMETRY) or "_JOURNAL_COMPLETE" in os.environ:
        yield
        return
    from recovery.telemetry.sdk import running

    with running(next((each for each in arguments if each in VERBS), "help"), app.out.note):
        yield


def _guarded(app: App, arguments: list[str]) -> int:
    try:
        status = _invoke(app, arguments)
    except JournalError as error:
        status = _failed(app, error)
    except click.ClickException as error:
        app.out.json = app.out.json or _asks_for_json(arguments)  # the mistake may stand before --json
        status = _misused(app, error)
    except (KeyboardInterrupt, click.Abort):
        status = _failed(app, Interrupted("interrupted"))
    except BrokenPipeError:
        raise
    except OSError as error:
        status = _failed(app, _declared(error))
    except Exception as error:
        if not _is_of_a_database(error):  # a fault of this program: one polite line would blame the user
            if not app.out.redactor and not app.out.logs_json:
                raise
            app.out.traceback(error)
            return 1
        from replay.faults import sqlite_fault

        status = _failed(app, sqlite_fault(error, app.data.layout.memory_db))
    try:
        app.out.flush()
    except BrokenPipeError:  # the work is done, and its outcome stands
        discard(sys.stdout)
    return status


def _invoke(app: App, arguments: list[str]) -> int:
    instruction = os.environ.get("_JOURNAL_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {"obj": app}, "journal", "_JOURNAL_COMPLETE", instruction)
    # not cli.main(): that one ends a closed pipe with 1, and prints errors its own way
    try:
        with cli.make_context("journal", list(arguments), obj=app) as context:
            result = cli.invoke(context)
    except click.exceptions.Exit as end:  # --help, --version
        return end.exit_code
    return result if isinstance(result, int) else 0


def _failed(app: App, error: JournalError) -> int:
    try:
        app.out.error(error)
    except BrokenPipeError:  # what failed has failed, even if nobody listens
        discard(sys.stdout if app.json else sys.stderr)
    return error.exit_code


def _misused(app: App, error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and not (app.json or app.out.logs_json):
        click.echo(error.format_message(), err=True)
        return 2
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        message = "a verb is missing"
    path = context.command_path if context is not None else "journal"
    return _failed(app, UsageError(message, hint=f"see {path} --help"))


def _asks_for_json(arguments: list[str]) -> bool:
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]


def _is_of_a_database(error: Exception) -> TypeGuard[sqlite3.DatabaseError]:
    """SQLite's verdict on a file, not on how it was called. What was never imported raised nothing."""
    sqlite3 = sys.modules.get("sqlite3")
    return (
        sqlite3 is not None
        and isinstance(error, sqlite3.DatabaseError)
        and not isinstance(error, sqlite3.ProgrammingError | sqlite3.NotSupportedError)
    )


def _declared(error: OSError) -> JournalError:
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    return IOFault(error.strerror or str(error), path=path, hint="check the path, its permissions and the disk")


