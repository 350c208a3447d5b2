"""Writes docs/cli.md from the tree of verbs, docs/config.md from the table of keys, the tables of docs/recovery.md and
docs/telemetry.md, those of docs/reliability.md and docs/performance.md from what their runs recorded, and the Grafana
dashboard from its panels.

    python docs/generate.py            writes them
    python docs/generate.py --check    writes nothing; says which is stale, and exits 1 if one is

What is made is not edited by hand: what a verb's help, a key's description or a line of a table says is said once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import click

DOCS = SOURCES = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))  # the package of this clone, installed or not

from docs.dashboards.grafana import dashboard  # noqa: E402
from docs.dashboards.panels import ROWS  # noqa: E402
from journal import regions  # noqa: E402
from journal.events import type_dictionary  # noqa: E402
from recovery.agents.failures import DEFAULT_PATTERNS  # noqa: E402
from recovery.cli.app import App, cli  # noqa: E402
from recovery.cli.verbs import EXIT_CODES, VERBS, load  # noqa: E402
from recovery.config.file import FILE_BYTES_MAX, FILE_NAME  # noqa: E402
from recovery.config.reading import keys  # noqa: E402
from recovery.rows import Row  # noqa: E402
from recovery.tables.agents import AGENT  # noqa: E402
from recovery.tables.directory import DIRECTORY  # noqa: E402
from recovery.tables.memory import MEMORY  # noqa: E402
from recovery.tables.model import MODEL, VECTORS  # noqa: E402
from recovery.tables.reload import RELOAD, STEP_WORDS  # noqa: E402
from recovery.tables.rescue import RESCUE  # noqa: E402
from recovery.tables.rto import RTO  # noqa: E402
from recovery.tables.scope import SCOPE  # noqa: E402
from recovery.tables.serving import SERVING  # noqa: E402
from recovery.tables.severity import SEVERITY  # noqa: E402
from recovery.tables.standing import STANDING  # noqa: E402
from recovery.tables.states import STATES  # noqa: E402
from recovery.tables.surroundings import CORES, DATA, DISK, FILE_SYSTEM, OPEN_FILES, SERVER_LOG  # noqa: E402
from recovery.tables.watch import WATCH  # noqa: E402
from recovery.telemetry import conventions  # noqa: E402
from recovery.telemetry.metrics import FOLDED, METRICS  # noqa: E402
from recovery.telemetry.resource import RESOURCE  # noqa: E402
from replay.conventions import span_name  # noqa: E402
from tests.bench.recorded import Recorded, growth  # noqa: E402
from tests.bench.tables import markdown_of_figures, markdown_of_targets  # noqa: E402
from tests.faults.record import results  # noqa: E402
from tests.faults.registry import checks  # noqa: E402

MADE = "<!-- Made by docs/generate.py (make docs); edit the help of the verb or the table of keys instead. -->"

# -- cli.md -----------------------------------------------------------------------------------------------------------


def cli_md() -> str:
    root = cli.make_context("journal", [], obj=App(), resilient_parsing=True)
    lines = ["# The `journal` command", "", MADE, "", *_prose(cli.help or "")]
    lines += ["## Every verb takes, before it or after", "", *_options(cli, root), "", "## Exit codes", ""]
    lines += [f"- `{code}` {meaning}" for code, meaning in EXIT_CODES.items()]
    lines += ["", "## Verbs", ""]
    lines += [f"- [`journal {name}`](#journal-{name}) {said}" for name, said in VERBS.items()]
    for name in VERBS:
        lines += _verb(load(name), name, root, "##")
    return "\n".join(lines).rstrip() + "\n"


def _verb(command: click.Command, name: str, parent: click.Context, heading: str) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    yield from ("", f"{heading} {context.command_path}", "", "```", command.get_usage(context)[len("Usage: ") :], "```")
    yield from ("", *_prose(command.help or ""))
    if options := list(_options(command, context)):
        yield from (*options, "")
    examples = getattr(command, "examples", ())
    if examples:
        yield from ("```sh", *examples, "```")
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            sub = command.get_command(context, each)
            assert sub is not None
            yield from _verb(sub, each, context, heading + "#")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and not {"--help", "--version"} & set(parameter.opts):
            yield f"- `{record[0]}` {' '.join(record[1].split())}".rstrip()


def _prose(text: str) -> Iterator[str]:
    """Help as Markdown: click leaves a paragraph after a line of \\b as it is, and so does a fence."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.split("\n")
        if lines[0].strip() == "\b":
            yield from ("```", *lines[1:], "```", "")
        else:
            yield from (*lines, "")


