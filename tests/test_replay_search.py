"""Search: what a paraphrase finds, and how the index keeps up with writes, removals, damage and a swapped database."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from journal.errors import UsageError
from replay import embeddings, search
from replay.embeddings import Embedder, Row
from replay.encoder import Model
from replay.schema import connect, create
from replay.search import SearchIndex
from tests.vectors import cosine, embed, key_of, observe

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("model")]

FACTS = [
    "The contract with Acme was renewed in May for two more years.",
    "Invoices are sent on the first working day of the month.",
    "The office cat sleeps on the warm printer.",
    "Deployments are frozen during the last week of December.",
    "The database password is rotated every ninety days.",
]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "memory-000001.db")
    create(connection)
    yield connection
    connection.close()


def found(index: SearchIndex, connection: sqlite3.Connection, query: str, **options: object) -> list[str]:
    return [hit.content for hit in index.search(connection, query, **options)]  # type: ignore[arg-type]


def put(connection: sqlite3.Connection, model: Model, text: str, *numbers: float) -> None:
    """A vector made by hand: its first numbers, the rest zero."""
    vector = struct.pack("<384f", *numbers, *[0.0] * (384 - len(numbers)))
    embeddings.store(connection, [Row(key_of(text), model.fingerprint, vector, crc32(vector))])


def axis(*numbers: float) -> list[float]:
    return [*numbers, *[0.0] * (384 - len(numbers))]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When did our biggest customer extend the agreement?", FACTS[0]),
        ("billing schedule", FACTS[1]),
        ("Where does the pet take a nap?", FACTS[2]),
        ("Can we ship a release at Christmas?", FACTS[3]),
        ("How often do credentials change?", FACTS[4]),
    ],
)
def test_a_paraphrase_finds_the_fact(embedding_model: Model, memory: sqlite3.Connection, question: str, answer: str):
    observe(memory, FACTS)
    embed(embedding_model, memory)
    assert found(SearchIndex(embedding_model), memory, question, limit=1) == [answer]


def test_a_hit_carries_the_observation_and_the_cosine(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, FACTS, entity=3, scope="workspace:sales")
    embed(embedding_model, memory)
    first, second, *_ = SearchIndex(embedding_model).search(memory, FACTS[1])
    assert first[1:] == (1002, "entity 3", "workspace:sales", FACTS[1], "sales", 7)
    assert first.score == pytest.approx(1.0, abs=1e-5)
    query, other = embedding_model.encode([FACTS[1], second.content]).tolist()
    assert second.score == pytest.approx(cosine(query, other), abs=1e-5)


def test_the_same_text_of_two_entities_is_two_hits(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["prefers mail"], entity=1)
    observe(memory, ["prefers mail", "pays late"], entity=2)
    embed(embedding_model, memory)
    hits = SearchIndex(embedding_model).search(memory, "prefers mail", 2)
    assert [(hit.observation_id, hit.entity) for hit in hits] == [(1001, "entity 1"), (1002, "entity 2")]


def test_a_scope_sees_its_own_only(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, [f"near {number}" for number in range(30)], entity=1, scope="global")
    observe(memory, ["far"], entity=2, scope="agent:writer")
    for number in range(30):
        put(memory, embedding_model, f"near {number}", 1.0, number / 1000)
    put(memory, embedding_model, "far", 0.1, 1.0)
    index = SearchIndex(embedding_model)
    assert [hit.content for hit in index.search(memory, axis(1.0), 3)] == ["near 0", "near 1", "near 2"]
    assert [hit.content for hit in index.search(memory, axis(1.0), 3, "agent:writer")] == ["far"]
    assert index.search(memory, axis(1.0), 3, "agent:nobody") == []


def test_scores_are_cosines_whatever_the_length(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["long", "short", "opposite"])
    put(memory, embedding_model, "long", 300.0, 400.0)
    put(memory, embedding_model, "short", 0.01)
    put(memory, embedding_model, "opposite", -5.0)
    hits = SearchIndex(embedding_model).search(memory, axis(20.0))
    assert [(hit.content, round(hit.score, 6)) for hit in hits] == [("short", 1.0), ("long", 0.6), ("opposite", -1.0)]


# -- keeping up -------------------------------------------------------------------------------------------------------


def test_what_was_written_since_is_found_without_reading_all_again(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, FACTS[:3])
    embed(embedding_model, memory)
    index = SearchIndex(embedding_model)
    assert FACTS[3] not in found(index, memory, "december deployments")
    observe(memory, FACTS[3:])
    assert FACTS[3] not in found(index, memory, "december deployments")  # observed, its vector still pending
    embed(embedding_model, memory)
    looked: list[str] = []
    memory.set_trace_callback(looked.append)
    assert found(index, memory, "december deployments", limit=1) == [FACTS[3]]
    memory.set_trace_callback(None)
    assert [line.rsplit("WHERE ")[-1] for line in looked if "ORDER BY" in line] == [
        "rowid > 3 ORDER BY rowid",
        "o.id > 1005 ORDER BY o.id",
    ]


def test_more_vectors_than_a_block_holds(
    embedding_model: Model, memory: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search, "_BLOCK_ROWS", 4)
    texts = [f"text {number}" for number in range(10)]
    observe(memory, texts)
    index = SearchIndex(embedding_model)
    for number, text in enumerate(texts):
        put(memory, embedding_model, text, 1.0, number / 10)
        assert [hit.content for hit in index.search(memory, axis(1.0, number / 10), 1)] == [text]
    assert [hit.content for hit in index.search(memory, axis(1.0), 10)] == texts


def test_removed_observations_are_not_found_even_when_all_the_best_are(
    embedding_model: Model, memory: sqlite3.Connection
):
    """A cleared scope: the nearest hundred are gone, what remains is far down."""
    observe(memory, [f"text {number}" for number in range(100)], entity=1)
    observe(memory, ["remains", "remains too"], entity=2)
    for number in range(100):
        put(memory, embedding_model, f"text {number}", 1.0, number / 1000)
    put(memory, embedding_model, "remains", 0.5, 1.0)
    put(memory, embedding_model, "remains too", 0.4, 1.0)
    index = SearchIndex(embedding_model)
    assert [hit.content for hit in index.search(memory, axis(1.0), 2)] == ["text 0", "text 1"]
    memory.execute("DELETE FROM entities WHERE id = 1")
    assert [hit.content for hit in index.search(memory, axis(1.0), 2)] == ["remains", "remains too"]
    looked: list[str] = []
    memory.set_trace_callback(looked.append)
    assert [hit.content for hit in index.search(memory, axis(1.0), 5)] == ["remains", "remains too"]
    memory.set_trace_callback(None)
    assert sum("WHERE o.id = " in line for line in looked) == 2  # what was found gone is not asked for again


def test_a_text_observed_again_needs_no_new_vector(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["prefers mail", "pays late"])
    put(memory, embedding_model, "prefers mail", 1.0)
    index = SearchIndex(embedding_model)
    assert len(index.search(memory, axis(1.0))) == 1
    memory.execute("DELETE FROM observations WHERE id = 1001")
    observe(memory, ["prefers mail"])
    assert [hit.observation_id for hit in index.search(memory, axis(1.0))] == [1003]


def test_a_database_swapped_behind_its_link_is_read_anew(
    embedding_model: Model, memory: sqlite3.Connection, tmp_path: Path
):
    """The next generation holds other observations under the same ids, and ends with the same vector as the last."""
    link = tmp_path / "memory.db"
    link.symlink_to("memory-000001.db")
    observe(memory, ["before", "in both"])
    put(memory, embedding_model, "before", 1.0)
    put(memory, embedding_model, "in both", 0.0, 1.0)
    index = SearchIndex(embedding_model)
    reader = connect(link, read_only=True)
    assert [hit.content for hit in index.search(reader, axis(1.0))] == ["before", "in both"]
    reader.close()

    following = connect(tmp_path / "memory-000002.db")
    create(following)
    observe(following, ["in both", "after"])
    put(following, embedding_model, "after", -1.0)
    put(following, embedding_model, "in both", 0.0, 1.0)
    (tmp_path / "next").symlink_to("memory-000002.db")
    (tmp_path / "next").replace(link)
    reader = connect(link, read_only=True)
    hits = index.search(reader, axis(1.0))
    assert [(hit.content, hit.score) for hit in hits] == [("in both", 0.0), ("after", -1.0)]
    reader.close()
    following.close()


def test_the_index_serves_one_database_in_memory_after_another(embedding_model: Model):
    index = SearchIndex(embedding_model)
    for text in ("one", "two"):
        connection = sqlite3.connect(":memory:", isolation_level=None)
        create(connection)
        observe(connection, [text])
        put(connection, embedding_model, text, 1.0)
        assert [hit.content for hit in index.search(connection, axis(1.0))] == [text]
        connection.close()


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_damaged_vector_is_passed_over_named_and_found_once_computed_again(
    embedding_model: Model, memory: sqlite3.Connection, victim: int
):
    """Also when it was the last row, whose rowid SQLite gives to the next one."""
    texts = ["text 0", "text 1", "text 2"]
    observe(memory, texts)
    embed(embedding_model, memory)
    bad = key_of(texts[victim])
    memory.execute("UPDATE embeddings SET vector = zeroblob(1536) WHERE text_sha256 = ?", (bad,))
    index = SearchIndex(embedding_model)
    for _ in range(2):
        assert sorted(found(index, memory, texts[victim])) == sorted(set(texts) - {texts[victim]})
        assert [(each.text_sha256, each.reason) for each in index.damaged] == [(bad, "the checksum does not match")]
    Embedder(embedding_model).verify(memory, lambda keys: embeddings.drop(memory, embedding_model.fingerprint, keys))
    embed(embedding_model, memory)
    assert found(index, memory, texts[victim], limit=1) == [texts[victim]]
    assert len(found(index, memory, texts[victim])) == 3
    assert index.damaged == []


def test_a_rowid_given_to_another_text_is_noticed(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["one", "two", "three"])
    put(memory, embedding_model, "one", 1.0)
    put(memory, embedding_model, "two", 0.0, 1.0)
    index = SearchIndex(embedding_model)
    assert len(index.search(memory, axis(1.0))) == 2
    embeddings.drop(memory, embedding_model.fingerprint, [key_of("two")])
    put(memory, embedding_model, "three", 1.0, 0.1)
    assert [hit.content for hit in index.search(memory, axis(1.0))] == ["one", "three"]


def test_an_altered_observation_is_not_shown_for_the_text_it_was(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["pays on time", "prefers mail"])
    embed(embedding_model, memory)
    memory.execute("UPDATE observations SET content = 'pays never at all' WHERE id = 1001")
    assert found(SearchIndex(embedding_model), memory, "pays on time") == ["prefers mail"]


def test_vectors_of_another_model_are_not_compared(embedding_model: Model, memory: sqlite3.Connection):
    observe(memory, ["one", "two"])
    vector = struct.pack("<384f", *axis(1.0))
    embeddings.store(memory, [Row(key_of("one"), "an older model", vector, crc32(vector))])
    put(memory, embedding_model, "two", 0.5, 0.5)
    assert [hit.content for hit in SearchIndex(embedding_model).search(memory, axis(1.0))] == ["two"]


# -- wrong questions --------------------------------------------------------------------------------------------------


def test_nothing_is_found_in_nothing(embedding_model: Model, memory: sqlite3.Connection):
    assert SearchIndex(embedding_model).search(memory, axis(1.0)) == []


@pytest.mark.parametrize("query", [[1.0, 2.0], axis(0.0), axis(float("nan")), axis(float("inf"))])
def test_a_query_that_is_no_vector_is_refused(embedding_model: Model, memory: sqlite3.Connection, query: list[float]):
    with pytest.raises(UsageError, match="384 finite numbers"):
        SearchIndex(embedding_model).search(memory, query)


def test_a_limit_below_one_is_refused(embedding_model: Model, memory: sqlite3.Connection):
    with pytest.raises(UsageError, match="limit is 0"):
        SearchIndex(embedding_model).search(memory, axis(1.0), 0)
