"""`journal revert` on a real data directory: what an agent did is undone, what others built on it is named.

The judge of the state is the reference projection without the chosen events; see test_replay_revert for random ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.events import EntityCreated, EntityUpdated, MessageRecorded, ObservationAdded, ScopeCleared
from recovery import open_server_sync
from recovery.setup import initialise
from tests.commands import CONFIG, SMALL, Command, process, small_history
from tests.damage import assert_recovered, model_of, records

FIRST = SMALL + 1


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def rogue(data: Path) -> None:
    """An agent that goes wrong: it says things, changes what others made, and breaks a config."""
    with open_server_sync(data, background=False) as hook:
        hook.append(ObservationAdded("global", "Acme", "is bankrupt"), agent="rogue")
        hook.append(EntityUpdated("global", "Acme", confidence=0.01, entity_type="ruin"), agent="rogue")
        hook.append(EntityCreated("global", "Ghost", "person"), agent="rogue")
        hook.agents.write("writer", b"---\nname: writer\ntools: [rm]\n---\n", agent="rogue")
        hook.append(MessageRecorded("talk", "rogue", "assistant", "done!", "m1"), agent="rogue")


def known(data: Path) -> tuple[object, ...]:
    """What is known, without ids and times."""
    state = model_of(data).state
    entities = {key: (each.entity_type, each.confidence, each.metadata) for key, each in state.entities.items()}
    names = {each.id: key for key, each in state.entities.items()}
    observations = {(names[each.entity_id], each.content, each.agent) for each in state.observations.values()}
    agents = {name: (each.content, each.status, each.reason) for name, each in state.agents.items()}
    return entities, observations, agents


def test_what_an_agent_did_is_undone_and_its_config_is_the_one_before(run: Command) -> None:
    before = known(run.data)
    rogue(run.data)
    told = run("revert", "--agent", "rogue", "--dry-run")
    assert told.code == 0
    assert "5 events chosen, 4 events to undo them" in told.out
    assert '  no longer observed of Acme: "is bankrupt"' in told.out
    assert "  config of agent writer written" in told.out
    assert "1 message kept" in told.out
    assert len(records(run.data)) == FIRST + 4, "a dry run wrote something"
    done = run("revert", "--agent", "rogue", "--yes")
    assert done.code == 0
    assert f"reverted by seq {FIRST + 5}-{FIRST + 8}; to undo: journal revert --op-id revert-" in done.out
    assert known(run.data) == before
    assert (run.data / "agents" / "writer.md").read_bytes() == CONFIG
    assert_recovered(run.data, model_of(run.data))
    assert run("check").code == 0
    again = run("revert", "--agent", "rogue", "--yes")
    assert (again.code, "0 events to undo them" in again.out) == (0, True)


def test_the_undoing_is_undone_by_the_op_id_that_it_prints(run: Command) -> None:
    rogue(run.data)
    after = known(run.data)
    op_id = run.json("revert", "--agent", "rogue", "--yes")["op_id"]
    assert known(run.data) != after
    assert run("revert", "--op-id", op_id, "--yes").code == 0
    assert known(run.data) == after


def test_with_a_conflict_nothing_is_written_unless_it_is_skipped(run: Command) -> None:
    """Scenario: somebody has added to the entity that the agent made up."""
    rogue(run.data)
    with open_server_sync(run.data, background=False) as hook:
        seq = hook.append(ObservationAdded("global", "Ghost", "was seen"), agent="sales").seq
    count = len(records(run.data))
    refused = run("revert", "--agent", "rogue", "--yes")
    assert refused.code == 3
    assert f"conflict: entity Ghost: changed at seq {FIRST + 2}, and seq {seq} rests on that" in refused.out
    assert "nothing was written" in refused.err
    document = run("revert", "--agent", "rogue", "--yes", "--json")
    assert document.code == 3
    assert document.json()["conflicts"][0]["later_seq"] == seq
    assert document.json()["seqs"] == []
    assert len(records(run.data)) == count
    skipped = run("revert", "--agent", "rogue", "--skip-conflicts", "--yes")
    assert skipped.code == 3, "what is left is said by the exit code, too"
    entities, observations, agents = known(run.data)
    assert (("global", "Ghost"), "was seen", "sales") in observations
    assert entities["global", "Acme"][1] == 0.25
    assert agents["writer"][0] == CONFIG


def test_a_config_that_a_person_has_mended_stands(run: Command) -> None:
    rogue(run.data)
    with open_server_sync(run.data, background=False) as hook:
        hook.agents.write("writer", b"mended\n", actor="ann")
    done = run("revert", "--agent", "rogue", "--yes")
    assert done.code == 0
    assert "stands: agent writer: its config" in done.out
    assert (run.data / "agents" / "writer.md").read_bytes() == b"mended\n"


def test_one_entity_one_actor_one_stretch_of_time(run: Command) -> None:
    assert run.json("revert", "--entity", "Bob", "--dry-run")["chosen"] == 2
    assert run.json("revert", "--actor", "ann", "--dry-run")["chosen"] == 3
    assert run.json("revert", "--scope", "workspace:east", "--dry-run")["chosen"] == 2
    found = run.json("revert", "--since", "7", "--until", "9", "--dry-run")
    assert [each["event"]["type"] for each in found["events"]] == [
        "memory.observation_removed", "memory.entity_updated", "agent.status_changed"
    ]  # fmt: skip
    assert run.json("revert", "--since", "10", "--dry-run")["events"][0]["event"]["name"] == "Acme"


def test_what_a_restore_has_left_is_undone_already(run: Command) -> None:
    rogue(run.data)
    with open_server_sync(run.data, background=False) as hook:
        hook.restore(SMALL)
    before = known(run.data)
    done = run("revert", "--agent", "rogue", "--yes")
    assert "5 events no longer in effect" in done.out
    assert known(run.data) == before
    with open_server_sync(run.data, background=False) as hook:
        hook.restore(FIRST + 4)  # back to the time of the rogue
    assert run("revert", "--agent", "rogue", "--yes").code == 0
    assert known(run.data) == before


def test_it_must_be_told_what_to_undo(run: Command) -> None:
    refused = run("revert", "--yes")
    assert refused.code == 2
    assert "which changes" in refused.err
    nothing = run("revert", "--agent", "nobody", "--yes")
    assert (nothing.code, nothing.out) == (0, "no change was chosen\n")
    assert run("revert", "--since", str(SMALL), "--until", "tag:none").code == 2
    assert run("revert", "--scope", "nonsense").code == 2


def test_beside_a_server_it_goes_through_it(run: Command) -> None:
    rogue(run.data)
    with open_server_sync(run.data, background=False) as hook:
        assert process(run.data, "revert", "--agent", "rogue", "--dry-run").returncode == 0
        before = hook.core.log.next_seq
        done = process(run.data, "revert", "--agent", "rogue", "--yes")
        assert done.returncode == 0, done
        assert hook.core.log.next_seq > before


def test_what_no_group_can_hold_is_refused_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scenario: a scope of more than ten thousand memories was cleared. Half of an undoing is no undoing."""
    data = tmp_path / "data"
    initialise(str(data))
    with open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("workspace:big", "Acme", "company"))
        for part in range(2):
            hook.append_all(ObservationAdded("workspace:big", "Acme", f"{part} {number}") for number in range(5000))
        seq = hook.append(ScopeCleared("workspace:big"), agent="rogue").seq
    run = Command(data, capsys)
    refused = run("revert", "--agent", "rogue", "--yes")
    assert refused.code == 2
    assert "10001 events would undo this" in refused.err
    assert "--since" in refused.err
    assert len(records(data)) == seq
