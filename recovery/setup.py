"""Laying out a data directory: `journal init`, and what `--adopt` takes in.

On a journal that is there it changes nothing.
"""

from __future__ import annotations

from contextlib import closing

from journal.log import create
from recovery.data import Data
from replay import schema
from replay.schema import Position


def initialise(path: str, config_path: str | None = None) -> tuple[Data, bool]:
    """Makes an empty journal, memory.db and agents/ under `path`, with parents; False if a journal was there already.

    A cut leaves no journal, or one whose memory.db is made by the next open.
    """
    data = Data.at(path, config_path)
    storage, layout = data.storage, data.layout
    if any(name.endswith(".seg") for name in storage.list(f"{layout.journal}/segments")):
        return data, False
    for directory in (data.root, layout.agents, layout.models):
        storage.make_directory(directory)
    journal_id = create(storage, layout.journal)
    if data.generations.current().kind == "missing":
        make_empty_state(data, journal_id)
    return data, True


def make_empty_state(data: Data, journal_id: bytes) -> None:
    """The first generation of memory.db: state(0)."""
    data.generations.clean()
    path = data.generations.building_path()
    data.storage.open(path, write=True, create=True).close()  # SQLite would make it readable to all
    with closing(schema.connect(path)) as connection:
        schema.create(connection)
        schema.write_position(connection, Position(0, journal_id.hex(), 1, bytes(32).hex()))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")  # folds it into one file without side files, to be swapped in
    file = data.storage.open(path, write=True)
    file.sync()
    file.close()
    data.generations.swap(path)
