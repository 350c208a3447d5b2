"""A secret is everywhere it can be: in events, agents, configs, names, arguments. It is in no error, log or report.

The rules are its owner's, in journal.yaml. What a person asks to see of the journal is content, and stays whole.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from journal.errors import Corrupt, UsageError
from recovery.config.file import load_rules, parse
from recovery.redact import MARK, Redactor
from tests.commands import ENVIRONMENT, Command, process, small_history
from tests.journals import segment_files

SECRET = "sk-0a1b2c3d4e5f6071"
PASSWORD = "Tr0ub4dor"
RULES = f"redact:\n  patterns: ['sk-[0-9a-f]{{8,}}']\n  fields: [password, api_key]\n# {SECRET}\n"


@pytest.fixture
def journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    small_history(tmp_path / "data")
    (tmp_path / "data" / "journal.yaml").write_text(RULES)
    return Command(tmp_path / "data", capsys)


def line(event: dict[str, Any], **envelope: Any) -> str:
    return json.dumps({"event": event, **envelope})


OBSERVATION = {"type": "memory.observation_added", "scope": "global", "entity": "Acme"}
REFUSED = [
    line({**OBSERVATION, "entity": SECRET, "content": "x"}),
    line({"type": SECRET}),
    line({**OBSERVATION, SECRET: 1}),
    line({**OBSERVATION, "content": [SECRET]}),
    line({**OBSERVATION, "content": "x", "scope": f"scope {SECRET}"}),
    line({"type": "agent.config_removed", "name": f"{SECRET}/x"}),
    line({"type": "agent.config_removed", "name": SECRET}),
    line({"type": "agent.status_changed", "name": "writer", "status": SECRET}),
    line({"type": "agent.config_written", "name": "writer", "content": "x", "sha256": SECRET}),
    line({"type": "agent.config_written", "name": "writer", "content": "x", "origin": f"password={PASSWORD}"}),
    line({"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": SECRET}),
    line({**OBSERVATION, "content": "x", "metadata": {"password": PASSWORD, "n": [[[]]] * 3, "d": {"x": "y" * 70000}}}),
    line({**OBSERVATION, "content": "x"}, traceparent=SECRET),
    line({**OBSERVATION, "content": "x"}, **{SECRET: 1}),
    line({**OBSERVATION, "content": "x"}, op_id=[SECRET]),
    f'{{"event": "{SECRET}',
    f'"password": "{PASSWORD}"',
    line({"type": "memory.relation_created", "scope": "global", "from_entity": SECRET, "to_entity": "Acme",
          "relation_type": "knows"}),
]  # fmt: skip


def clean(text: str) -> None:
    for secret in (SECRET, SECRET[3:11], PASSWORD):
        assert secret not in text, text


def test_a_refused_line_does_not_say_what_was_secret_in_it(journal: Command) -> None:
    ran = process(journal.data, "append", input="\n".join(REFUSED) + "\n")
    errors = [json.loads(each)["error"] for each in ran.stdout.splitlines()]
    assert (ran.returncode, [each["line"] for each in errors]) == (3, list(range(1, len(REFUSED) + 1)))
    clean(ran.stdout + ran.stderr)
    assert sum(MARK in each["message"] for each in errors) > 8, "and it was there to be said"


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        ["show", SECRET], ["log", "--since", SECRET], ["log", "-n", SECRET], [SECRET], ["show", "--entity", SECRET],
        ["log", f"--{SECRET}"], ["replay", "--until", SECRET, "-o", "x"], ["replay", "--until", f"tag:{SECRET}"],
        ["diff", "1", SECRET], ["verify", "--receipt", SECRET], ["agents", "show", SECRET], ["tag", f"{SECRET}\n"],
        ["verify", "--receipt", json.dumps({"seq": SECRET})], ["recover", SECRET],
        ["recover", "agents", "--agent", SECRET],
        ["recover", "--from", f"/nowhere/{SECRET}"], ["backup", f"/proc/{SECRET}"], ["adopt", "agents", SECRET],
        ["checkpoint", "verify", SECRET], ["verify", "--head", f"/nowhere/{SECRET}"], ["agents", "suspend", SECRET],
        ["log", "--type", SECRET], ["revert", SECRET], ["replay", "--until", "1", "-o", f"/proc/{SECRET}"],
        ["--config", f"/nowhere/{SECRET}", "check"], ["completion", SECRET],
    ],
    ids=lambda words: " ".join(words)[:40],
)  # fmt: skip
def test_an_argument_that_is_secret_is_not_repeated(journal: Command, words: list[str], as_json: bool) -> None:
    if words[0] == "--config":
        words = [*words[2:], "--config", str(journal.data / "journal.yaml"), "--agent", SECRET]
    ran = journal(*words, *(["--json"] if as_json else []))
    assert ran.code != 0 or words[:2] in (["log", "--type"], ["tag", f"{SECRET}\n"]), ran
    clean(ran.out + ran.err)


def test_a_report_of_damage_does_not_name_it(journal: Command) -> None:
    agents = journal.data / "agents"
    (agents / "writer.md").write_text(f"---\nname: {SECRET}\n{SECRET}: 1\n{SECRET}: 2\nx: !{SECRET} y\n---\n")
    (agents / f"{SECRET}.md").symlink_to(f"/tmp/{SECRET}")
    for words in (
        ["check"], ["status"], ["verify"], ["agents", "validate"], ["recover", "all", "--dry-run"],
        ["recover", "all", "--yes"], ["check", "--json"], ["recover", "agents", "--agent", "writer", "--yes"],
    ):  # fmt: skip
        ran = journal(*words)
        clean(ran.out + ran.err)
    reasons = [record["event"] for record in journal("log", "--json").json_lines() if "recovery" in record["type"]]
    assert reasons
    clean(json.dumps(reasons))


def test_damage_of_the_journal_in_a_directory_with_a_secret_name(tmp_path: Path, capsys) -> None:
    data = tmp_path / SECRET
    small_history(data)
    (data / "journal.yaml").write_text(RULES)
    segment = segment_files(str(data / "journal"))[-1]
    damaged = bytearray(segment.read_bytes())
    damaged[300:303] = b"xyz"
    segment.write_bytes(damaged)
    command = Command(data, capsys)
    for words in (["log"], ["check"], ["verify"], ["verify", "--json"], ["append"], ["recover", "all", "--yes"]):
        ran = command(*words)
        assert ran.code == 12
        clean(ran.err + ("" if words == ["log"] else ran.out))


def test_the_lock_file_does_not_keep_what_a_server_was_started_with(journal: Command) -> None:
    """Whoever holds the lock writes down which program it is, with its first argument."""
    program = "import sys; from recovery import open_server_sync; open_server_sync(sys.argv[2]).__enter__()"
    arguments = [sys.executable, "-c", program, f"--api-key={SECRET}", str(journal.data)]
    subprocess.run(arguments, env=ENVIRONMENT, check=True, timeout=120)
    held = (journal.data / "journal/lock").read_text()
    assert MARK in held
    clean(held)


def test_a_plan_that_was_cut_does_not_keep_it(journal: Command, monkeypatch) -> None:
    (journal.data / "agents" / "writer.md").write_text(f"---\nname: {SECRET}\n{SECRET}: 1\n{SECRET}: 2\n---\n")
    monkeypatch.setattr("recovery.execute.journal_event", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert journal("recover", "agents", "--yes").code == 130
    kept = (journal.data / "journal/recovery.json").read_bytes()
    assert b'"restore_agents"' in kept
    clean(kept.decode(errors="replace"))


def test_what_is_asked_for_is_content_and_stays_whole(journal: Command) -> None:
    event = line({**OBSERVATION, "content": f"the key is {SECRET}"}, op_id=f"op {SECRET}")
    ran = process(journal.data, "append", input=event)
    assert json.loads(ran.stdout)["op_id"] == f"op {SECRET}", "a receipt that does not match proves nothing"
    for words in (["log"], ["log", "--json"], ["show", "now"], ["show", "--entity", "Acme"], ["diff", "1", "now"]):
        ran = journal(*words) if words != ["show", "now"] else journal("log", "-n", "1")
        assert SECRET in ran.out, words


@pytest.mark.parametrize(
    "config",
    [
        RULES + f"{SECRET}: 1\n",
        RULES + f"paths: {{agents: [{SECRET}]}}\n",
        RULES + f"checkpoint:\n  agents: {{x: {SECRET}}}\n",
        RULES + f"paths:\n  {SECRET}: x\n",
        RULES + f"disk:\n  reserve_bytes: 'password={PASSWORD}'\n",
    ],
)
def test_a_configuration_that_is_wrong_elsewhere_still_has_its_rules(journal: Command, config: str) -> None:
    (journal.data / "journal.yaml").write_text(config)
    for words in (["check"], ["check", "--json"]):
        ran = journal(*words)
        assert ran.code == 2
        clean(ran.out + ran.err)
    assert load_rules(journal.data)


def test_a_fault_of_the_program_prints_its_traceback_without_it(journal: Command, monkeypatch) -> None:
    monkeypatch.setattr("recovery.diagnose.diagnose", lambda *_, **__: (_ for _ in ()).throw(RuntimeError(SECRET)))
    ran = journal("check")
    assert ran.code == 1
    assert f"RuntimeError: {MARK}" in ran.err
    clean(ran.out + ran.err)


# -- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"password": "a, b", "n": 1}', '{"password": [redacted], "n": 1}'),
        ('{"password": "a\\"b", "n": 1}', '{"password": [redacted], "n": 1}'),
        ('{"password": 1234, "n": 1}', '{"password": [redacted], "n": 1}'),
        ('"{\\"password\\": \\"a b\\", \\"n\\": 1}"', '"{\\"password\\": [redacted], \\"n\\": 1}"'),
        ("{'Password': 'a b'}", "{'Password': [redacted]}"),
        ("password: correct horse, battery\nnext: line", "password: [redacted]\nnext: line"),
        ("url?password=a&b=c", "url?password=[redacted]&b=c"),
        ('{"password": "cut off', '{"password": [redacted]'),
        ('{"password": "cut off\\', '{"password": [redacted]'),
        ("a password is needed", "a password is needed"),
        ("my-password: x", "my-password: x"),
        ("passwords: x", "passwords: x"),
    ],
)
def test_a_field_in_a_text(text: str, told: str) -> None:
    assert Redactor(fields=("password",)).text(text) == told


def test_a_value_of_json() -> None:
    rules = Redactor(("sk-[0-9a-f]+",), ("password",))
    given = {"password": [1, {"x": "y"}], "list": ["sk-1", 2, None, ("sk-2",)], "sk-3": {"PASSWORD": 5, "ok": "fine"}}
    wanted = {"password": MARK, "list": [MARK, 2, None, [MARK]], MARK: {"PASSWORD": MARK, "ok": "fine"}}
    assert rules.value(given) == wanted
    assert Redactor().value(given) is given


def test_an_error_is_told_without_it_and_stays_what_it_is() -> None:
    error = Corrupt("found sk-1", path="/d/sk-2", offset=7, seq=3, hint="ask sk-3")
    told = Redactor(("sk-[0-9]",)).error(error)
    assert str(told) == f"found {MARK} [/d/{MARK} @ 7] - ask {MARK}"
    assert (type(told), told.seq, told.exit_code) == (Corrupt, 3, 12)
    assert error.message == "found sk-1"


@pytest.mark.parametrize("patterns", ["sk", ["("], ["x*"], [""], [1], ["q" * 1001], ["q"] * 101, {"x": "y"}])
def test_a_rule_that_is_none_is_refused(patterns: object) -> None:
    with pytest.raises(UsageError, match="regular expressions"):
        parse(json.dumps({"redact": {"patterns": patterns}}).encode(), "journal.yaml")
