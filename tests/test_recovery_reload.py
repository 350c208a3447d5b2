"""A server that cannot load an agent: what is done by the type of failure, on its live state, and what stays as it is.

The server of these tests loads a config from the file that the hook wrote, as servers do, and fails where it is told.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path

import anyio
import pytest

from journal.errors import Refused
from journal.events import (
    ConfigRejected,
    ConfigWritten,
    EntityCreated,
    Event,
    MessageRecorded,
    ObservationAdded,
    RecoveryCompleted,
    RecoveryFailed,
    RecoveryStarted,
    RecoveryStepCompleted,
    RelationCreated,
    StatusChanged,
)
from recovery import open_server, open_server_sync
from recovery.agents.failures import (
    DEFAULT_PATTERNS,
    ConversationStateLoss,
    MemoryCorruption,
    ReloadFailed,
    ToolLoadingFailure,
    ValidationFailure,
    failure_in,
    failure_of,
)
from recovery.config.kinds import FAILURE_NAMES, Failure
from recovery.data import Data
from recovery.server import ServerSyncHook
from recovery.setup import initialise
from recovery.tables.reload import RELOAD, STEP_WORDS, remedy_for
from tests.commands import Command
from tests.damage import files

ONE = b"---\nname: writer\ndescription: One.\ntools: [search, mail] # both\n---\nBody\n"
TWO = b"---\nname: writer\ndescription: Two.\ntools:\n  - search\n  - mail\n---\nBody\n"
THREE = b"---\nname: writer\ndescription: Three.\n---\nBody\n"


class Server:
    """Loads agents from their files; `refuses` is asked first, with the bytes that it found there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loaded: dict[str, bytes] = {}
        self.refuses: Callable[[bytes], Exception | None] = lambda content: None

    def __call__(self, name: str, content: bytes) -> None:
        found = (self.root / "agents" / f"{name}.md").read_bytes()
        assert found == content, "the file is not what the server is told to load"
        error = self.refuses(found)
        if error is not None:
            raise error
        self.loaded[name] = found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    initialise(str(tmp_path / "data"))
    return tmp_path / "data"


@contextmanager
def serving(root: Path) -> Iterator[tuple[ServerSyncHook, Server]]:
    server = Server(root)
    with open_server_sync(root, background=False) as hook:
        hook.agents.on_reload(server)
        yield hook, server


def events(root: Path, since: int = 1) -> list[Event]:
    return [record.event for batch in Data.at(root).reader().batches(since) for record in batch.records()]


def file_of(root: Path, name: str = "writer") -> bytes | None:
    path = root / "agents" / f"{name}.md"
    return path.read_bytes() if path.exists() else None


def row(hook: ServerSyncHook, name: str = "writer") -> tuple[bytes, str] | None:
    asked = "SELECT content, status FROM agents WHERE name = ?"
    found: tuple[bytes, str] | None = hook.core.state.connection.execute(asked, (name,)).fetchone()
    return found


def remember(hook: ServerSyncHook) -> None:
    """Memory of two agents and of all, and their conversation."""
    for scope in ("agent:writer", "agent:editor", "global"):
        hook.append(EntityCreated(scope, "Acme", "company"), agent="writer")
        hook.append(EntityCreated(scope, "Bob", "person"), agent="writer")
        hook.append(ObservationAdded(scope, "Acme", f"in {scope}"), agent="writer")
        hook.append(RelationCreated(scope, "Bob", "Acme", "works_for"), agent="writer")
    for number, agent in enumerate(("writer", "editor", "writer")):
        hook.append(MessageRecorded("talk", agent, "assistant", f"said {number}", f"m{number}"))


def rows_of(root: Path, *, but: str = "") -> dict[str, list[tuple[object, ...]]]:
    """Every row of memory.db, and of the rows without those of one agent's scope and messages."""
    asked = {
        "entities": "SELECT * FROM entities WHERE scope != :scope",
        "observations": "SELECT * FROM observations WHERE entity_id NOT IN "
        "(SELECT id FROM entities WHERE scope = :scope)",
        "relations": "SELECT * FROM relations WHERE from_entity_id NOT IN "
        "(SELECT id FROM entities WHERE scope = :scope)",
        "messages": "SELECT * FROM messages WHERE agent != :agent",
    }
    with closing(sqlite3.connect(root / "memory.db")) as connection:
        given = {"scope": f"agent:{but}", "agent": but}
        return {table: connection.execute(sql + " ORDER BY id", given).fetchall() for table, sql in asked.items()}


