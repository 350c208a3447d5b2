"""`journal show`: one record with its proof, and what was known of an entity, when, and by whom."""

from __future__ import annotations

import pytest

from journal.events import EntityCreated, EntityUpdated, ObservationAdded, ObservationRemoved, RelationUpdated
from recovery import open_server_sync
from recovery.setup import initialise
from tests.commands import SMALL, Command, small_history
from tests.journals import segment_files


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


# -- a record ---------------------------------------------------------------------------------------------------------


def test_a_record_in_full(journal):
    shown = journal.json("show", "4")
    (logged,) = [line for line in journal("log", "--json").json_lines() if line["seq"] == 4]
    assert {key: shown[key] for key in logged} == logged
    assert shown["epoch"] == 2
    assert (shown["batch"]["first_seq"], shown["batch"]["last_seq"]) == (3, 5)
    assert shown["continues_group"] is True
    assert journal.json("show", "5")["chain"] == shown["chain"]  # one batch, one link of the chain
    assert journal.json("show", "6")["batch"]["previous_chain"] == shown["chain"]


def test_the_text_names_every_part(journal):
    out = journal("show", "6").out
    for part in ("agent.config_written", "actor        ann", "epoch 2", "(generated)", "    tools: [search]"):
        assert part in out


def test_a_record_is_found_by_any_spelling_of_a_moment(journal):
    assert journal.json("show", "now")["seq"] == SMALL
    assert journal.json("show", "seq:3")["seq"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["0"], "the first record is 1"),
        (["11"], "beyond the end, 10"),
        (["tag:none"], "no tag"),
        ([], "SEQ or --entity"),
        (["3", "--entity", "Acme"], "SEQ or --entity"),
        (["3", "--at", "now"], "go with --entity"),
        (["--entity", "Nobody"], "no entity 'Nobody' was known at seq 10"),
        (["--entity", "Acmee"], "did you mean Acme?"),
        (["--entity", "Acme", "--scope", "agent:x"], "there is one in global"),
        (["--entity", "Bob", "--at", "3"], "was known at seq 3"),
        (["--entity", "Bob", "--at", "noon"], "is no moment"),
    ],
)
def test_wrong_input_is_one_line_that_says_what_to_write(journal, words, said):
    ran = journal("show", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_record_in_damaged_bytes_is_named_and_the_others_are_shown(journal):
    segment = segment_files(str(journal.data / "journal"))[-1]
    data = segment.read_bytes()
    at = data.index(b"cancelled in June")
    segment.write_bytes(data[:at] + b"C" + data[at + 1 :])
    assert journal.json("show", "6")["seq"] == 6
    ran = journal("show", "7")
    assert ran.code == 12
    assert str(segment) in ran.err
    assert "Traceback" not in ran.err


# -- an entity --------------------------------------------------------------------------------------------------------


def test_what_was_known_at_a_moment_and_who_wrote_it(journal):
    """Scenario: the contract was renewed, then cancelled; in between a second scope spoke of the same name."""
    then = journal.json("show", "--entity", "Acme", "--scope", "global", "--at", "5")
    (acme,) = then["entities"]
    assert (then["seq"], acme["entity_type"], acme["metadata"], acme["confidence"]) == (
        5, "company", {"city": "Rome"}, 1.0,
    )  # fmt: skip
    assert acme["updated_by"] is None
    assert acme["written_by"]["op_id"] == "crm-1"
    (observed,) = acme["observations"]
    assert observed["content"] == "renewed in May"
    written = observed["written_by"]
    assert (written["seq"], written["agent"], written["actor"]) == (2, "sales", "ann")
    assert written["time"] == journal.json("show", "2")["time"]
    (related,) = acme["relations"]
    assert (related["from_entity"], related["relation_type"], related["to_entity"]) == ("Bob", "works_for", "Acme")
    assert (related["strength"], related["written_by"]["agent"]) == (0.5, "research")

    (acme,) = journal.json("show", "--entity", "Acme", "--scope", "global")["entities"]
    assert [each["content"] for each in acme["observations"]] == ["renewed in May", "cancelled in June"]
    assert (acme["updated_by"]["seq"], acme["updated_by"]["agent"]) == (9, "ops")


def test_without_a_scope_every_scope_that_has_one(journal):
    def scopes(at: str) -> list[str]:
        return [each["scope"] for each in journal.json("show", "--entity", "Acme", "--at", at)["entities"]]

    assert scopes("2") == ["global"]
    assert scopes("9") == ["global", "workspace:east"]
    assert scopes("10") == ["global"]


def test_the_text_of_an_entity(journal):
    out = journal("show", "--entity", "Acme", "--at", "9").out
    assert "Acme (company) in global, as of seq 9" in out
    assert '"renewed in May"' in out
    assert "by sales for ann" in out
    assert "updated by ops" in out
    assert "Bob -works_for-> Acme, strength 0.5" in out
    assert "Acme (rumour) in workspace:east" in out


def test_after_a_restore_the_writers_are_those_of_the_restored_timeline(journal):
    """Scenario: what was undone is in the log, but nothing of it is known any more."""
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(EntityUpdated("global", "Acme", confidence=0.9), agent="vandal")
        hook.core.restore(5)
        hook.append(ObservationAdded("global", "Acme", "renewed again"), agent="sales")
    (acme,) = journal.json("show", "--entity", "Acme", "--scope", "global")["entities"]
    assert acme["confidence"] == 1.0
    assert acme["updated_by"] is None
    assert [each["content"] for each in acme["observations"]] == ["renewed in May", "renewed again"]
    (abandoned,) = journal.json("show", "--entity", "Acme", "--at", "11", "--scope", "global")["entities"]
    assert (abandoned["confidence"], abandoned["updated_by"]["agent"]) == (0.9, "vandal")


def test_an_update_in_the_batch_of_the_creation_is_an_update(tmp_path, capsys):
    """Scenario: all records of a batch have one time, so times alone cannot tell that there was an update."""
    initialise(str(tmp_path / "data"))
    with open_server_sync(tmp_path / "data", background=False) as hook:
        hook.append_all(
            [EntityCreated("global", "A", "x"), EntityCreated("global", "B", "x"), EntityUpdated("global", "A", "y")]
        )
        hook.append_all([EntityUpdated("global", "B", "y"), EntityUpdated("global", "B", "z")])
    journal = Command(tmp_path / "data", capsys)
    assert journal.json("show", "--entity", "A")["entities"][0]["updated_by"]["seq"] == 3
    assert journal.json("show", "--entity", "B", "--at", "4")["entities"][0]["updated_by"]["seq"] == 4
    assert journal.json("show", "--entity", "B", "--at", "3")["entities"][0]["updated_by"] is None


def test_many_observations_over_many_segments(tmp_path, capsys):
    data = tmp_path / "data"
    initialise(str(data))
    (data / "journal.yaml").write_text("segment_bytes_max: 65536\n")
    with open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("global", "x", "thing"))
        for number in range(12):
            facts = [ObservationAdded("global", "x", f"{number} {index} " + "y" * 900) for index in range(20)]
            hook.append_all(facts, agent=f"agent-{number}")
        hook.append(ObservationRemoved("global", "x", "3 3 " + "y" * 900))
    assert len(segment_files(str(data / "journal"))) > 4
    (known,) = Command(data, capsys).json("show", "--entity", "x")["entities"]
    assert len(known["observations"]) == 239
    for observed in known["observations"]:
        assert observed["written_by"]["agent"] == "agent-" + observed["content"].split()[0]


def test_nothing_is_left_behind_and_nothing_is_changed(journal):
    before = sorted((path, path.lstat().st_mtime_ns) for path in journal.data.rglob("*"))
    journal.json("show", "--entity", "Acme")
    assert sorted((path, path.lstat().st_mtime_ns) for path in journal.data.rglob("*")) == before


def test_a_relation_that_changed_is_shown_as_it_is(journal):
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(RelationUpdated("global", "Bob", "Acme", "works_for", strength=0.75))
    (bob,) = journal.json("show", "--entity", "Bob")["entities"]
    assert bob["relations"][0]["strength"] == 0.75
