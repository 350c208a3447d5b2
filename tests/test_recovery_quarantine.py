"""What was set aside is kept as long as journal.yaml says: the oldest goes first, and nothing that just came."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.errors import ReadOnly
from recovery import open_server_sync
from recovery.cli.app import run as journal
from recovery.config.table import Config, Quarantine
from recovery.data import Data
from recovery.quarantine import DAY_NS, LEDGER, Entry, expire, plan_expiry
from recovery.setup import initialise
from tests.simdisk import SimDisk
from tests.simfaults import PowerCut

NOW = 1_764_000_000_000_000_000


def entry(name: str, size: int, days_ago: float | None) -> Entry:
    return Entry(name, (name,), size, None if days_ago is None else NOW - int(days_ago * DAY_NS))


KEPT = (entry("new", 50, None), entry("young", 40, 3), entry("older", 30, 30), entry("oldest", 20, 91))


@pytest.mark.parametrize(
    ("days", "bytes_max", "goes"),
    [
        (0, 0, []),
        (90, 0, ["oldest"]),
        (91, 0, ["oldest"]),
        (92, 0, []),
        (30, 0, ["oldest", "older"]),
        (0, 140, []),
        (0, 139, ["oldest"]),
        (0, 100, ["oldest", "older"]),
        (0, 51, ["oldest", "older", "young"]),
        (0, 1, ["oldest", "older", "young"]),
        (90, 60, ["oldest", "older", "young"]),
    ],
)
def test_the_oldest_goes_first_and_what_is_new_never(days: int, bytes_max: int, goes: list[str]) -> None:
    assert [each.name for each in plan_expiry(KEPT, NOW, days=days, bytes_max=bytes_max)] == goes


@given(
    st.lists(st.tuples(st.integers(0, 100), st.none() | st.integers(0, 400)), max_size=12),
    st.integers(0, 200),
    st.integers(0, 600),
)
def test_the_plan_keeps_the_bounds_and_takes_no_more_than_it_must(
    given_: list[tuple[int, int | None]], days: int, bytes_max: int
) -> None:
    entries = [entry(f"{number:02}", size, age) for number, (size, age) in enumerate(given_)]
    gone = plan_expiry(entries, NOW, days=days, bytes_max=bytes_max)
    kept = [each for each in entries if each not in gone]
    assert all(each.since is not None for each in gone)
    ages = [each.since for each in kept if each.since is not None]
    assert not any(days and NOW - age >= days * DAY_NS for age in ages)
    assert max((each.since or 0 for each in gone), default=0) <= min(ages, default=NOW)
    left = sum(each.bytes for each in kept)
    assert not bytes_max or left <= bytes_max or all(each.since is None for each in kept)
    young = [each for each in gone if not days or NOW - (each.since or 0) < days * DAY_NS]
    if young:  # the youngest of them had to go, too
        assert bytes_max
        assert left + young[-1].bytes > bytes_max
    assert plan_expiry(list(reversed(entries)), NOW, days=days, bytes_max=bytes_max) == gone


# -- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Data:
    initialise(tmp_path / "data")
    return with_bounds(Data.at(tmp_path / "data"), days=90)


def with_bounds(data: Data, *, days: int = 0, bytes_max: int = 0) -> Data:
    return Data(data.root, Config(quarantine=Quarantine(days=days, bytes_max=bytes_max)), data.storage)


def put(data: Data, name: str, content: bytes = b"x" * 100) -> Path:
    path = Path(data.quarantine, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def there(data: Data) -> list[str]:
    return sorted(set(os.listdir(data.quarantine)) - {LEDGER})


def test_age_counts_from_the_run_that_first_saw_it_not_from_the_time_of_the_file(data: Data) -> None:
    path = put(data, "memory-000001.db")
    os.utime(path, (1, 1))
    assert expire(data, NOW).removed == []
    assert expire(data, NOW + 89 * DAY_NS).removed == []
    assert there(data) == ["memory-000001.db"]
    done = expire(data, NOW + 90 * DAY_NS)
    assert (done.removed, done.bytes) == (["memory-000001.db"], 100)
    assert there(data) == []


def test_a_new_thing_under_an_old_name_is_new(data: Data) -> None:
    put(data, "memory.db")
    expire(data, NOW)
    expire(data, NOW + 90 * DAY_NS)
    put(data, "memory.db")
    assert expire(data, NOW + 91 * DAY_NS).removed == []
    assert there(data) == ["memory.db"]


def test_a_database_goes_with_its_sidecars(data: Data) -> None:
    names = ["memory-000001.db", "memory-000001.db-shm", "memory-000001.db-wal", "memory.db.1", "memory.db.1-wal"]
    for name in names:
        put(data, name)
    expire(data, NOW)
    put(data, "memory-000002.db-wal")  # its database is elsewhere: it stands for itself
    done = expire(with_bounds(data, bytes_max=301), NOW + 1)
    assert done.removed == ["memory-000001.db"]
    assert there(data) == ["memory-000002.db-wal", "memory.db.1", "memory.db.1-wal"]


def test_links_in_it_are_removed_and_never_followed(data: Data, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_bytes(b"y" * 10_000)
    place = Path(data.quarantine, "20260101T000000.000000000Z-writer.md")
    (place / "writer.md" / "deep").mkdir(parents=True)
    (place / "writer.md" / "away").symlink_to(tmp_path / "outside")
    (place / "writer.md" / "deep" / "file").symlink_to(tmp_path / "outside" / "precious")
    os.mkfifo(place / "pipe")
    expire(data, NOW)
    done = expire(data, NOW + 100 * DAY_NS)
    assert (done.removed, done.bytes, there(data)) == ([place.name], 0, [])
    assert (tmp_path / "outside" / "precious").stat().st_size == 10_000


def test_a_tree_deeper_than_the_stack_goes_too(data: Data) -> None:
    here = os.open(data.quarantine, os.O_RDONLY)
    try:
        for _ in range(1500):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    expire(data, NOW)
    assert expire(data, NOW + 100 * DAY_NS).removed == ["d"]
    assert there(data) == []


def test_nothing_goes_while_an_import_may_read_from_it(data: Data) -> None:
    put(data, "memory.db")
    expire(data, NOW)
    Path(data.import_path).write_bytes(b"whatever it says")
    assert expire(data, NOW + 1000 * DAY_NS).removed == []
    assert there(data) == ["memory.db"]


@pytest.mark.parametrize("ledger", [b"", b"\xff", b"[1, 2]", b'{"memory.db": "long ago"}', b"[" * 5000])
def test_a_ledger_that_cannot_be_read_keeps_everything(data: Data, ledger: bytes) -> None:
    put(data, "memory.db")
    expire(data, NOW)
    Path(data.quarantine, LEDGER).write_bytes(ledger)
    assert expire(data, NOW + 1000 * DAY_NS).removed == []
    assert expire(data, NOW + 1091 * DAY_NS).removed == ["memory.db"]


def test_a_clock_that_was_wrong_only_keeps_longer(data: Data) -> None:
    put(data, "memory.db")
    expire(data, NOW + 5000 * DAY_NS)
    assert expire(data, NOW).removed == []
    assert expire(data, NOW + 89 * DAY_NS).removed == []


def test_what_cannot_be_removed_stops_nobody(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    put(data, "memory.db")
    expire(data, NOW)

    def refuse(path: str) -> None:
        raise ReadOnly("not writable: Permission denied", path=path)

    monkeypatch.setattr(data.storage, "remove", refuse)
    done = expire(data, NOW + 100 * DAY_NS)
    assert done.removed == []
    assert done.problem is not None
    assert "Permission denied" in done.problem
    monkeypatch.undo()
    expire(data, NOW + 200 * DAY_NS)
    assert expire(data, NOW + 300 * DAY_NS).removed == ["memory.db"]


def test_looking_again_writes_nothing(data: Data) -> None:
    put(data, "memory.db")
    expire(data, NOW)
    before = os.stat(f"{data.quarantine}/{LEDGER}").st_mtime_ns
    expire(data, NOW + DAY_NS)
    assert os.stat(f"{data.quarantine}/{LEDGER}").st_mtime_ns == before


@pytest.mark.parametrize("mode", ["none", "torn", "all"])
def test_a_power_cut_anywhere_never_takes_what_is_young(mode) -> None:
    """Scenario: the old memory.db goes, and the power with it; then another is set aside under the same name."""
    for cut in range(1, 100):
        disk = SimDisk()
        data = Data("/data", Config(quarantine=Quarantine(days=90)), disk)
        disk.make_directory(data.quarantine)
        _write(disk, f"{data.quarantine}/memory.db")
        expire(data, NOW)
        disk.cut_at = disk.counts.changes + cut
        try:
            expire(data, NOW + 90 * DAY_NS)
            return
        except PowerCut:
            pass
        after = disk.crash(random.Random(cut), mode)
        data = Data("/data", data.config, after)
        if after.kind(f"{data.quarantine}/memory.db") == "missing":
            _write(after, f"{data.quarantine}/memory.db")
            assert expire(data, NOW + 91 * DAY_NS).removed == []
        else:
            expire(data, NOW + 91 * DAY_NS)
            assert expire(data, NOW + 300 * DAY_NS).removed in (["memory.db"], [])
    raise AssertionError("never ran through")


def _write(disk: SimDisk, path: str) -> None:
    file = disk.open(path, write=True, create=True)
    file.write_at(0, b"x" * 100)
    file.sync()
    disk.sync_dir(path.rsplit("/", 1)[0])


# -- who calls it -----------------------------------------------------------------------------------------------------


def configured(root: Path, text: str) -> Path:
    initialise(root)
    (root / "journal.yaml").write_text(text)
    with open_server_sync(root, background=False) as hook:
        for name in ("one", "two"):
            hook.agents.write(name, f"---\nname: {name}\n---\n")
    return root


def damage(root: Path, name: str) -> None:
    (root / "agents" / f"{name}.md").write_bytes(bytes(1000))


def set_aside(root: Path) -> list[str]:
    return sorted(name.rsplit("-", 1)[1] for name in os.listdir(root / "journal/quarantine") if name != LEDGER)


def test_recover_keeps_what_it_set_aside_and_takes_what_was_there(tmp_path: Path) -> None:
    """bytes_max is so small that nothing fits: what a recovery sets aside is kept until the next one all the same."""
    root = configured(tmp_path / "data", "quarantine:\n  bytes_max: 1\n")
    damage(root, "one")
    assert journal(["recover", "all", "--yes", "--data", str(root)]) == 0
    assert set_aside(root) == ["one.md"]
    assert journal(["recover", "all", "--yes", "--data", str(root)]) == 0
    assert set_aside(root) == ["one.md"], "a run that does nothing took something"
    damage(root, "two")
    assert journal(["recover", "all", "--yes", "--data", str(root)]) == 0
    assert set_aside(root) == ["two.md"]


def test_an_open_keeps_what_it_set_aside_and_the_next_takes_it(tmp_path: Path) -> None:
    root = configured(tmp_path / "data", "quarantine:\n  bytes_max: 1\n")
    damage(root, "one")
    with open_server_sync(root, background=False):
        assert set_aside(root) == ["one.md"]
    with open_server_sync(root, background=False):
        assert set_aside(root) == []


def test_days_come_from_the_configuration_and_0_keeps_for_ever(tmp_path: Path) -> None:
    for days, left in (("90", []), ("0", ["one.md"])):
        root = configured(tmp_path / days, f"quarantine:\n  days: {days}\n")
        damage(root, "one")
        with open_server_sync(root, background=False):
            pass
        ledger = root / "journal" / "quarantine" / LEDGER
        long_ago = {name: since - 91 * DAY_NS for name, since in json.loads(ledger.read_bytes()).items()}
        ledger.write_text(json.dumps(long_ago))
        with open_server_sync(root, background=False):
            assert set_aside(root) == left