def by_another_program(root: Path, *statements: str) -> None:
    with closing(sqlite3.connect(root / "memory.db", isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0, statement


DAMAGE = (
    "UPDATE observations SET content = 'lies' WHERE content = 'in agent:writer'",
    "DELETE FROM entities WHERE scope = 'agent:writer' AND name = 'Bob'",
    "INSERT INTO entities VALUES (99999, 'agent:writer', 'Nobody', 'ghost', '{}', 1.0, 1, 1)",
)


# -- by type of failure -----------------------------------------------------------------------------------------------


def test_a_reload_that_works_is_a_write(root: Path) -> None:
    with serving(root) as (hook, server):
        done = hook.agents.reload("writer", ONE, actor="ann")
        assert (done.outcome, done.steps, done.seq) == ("reloaded", [], 1)
        assert server.loaded == {"writer": ONE}
    assert events(root) == [ConfigWritten("writer", ONE, _sha(ONE))]


def test_the_server_does_not_accept_it(root: Path) -> None:
    with serving(root) as (hook, server):
        hook.agents.reload("writer", ONE)
        server.refuses = lambda content: ValidationFailure("no such key") if content == TWO else None
        with pytest.raises(ReloadFailed, match="its previous version is in force") as caught:
            hook.agents.reload("writer", TWO)
        outcome = caught.value.outcome
        assert (outcome.outcome, outcome.failure) == ("rolled_back", "validation_failure")
        assert [step.step for step in outcome.steps] == list(remedy_for("validation_failure").steps)
        assert all(step.ok for step in outcome.steps)
        assert row(hook) == (ONE, "active")
        assert server.loaded == {"writer": ONE}
    assert file_of(root) == ONE
    told = [type(event) for event in events(root, 2)]
    assert told == [
        ConfigWritten, RecoveryStarted, StatusChanged, RecoveryStepCompleted, ConfigRejected, ConfigWritten,
        RecoveryStepCompleted, RecoveryStepCompleted, RecoveryStepCompleted, StatusChanged, RecoveryStepCompleted,
        RecoveryCompleted,
    ]  # fmt: skip
    (rejected,) = (event for event in events(root) if isinstance(event, ConfigRejected))
    assert (rejected.content, rejected.errors) == (TWO, ["validation_failure: ValidationFailure: no such key"])


def test_a_new_agent_that_is_not_accepted_is_gone_and_in_the_journal(root: Path) -> None:
    with serving(root) as (hook, server):
        server.refuses = lambda content: ValidationFailure("no")
        with pytest.raises(ReloadFailed):
            hook.agents.reload("writer", ONE)
        assert row(hook) is None
    assert file_of(root) is None
    assert [event.content for event in events(root) if isinstance(event, ConfigRejected)] == [ONE]


def test_the_version_before_is_no_good_either(root: Path) -> None:
    """What the server loaded once was edited by an agent to something that it cannot load; the one before that it
    can."""
    with serving(root) as (hook, server):
        hook.agents.reload("writer", ONE)
        hook.agents.write("writer", TWO)
        server.refuses = lambda content: None if content == ONE else ValidationFailure("no")
        with pytest.raises(ReloadFailed) as caught:
            hook.agents.reload("writer", THREE)
        assert caught.value.outcome.outcome == "rolled_back"
        steps = [(step.step, step.ok) for step in caught.value.outcome.steps]
        assert [step for step in steps if step[0] in ("roll_back", "reload")] == [
            ("roll_back", True), ("reload", False), ("roll_back", True), ("reload", True),
        ]  # fmt: skip
        assert row(hook) == (ONE, "active")


def test_strict_refuses_before_the_server_is_asked_and_loses_nothing(root: Path) -> None:
    (root / "journal.yaml").write_text("agents: {validation: strict}\n")
    with serving(root) as (hook, server):
        with pytest.raises(Refused, match="not valid"):
            hook.agents.reload("writer", b"no frontmatter")
        assert server.loaded == {}
    (rejected,) = events(root)
    assert isinstance(rejected, ConfigRejected)
    assert rejected.content == b"no frontmatter"


def test_the_memory_of_one_agent_is_rebuilt_and_nothing_else_is_touched(root: Path) -> None:
    with serving(root) as (hook, server):
        remember(hook)
        hook.agents.reload("writer", ONE)
        by_another_program(root, *DAMAGE, "UPDATE entities SET confidence = 0.5 WHERE scope = 'global'")
        others = rows_of(root, but="writer")
        (dangling,) = (each for each in others["relations"] if each[0] == 4)  # of Bob, whom the other program removed
        others["relations"].remove(dangling)
        fails = iter([MemoryCorruption("the agent's entities make no sense")])
        server.refuses = lambda content: next(fails, None)
        done = hook.agents.reload("writer", TWO)
        assert (done.outcome, done.failure) == ("recovered", "memory_corruption")
        assert done.steps[0].detail == (
            "1 of 2 entities missing, 1 entities extra, 1 of 1 observations altered"
        )
        assert rows_of(root, but="writer") == others, "not even what is wrong there"
        hook.append(ObservationAdded("agent:writer", "Bob", "is back"))
        assert server.loaded["writer"] == TWO
    with closing(sqlite3.connect(root / "memory.db")) as connection:
        of_writer = connection.execute(
            "SELECT content FROM observations JOIN entities ON entities.id = entity_id WHERE scope = 'agent:writer'"
        ).fetchall()
        assert of_writer == [("in agent:writer",), ("is back",)]
    kept = b"".join(path.read_bytes() for path in root.rglob("memory-*") if path.is_file())
    assert b"lies" in kept, "the file that was replaced is kept"
    assert b"Nobody" in kept


def test_tools_that_cannot_be_loaded_are_left_out_and_the_original_can_be_had_back(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(root) as (hook, server):
        hook.agents.reload("writer", ONE)
        server.refuses = lambda content: ToolLoadingFailure(tools=["mail"]) if b"mail" in content else None
        done = hook.agents.reload("writer", TWO)
        assert (done.outcome, done.failure) == ("recovered", "tool_loading_failure")
        reduced = TWO.replace(b"  - mail\n", b"")
        assert row(hook) == (reduced, "active")
        assert server.loaded == {"writer": reduced}
        command = done.steps[0].detail.partition("the original: journal ")[2]
    assert file_of(root) == reduced
    ran = Command(root, capsys)(*command.split(), "--yes")
    assert ran.code == 0, ran
    assert file_of(root) == TWO


def test_tools_of_which_nobody_says_which_failed_end_in_the_last_good_version(root: Path) -> None:
    with serving(root) as (hook, server):
        hook.agents.reload("writer", ONE)
        server.refuses = lambda content: ToolLoadingFailure("some tool") if content == TWO else None
        with pytest.raises(ReloadFailed) as caught:
            hook.agents.reload("writer", TWO)
        assert [step.step for step in caught.value.outcome.steps] == ["reduce_tools", *remedy_for("unknown").steps]
        assert row(hook) == (ONE, "active")


def test_messages_that_are_gone_come_back_from_the_journal(root: Path) -> None:
    with serving(root) as (hook, server):
        remember(hook)
        hook.agents.reload("writer", ONE)
        before = rows_of(root)
        by_another_program(
            root, "DELETE FROM messages WHERE message_id = 'm0'",
            "UPDATE messages SET content = 'never said' WHERE message_id = 'm2'",
        )  # fmt: skip
        lost = iter([ConversationStateLoss("nothing was said")])
        server.refuses = lambda content: next(lost, None)
        done = hook.agents.reload("writer", TWO)
        assert done.outcome == "recovered"
        assert done.steps[0].detail == "2 messages, 2 were missing, 1 replaced"
        assert rows_of(root) == before
        by_another_program(root, "INSERT INTO messages VALUES (999, 'talk', 'm9', 'writer', 'user', 'nobody', 1)")
        lost = iter([ConversationStateLoss("somebody said what nobody said")])
        assert hook.agents.reload("writer", ONE).steps[0].detail == "2 messages, 0 were missing, 1 replaced"
        assert rows_of(root) == before
    assert b"never said" in b"".join(files(root / "journal" / "quarantine").values()), "what was replaced is kept"


def test_nobody_knows_what_failed_and_all_of_the_agent_is_recovered(root: Path) -> None:
    with serving(root) as (hook, server):
        remember(hook)
        hook.agents.reload("writer", ONE)
        before = rows_of(root)
        by_another_program(root, *DAMAGE, "DELETE FROM messages WHERE message_id = 'm0'")
        server.refuses = lambda content: OSError("something") if content == TWO else None
        with pytest.raises(ReloadFailed, match="OSError: something") as caught:
            hook.agents.reload("writer", TWO)
        assert caught.value.outcome.failure == "unknown"
        assert rows_of(root) == before
        assert row(hook) == (ONE, "active")


def test_nothing_helps_and_the_status_says_so(root: Path) -> None:
    with serving(root) as (hook, server):
        hook.agents.reload("writer", ONE)
        server.refuses = lambda content: OSError("the server is out of order")
        with pytest.raises(ReloadFailed, match="its status is failed"):
            hook.agents.reload("writer", TWO)
        assert row(hook) == (ONE, "failed")
    ended = events(root)[-1]
    assert isinstance(ended, RecoveryFailed)
    assert "out of order" in ended.reason


def test_the_log_says_what_the_exception_does_not(root: Path, tmp_path: Path) -> None:
    """Old lines, and lines of other agents, do not count."""
    log = tmp_path / "server.log"
    log.write_text("validation_failed for writer\n")
    (root / "journal.yaml").write_text(f"reload: {{log: {log}}}\n")
    with serving(root) as (hook, server):
        hook.agents.reload("writer", ONE)

        def refuses(content: bytes) -> Exception | None:
            if b"mail" not in content:
                return None
            with log.open("a") as file:
                file.write("12:00 memory_corruption in writer-2\n12:01 tool_loading_error agent=writer tool=mail\n")
            return RuntimeError("see the log")

        server.refuses = refuses
        done = hook.agents.reload("writer", TWO)
        assert (done.outcome, done.failure) == ("recovered", "tool_loading_failure")
        assert "12:01" in done.cause


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_callback_of_an_async_server_runs_on_its_loop(root: Path, backend: str) -> None:
    async def main() -> None:
        started, loaded = list[bytes](), list[bytes]()
        async with open_server(root, background=False) as hook, anyio.create_task_group() as tasks:

            async def load(name: str, content: bytes) -> None:
                started.append(content)
                await hook.append(EntityCreated("global", f"load {len(started)}", "load"))  # a server writes meanwhile
                if content == TWO:
                    raise ValidationFailure("no")
                loaded.append(content)
                tasks.start_soon(anyio.sleep, 0)

            hook.agents.on_reload(load)
            await hook.agents.reload("writer", ONE)
            with pytest.raises(ReloadFailed):
                await hook.agents.reload("writer", TWO)
        assert loaded == [ONE, ONE]

    anyio.run(main, backend=backend)


# -- by command -------------------------------------------------------------------------------------------------------


def test_an_operator_names_the_failure(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(root) as (hook, _):
        for each in (ONE, TWO):
            hook.agents.write("writer", each)
    command = Command(root, capsys)
    asked = ("recover", "agents", "--agent", "writer", "--failure", "tool_loading_failure", "--tool", "mail")
    before = len(events(root))
    dry = command(*asked, "--dry-run")
    assert (dry.code, len(events(root))) == (0, before)
    assert "1. write the config without the failing tools" in dry.out
    assert command(*asked).code == 2, "nobody was asked"
    done = command(*asked, "--yes", "--json").json()
    assert done["result"][0]["outcome"] == "recovered"
    assert file_of(root) == TWO.replace(b"  - mail\n", b"")
    done = command(*asked[:4], "--failure", "validation_failure", "--yes", "--json").json()
    assert done["result"][0]["outcome"] == "rolled_back"
    assert file_of(root) == TWO, "the newest other version"
    assert command("recover", "agents", "--failure", "unknown", "--yes").code == 2
    assert command("recover", "agents", "--agent", "writr", "--failure", "unknown", "--yes").code == 2
    assert command("recover", "memory", "--agent", "writer", "--failure", "unknown").code == 2
    assert command("check").code == 0


def test_an_operator_lets_the_log_say_it(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "server.log"
    log.write_text("ERROR agent writer lost the talk\n")
    (root / "journal.yaml").write_text(
        f"reload:\n  log: {log}\n  patterns: {{conversation_state_loss: 'agent {{agent}} lost'}}\n"
    )
    with serving(root) as (hook, _):
        remember(hook)
        hook.agents.write("writer", ONE)
        before = rows_of(root)
        by_another_program(root, "DELETE FROM messages WHERE agent = 'writer'")
    command = Command(root, capsys)
    dry = command.json("recover", "agents", "--agent", "writer", "--failure", "auto", "--dry-run")
    assert dry["plan"][0]["failure"] == "conversation_state_loss"
    assert command("recover", "agents", "--agent", "writer", "--failure", "auto", "--yes").code == 0
    assert rows_of(root) == before


# -- telling failures apart -------------------------------------------------------------------------------------------


def test_the_table_has_one_line_a_failure_and_ends() -> None:
    assert [each.failure for each in RELOAD] == list(FAILURE_NAMES)
    for failure in FAILURE_NAMES:
        seen: list[Failure] = []
        at: Failure | None = failure
        while at is not None:
            assert at not in seen
            seen.append(at)
            remedy = remedy_for(at)
            assert remedy.steps
            assert set(remedy.steps) <= set(STEP_WORDS)
            assert ("suspend" in remedy.steps) == ("resume" in remedy.steps)
            at = remedy.otherwise
        assert seen[-1] == "unknown"
    assert {step for each in RELOAD for step in each.steps} == set(STEP_WORDS)


def test_an_exception_says_it_by_class_by_attribute_by_declaration_or_by_its_cause() -> None:
    class Odd(Exception):
        failure = "tool_loading_failure"
        tools = ("a", 1)

    class Declared(Exception):
        pass

    assert failure_of(Odd()) == ("tool_loading_failure", ("a",))
    assert failure_of(Declared(), {Declared: "memory_corruption"}) == ("memory_corruption", ())
    assert failure_of(Declared()) == ("unknown", ())
    assert failure_of(ExceptionGroup("", [OSError(), ConversationStateLoss()]))[0] == "conversation_state_loss"
    outer, inner = RuntimeError(), MemoryCorruption()
    outer.__cause__, inner.__cause__ = inner, outer  # a ring ends too
    assert failure_of(outer)[0] == "memory_corruption"
    inner.__cause__ = outer.__cause__ = outer
    assert failure_of(outer)[0] == "unknown"


@pytest.mark.parametrize("agent", ["writer", "a.b", "x*y", "été", "-rf"])
def test_a_pattern_finds_the_agent_and_not_one_with_a_longer_name(agent: str) -> None:
    words = {
        "validation_failure": "validation_failed", "memory_corruption": "memory_corruption",
        "tool_loading_failure": "tool_loading_error", "conversation_state_loss": "conversation_state_lost",
    }  # fmt: skip
    for (failure, word), around in product(words.items(), ("{}", "agent={}", "{}: no", "agents/{}.md", "({}).")):
        line = f"{word} {around.format(agent)}"
        expected = "unknown" if around == "agents/{}.md" else failure
        assert failure_in(line, agent, DEFAULT_PATTERNS)[0] == expected, line
        assert failure_in(f"{word} {around.format(agent + '-2')}", agent, DEFAULT_PATTERNS)[0] == "unknown"
    text = f"x\ntool_loading_error {agent} tool=a\nvalidation_failed {agent}\ntool_loading_error {agent} tool: b/c\n"
    assert failure_in(text, agent, DEFAULT_PATTERNS)[:2] == ("tool_loading_failure", ("a", "b/c"))


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