# -- config.md --------------------------------------------------------------------------------------------------------


def config_md() -> str:
    lines = [
        f"# {FILE_NAME}",
        "",
        MADE,
        "",
        f"The configuration of a data directory: `{FILE_NAME}` in it, or the file that `--config` names. Every key may",
        "be left out, and so may the file. An unknown key is refused, with the key that was likely meant; so is a file",
        f"of more than {FILE_BYTES_MAX:,} bytes, and YAML with anchors, aliases or tags.",
        "",
        "With every key at its default the file reads:",
        "",
        "```yaml",
        *_defaults(),
        "```",
    ]
    for key in keys():
        if key.kind is None:
            lines += ["", f"## {key.name}", "", key.doc]
        else:
            heading = "###" if "." in key.name else "##"
            default = f"Default `{_inline(key.default)}`; {key.kind.text}."
            lines += ["", f"{heading} {key.name}", "", key.doc, "", default]
    return "\n".join(lines) + "\n"


def _defaults() -> Iterator[str]:
    for key in keys():
        indent = "  " * key.name.count(".")
        name = key.name.rpartition(".")[2]
        yield f"{indent}{name}:" + ("" if key.kind is None else f" {_inline(key.default)}")


def _inline(value: object) -> str:
    """A default as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {each}" for name, each in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(str(each) for each in value) + "]"
    return str(value) if value != "" else '""'


# -- recovery.md ------------------------------------------------------------------------------------------------------

TABLES = ("<!-- tables: made by docs/generate.py (make docs) from recovery/tables -->", "<!-- end of tables -->")


def recovery_md() -> str:
    """The prose as it stands, with the decision tables between their marks."""
    before, _, rest = (SOURCES / "recovery.md").read_text(encoding="utf-8").partition(TABLES[0])
    after = rest.partition(TABLES[1])[2]
    return "\n".join((before + TABLES[0], "", *_decisions(), TABLES[1])) + after


def _decisions() -> Iterator[str]:
    yield from ("### memory.db", "", *_table(("case", "when", "then", "health", "exit"), map(_line, MEMORY)), "")
    grades = ((f"`{each.case}`", each.when, each.severity) for each in SEVERITY)
    yield from ("### How bad memory.db is", "", *_table(("case", "when", "severity"), grades), "")
    lines = map(_line, SCOPE)
    yield from ("### One scope of memory.db", "", *_table(("case", "when", "then", "health", "exit"), lines), "")
    yield from ("### Agent files", "", *_table(("case", "when", "then", "health", "exit"), map(_line, AGENT)), "")
    ways = _table(("takes its place", "when"), ((f"`{row.case}`", row.when) for row in RESCUE))
    yield from ("### An agent config that is not valid", "", *ways, "")
    headings = ("case", "when", "then", "health", "exit")
    yield from ("### The embedding model", "", *_table(headings, map(_line, MODEL)), "")
    yield from ("### Its vectors", "", *_table(headings, map(_line, VECTORS)), "")
    remedies = ((f"`{each.failure}`", ", ".join(each.steps).replace("_", " "),
                 f"as for `{each.otherwise}`" if each.otherwise else "its status is failed") for each in RELOAD)
    yield from ("### A reload that failed", "", *_table(("failure", "steps", "where one fails"), remedies), "")
    steps = ((name.replace("_", " "), words) for name, words in STEP_WORDS.items())
    yield from (*_table(("step", "does"), steps), "")
    patterns = ((f"`{name}`", f"`{pattern}`".replace("|", "\\|")) for name, pattern in DEFAULT_PATTERNS.items())
    yield from (*_table(("failure", "its pattern in a log, unless configured"), patterns), "")
    watched = ((f"`{each.case}`", each.when, each.action.replace("_", " ")) for each in WATCH)
    yield from ("### A file that is watched", "", *_table(("case", "when", "then"), watched), "")
    lines = ((component, *_line(row)) for component, row in DIRECTORY)
    yield from ("### The directory", "", *_table(("of", "case", "when", "then", "health", "exit"), lines), "")
    around = (("recovery time", RTO), ("data", DATA), ("disk", DISK), ("open files", OPEN_FILES), ("core files", CORES),
              ("server log", SERVER_LOG), ("file system", FILE_SYSTEM))  # fmt: skip
    lines = ((component, *_line(row)) for component, table in around for row in table)
    yield from ("### What surrounds the state", "", *_table(("of", *headings), lines), "")
    yield from ("### A server that was started", "", *_table(headings, map(_line, SERVING)), "")
    live = ((component, f"`{row.case}`", row.when, row.health) for component, table in STATES.items() for row in table)
    yield from ("### The parts of an open server", "", *_table(("of", "case", "when", "state"), live), "")
    looked = ((name, f"`{row.case}`", row.when, row.health) for name, table in STANDING.items() for row in table)
    yield from ("### The states that status tells", "", *_table(("of", "case", "when", "state"), looked), "")
    facts = ("something valid follows", "known to have been durable", "never wholly written", "one bit explains it")
    yield from ("### A bad region of the log", "", *_table((*facts, "is", "then"), _regions()), "")


_THEN = {
    (regions.Verdict.CORRUPTION, regions.Action.REPAIR): "repair: `journal verify --repair`; until then stop, exit 12",
    (regions.Verdict.CORRUPTION, regions.Action.STOP): "stop, exit 12: never truncated",
    (regions.Verdict.TORN_TAIL, regions.Action.SET_ASIDE): "copied to quarantine; the log goes on in a new segment",
    (regions.Verdict.AMBIGUOUS, regions.Action.REPAIR): "repair: `journal verify --repair`; until then stop, exit 13",
    (regions.Verdict.AMBIGUOUS, regions.Action.ASK): "stop, exit 13: only its owner can say",
}


def _regions() -> Iterator[tuple[str, ...]]:
    for facts in product((True, False), repeat=4):
        followed, covered, incomplete, one_bit = facts
        decision = regions.decide(followed=followed, covered=covered, incomplete=incomplete, one_bit=one_bit)
        yield (*("yes" if fact else "no" for fact in facts), decision.verdict.value, _THEN[decision])


def _line(row: Row[Any]) -> tuple[str, ...]:
    return f"`{row.case}`", row.when, row.action.replace("_", " "), row.health, str(row.exit_code)


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield from ("| " + " | ".join(headings) + " |", "|" + "---|" * len(headings))
    yield from ("| " + " | ".join(line) + " |" for line in lines)


# -- reliability.md ---------------------------------------------------------------------------------------------------

CHECKS = (
    "<!-- checks: made by docs/generate.py (make docs) from docs/reliability.json and the checks in tests/faults -->",
    "<!-- end of checks -->",
)


def reliability_md() -> str:
    """The prose as it stands, with the table of checks between its marks."""
    before, _, rest = (SOURCES / "reliability.md").read_text(encoding="utf-8").partition(CHECKS[0])
    after = rest.partition(CHECKS[1])[2]
    table = _table(("claim", "how it is tried", "command", "last result"), _results())
    return "\n".join((before + CHECKS[0], "", *table, "", CHECKS[1])) + after


def _results() -> Iterator[tuple[str, ...]]:
    recorded = results()
    for check in checks():
        found = recorded.get(check.name)
        if found is None:
            yield check.claim, check.how, f"`python -m tests.faults {check.name}`", "not run yet"
            continue
        counts = ", ".join(f"{number:,} {what}" for what, number in found["counts"].items())
        told = counts or " ".join(found.get("message", "").split())[:200]
        said = f"**{found['outcome']}**: {told} in {found['seconds']:,.0f} s"
        where = f"{found['when']}, {found['on']}, commit {found['commit']}"
        yield check.claim, check.how, f"`{found['command']}`", f"{said}; {where}"


# -- performance.md ---------------------------------------------------------------------------------------------------

TARGETS = (
    "<!-- targets: made by docs/generate.py (make docs) from docs/performance.json and tests/bench/targets.py -->",
    "<!-- end of targets -->",
)
FIGURES = (
    "<!-- figures: made by docs/generate.py (make docs) from docs/performance.json -->",
    "<!-- end of figures -->",
)


def performance_md() -> str:
    """The prose as it stands, with what was to be reached and what was measured between its marks."""
    text = (SOURCES / "performance.md").read_text(encoding="utf-8")
    recorded = Recorded.load(SOURCES / "performance.json")
    for marks, lines in (
        (TARGETS, markdown_of_targets({**recorded.figures(), "values": {**recorded.values, **growth()}})),
        (FIGURES, markdown_of_figures(recorded.figures(), recorded.machine, recorded.peers)),
    ):
        before, _, rest = text.partition(marks[0])
        text = "\n".join((before + marks[0], "", *lines, "", marks[1])) + rest.partition(marks[1])[2]
    return text


# -- telemetry.md -----------------------------------------------------------------------------------------------------

TELEMETRY = (
    "<!-- telemetry: made by docs/generate.py (make docs) from recovery/telemetry/conventions.py -->",
    "<!-- end of telemetry -->",
)


def telemetry_md() -> str:
    """The prose as it stands, with every span and attribute between its marks."""
    before, _, rest = (SOURCES / "telemetry.md").read_text(encoding="utf-8").partition(TELEMETRY[0])
    after = rest.partition(TELEMETRY[1])[2]
    return "\n".join((before + TELEMETRY[0], "", *_telemetry(), TELEMETRY[1])) + after


def _telemetry() -> Iterator[str]:
    quiet = ("recovery.started", "recovery.step_completed", "recovery.completed", "recovery.failed")
    spans = ((f"`{name}`", f"`{span_name(name)}`") for name in type_dictionary() if name not in quiet)
    yield from ("### Spans of the history", "", *_table(("event", "span"), spans), "")
    yield from (*_table(("span", "is"), ((f"`{name}`", words) for name, words in conventions.RECOVERY_SPANS)), "")
    links = ((f"`{name}`", words) for name, words in conventions.LINKS.items())
    yield from (*_table(("`journal.link`", "leads"), links), "")
    lives = ((f"`{name}`", words) for name, words in conventions.LIVE_SPANS)
    yield from ("### Live spans", "", *_table(("span", "around"), lives), "")
    attributes = ((f"`{name}`", words) for name, words in conventions.ATTRIBUTES.items())
    yield from ("### Attributes", "", *_table(("attribute", "is"), attributes), "")
    yield from (*_table(("of the resource", "is"), ((f"`{name}`", words) for name, words in RESOURCE.items())), "")
    yield from ("### Metrics", "", *_table(("Prometheus", "OTLP", "kind", "unit", "labels", "is"), _metrics()), "")


def _metrics() -> Iterator[tuple[str, ...]]:
    """Those of the journal first: what is folded from it says so."""
    for metric in METRICS:
        words = metric.words + (" Folded from the journal." if metric in FOLDED and metric.kind != "gauge" else "")
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"`{metric.prometheus}`", f"`{metric.name}`", metric.kind, metric.unit or "1", labels, words


# -- the dashboard ----------------------------------------------------------------------------------------------------


def dashboard_json() -> str:
    words = "Recoveries, writing, and what proves that a recovery would work: the metrics of agent-journal."
    return dashboard("Agent Journal", words, "agent-journal", ROWS, present="journal_last_seq")


# -- writing ----------------------------------------------------------------------------------------------------------

FILES: dict[str, Callable[[], str]] = {
    "cli.md": cli_md, "config.md": config_md, "performance.md": performance_md, "recovery.md": recovery_md,
    "reliability.md": reliability_md, "telemetry.md": telemetry_md, "dashboards/journal.json": dashboard_json,
}  # fmt: skip


def stale() -> list[str]:
    """Names of the files that are not what they would be made."""
    return [
        name
        for name, make in FILES.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != make()
    ]


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        for name in (found := stale()):
            print(f"docs/{name} is stale: run make docs", file=sys.stderr)
        return 1 if found else 0
    for name, make in FILES.items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
