"""Durability bugs that somebody could make, one exact edit each, and the check that must notice it.

An edit names the function that it is made in; what it replaces must be there exactly once, else the list is stale and
says so. None may break the syntax, or be noticed for another reason than a broken promise.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    """``by``: the check of `tests.faults` that notices it, ``count`` of its seeds are enough; or a test, by its file
    and name, that fails."""

    name: str
    path: str
    function: str
    old: str
    new: str
    by: str = "crashes.server"
    count: int = 12

    def source(self) -> str:
        """The file as the bug would have it. Raises ValueError where the edit does not fit any more."""
        text = (ROOT / self.path).read_text()
        start, end = _extent(text, self.function)
        lines = text.splitlines(keepends=True)
        body = "".join(lines[start:end])
        if body.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is {body.count(self.old)} times in {self.function}, not once")
        mutated = "".join([*lines[:start], body.replace(self.old, self.new), *lines[end:]])
        ast.parse(mutated)
        return mutated


def _extent(text: str, function: str) -> tuple[int, int]:
    """First line and line after the last of `function` or `Class.function`, from 0."""
    nodes: list[ast.stmt] = ast.parse(text).body
    found: ast.stmt | None = None
    for name in function.split("."):
        found = next((each for each in nodes if getattr(each, "name", None) == name), None)
        if not isinstance(found, ast.FunctionDef | ast.ClassDef):
            raise ValueError(f"there is no {function}")
        nodes = found.body
    assert found is not None
    assert found.end_lineno is not None
    return found.lineno - 1, found.end_lineno


def _unsynced(line: str) -> tuple[str, str]:
    """The line that publishes a file, and what does so without a sync."""
    before, _, rest = line.partition("publish(")
    storage, temporary, path, content = rest.removesuffix(")\n").removesuffix(", check").split(", ", 3)
    return line, (
        f"{before}if {storage}.kind({temporary}) != 'missing':\n{before}    {storage}.remove({temporary})\n"
        f"{before}{storage}.open({temporary}, write=True, create=True).write_at(0, {content})\n"
        f"{before}{storage}.replace({temporary}, {path})\n"
    )


SEGMENT, LOG, OPENING, STORAGE = "journal/segment.py", "journal/log.py", "journal/opening.py", "journal/storage.py"
SCAN, READER, FORMAT, CHECKPOINT = "journal/scan.py", "journal/reader.py", "journal/format.py", "journal/checkpoint.py"
FILES = "journal/files.py"
REGIONS, AGENTS, LIVE = "journal/regions.py", "replay/agents.py", "replay/live.py"
WATERMARK, REPAIRED, SYNDROME = "journal/watermark.py", "journal/repaired.py", "journal/syndrome.py"
WORKING = "replay/working.py"
PACKING, UNPACK = "journal/packing.py", "journal/unpack.py"
FOLDING, FOLDS = "replay/folding.py", "tests/test_replay_folding_syncs.py"
GENERATIONS, COMMIT, CATCHUP = "replay/generations.py", "journal/commit.py", "replay/catchup.py"

MUTATIONS = (
    # -- syncs that are left out, or come too late ---------------------------------------------------------------------
    Mutation("a batch is acknowledged before its sync", SEGMENT, "SegmentWriter.sync",
             "        self._file.sync()\n", ""),
    Mutation("a batch is synced before it is written", LOG, "Log.append_payload",
             "            segment.begin(batch)\n"
             "            chain = next_chain(self.chain, first_seq, count, payload)\n"
             "            appended = Appended(first_seq, count, chain, self.epoch)\n"
             "            if meanwhile is not None:\n"
             "                paused = perf_counter_ns()\n"
             "                meanwhile(appended)\n"
             "                started += perf_counter_ns() - paused\n"
             "            segment.sync(len(batch))\n",
             "            segment.sync(0)\n"
             "            segment.begin(batch)\n"
             "            segment.offset += len(batch)\n"
             "            chain = next_chain(self.chain, first_seq, count, payload)\n"
             "            appended = Appended(first_seq, count, chain, self.epoch)\n"
             "            if meanwhile is not None:\n"
             "                meanwhile(appended)\n"),
    Mutation("a new segment is not synced before its name", SEGMENT, "SegmentWriter.create",
             *_unsynced("        publish(storage, temporary, path, front + bytes(filled - len(front)))\n")),
    Mutation("a new segment's name is not synced", SEGMENT, "SegmentWriter.create",
             "        storage.sync_dir(directory)\n", ""),
    Mutation("a new segment is written under its own name", SEGMENT, "SegmentWriter.create",
             'temporary = f"{path}.tmp"', "temporary = path"),
    Mutation("zeros ahead are not synced", SEGMENT, "SegmentWriter.reserve",
             "                self._file.sync()\n", "", "crashes.log"),
    Mutation("the epoch is not written down", LOG, "Log.open", "            lock.write(claim)\n", ""),
    Mutation("the lock file's name is not synced", LOG, "Log.open",
             "            storage.sync_dir(directory)", "            pass"),
    Mutation("a whole file is published before it is synced", FILES, "publishing", "            file.sync()\n", ""),
    Mutation("a whole file's name is not synced", FILES, "write_file", '    storage.sync_dir(directory or "/")\n', ""),
    Mutation("a whole file is written over the old one", FILES, "write_file",
             '    temporary = f"{directory}/.{name.encode()[:200].decode(errors=\'ignore\')}.tmp"',
             "    temporary = path"),
    Mutation("a part is not synced before its name", CHECKPOINT, "CheckpointStore.put_part",
             *_unsynced("        publish(self.storage, temporary, path, data)\n")),
    Mutation("the full parts of a delta are listed before its last group may fill one", "replay/page_delta.py",
             "pack_delta", "    return [*moved.parts, *last, *changed.parts], out.written\n",
             "    return [*moved.parts[: len(moved.parts) - 1], *last, *changed.parts], out.written\n",
             "tests/test_replay_memory_parts.py::test_random_files_come_back"),
    Mutation("a sweep forgets that a delta's base is listed", CHECKPOINT, "CheckpointStore.sweepable",
             "for part in manifest.parts}", "for part in manifest.parts[-1:]}",
             "tests/test_replay_memory_parts.py::test_a_sweep_takes_no_base_that_a_survivor_lists"),
    Mutation("what a checkpoint was drafted on is believed", "replay/drafts.py", "Draft.prove",
             "        if whole_of(self._old_length, before) != self._base.whole:\n", "        if False:\n",
             "tests/test_replay_drafts.py::test_a_base_that_changed_between_written_and_proven_is_found_out"),
    Mutation("the whole that parts make is not compared", "replay/memory_parts.py", "_Laid.prove",
             "        if self.manifest.whole not in", "        if False and self.manifest.whole not in",
             "tests/test_replay_memory_parts.py::test_parts_that_make_another_file_than_the_manifest_says_are_refused"),
    Mutation("a checkpoint is published before its parts have names", CHECKPOINT, "CheckpointStore.publish",
             "        self.storage.sync_dir(self.parts_directory)", "        pass"),
    Mutation("parts go before the removal of their manifest is synced", CHECKPOINT, "CheckpointStore.remove",
             "        self.storage.sync_dir(self.directory)", "        pass", count=72),
    Mutation("an agent file is renamed before it is synced", AGENTS, "write_files",
             *_unsynced('            publish(storage, f"{directory}/{TEMPORARY}", path, content)\n')),
    Mutation("an agent file is written in place", AGENTS, "write_files",
             'publish(storage, f"{directory}/{TEMPORARY}", path, content)', "publish(storage, path, path, content)"),
    Mutation("the link is swapped before what it names has a durable name", GENERATIONS, "Generations.swap",
             "        self.storage.replace(built, path)\n        self.storage.sync_dir(self.directory)",
             "        self.storage.replace(built, path)\n        pass"),
    # -- packed segments -----------------------------------------------------------------------------------------------
    Mutation("a pack takes its segment's place before it is synced", PACKING, "_write",
             *_unsynced("        publish(storage, temporary, packed, pack, check)\n"), "packs.cuts", 9),
    Mutation("a segment goes before the name of its pack is synced", PACKING, "_write",
             '    storage.sync_dir(packed.rsplit("/", 1)[0])\n', "", "packs.cuts", 9),
    Mutation("a segment goes before its pack has parity", PACKING, "_pack",
             "        if not parity.protect(Protected(name, length, candidate.end)):", "        if False:",
             "packs.cuts", 9),
    Mutation("the parity of a pack is not durable with its name", "journal/parity_store.py", "ParityStore.protect",
             "            self.storage.sync_dir(folder)\n", "", "packs.cuts", 20),
    Mutation("the parity of a segment is taken away while only it is there", PACKING, "_pack",
             "    storage.remove(path)\n    storage.sync_dir(folder)\n", "    storage.sync_dir(folder)\n",
             "packs.cuts", 9),
    Mutation("a segment that ends too early is packed", PACKING, "_valid_bytes",
             "    if not is_whole(data, candidate.path, candidate.end):", "    if False:",
             "tests/test_journal_pack.py::test_a_damaged_segment_is_not_packed_and_keeps_what_its_repair_needs"),
    Mutation("a pack is not compared with its segment", PACKING, "_write",
             "unpack(storage.read(temporary), temporary) == data", "bool(storage.read(temporary))",
             "tests/test_journal_pack.py::test_a_pack_that_does_not_read_back_leaves_its_segment"),
    Mutation("a pack that a cut left is believed", PACKING, "_length_if_equal",
             "len(stored) if unpack(stored, packed) == data else None", "len(stored)",
             "tests/test_journal_pack.py::test_a_pack_that_a_cut_left_is_proven_or_made_anew"),
    Mutation("segments are packed while the journal is being repaired or put aside", PACKING, "pack_segments",
             "        with checkpoints.exclusive() as lock:\n",
             "        lock = storage.lock(directory + '/nobody')\n        if lock is not None:\n",
             "tests/test_journal_pack.py::test_nothing_is_packed_while_somebody_changes_the_journals_files"),
    Mutation("a segment goes although another journal took the directory's place", PACKING, "_pack",
             "    if not lock.is_held():", "    if False:",
             "tests/test_journal_pack.py::"
             "test_a_journal_that_takes_the_place_of_the_one_that_is_packed_keeps_its_segments"),
    Mutation("a block is not held against its CRC", UNPACK, "unpack_block",
             "    if crc32(frame) != block.crc:", "    if False:",
             "tests/test_journal_pack.py::test_a_flip_of_what_no_chain_covers_is_noticed"),
    Mutation("the chain of a block is not looked at", UNPACK, "unpack_block",
             "    if chain != block.chain:", "    if False:",
             "tests/test_journal_pack.py::test_a_block_of_another_history_is_refused"),
    Mutation("a frame is decompressed to whatever length it claims", UNPACK, "_decompressed",
             "        if claimed.content_size != block.body_bytes or claimed.dict_id or "
             "claimed.window_size > BODY_BYTES_MAX:\n", "        if False:\n",
             "tests/test_journal_pack.py::test_a_frame_that_claims_a_gigabyte_is_refused_before_it_is_unpacked"),
    # -- after an error -----------------------------------------------------------------------------------------------
    Mutation("a failed sync is tried again", LOG, "Log.append_payload",
             "            segment.sync(len(batch))\n",
             "            try:\n                segment.sync(len(batch))\n            except Exception:\n"
             "                segment.sync(len(batch))\n",
             "crashes.errors", 300),
    Mutation("a failed batch does not poison the log", LOG, "Log.append_payload",
             '            self.poison(f"a batch at seq {first_seq} failed: {reason_of(error)}")\n', "",
             "crashes.errors", 300),
    Mutation("a poisoned log is closed as if it were clean", LOG, "Log.close",
             "if self.poisoned is None and self._lock.is_held():", "if self._lock.is_held():", "crashes.errors", 300),
    Mutation("a segment that failed to be made is not doubted", LOG, "Log._doubt_segment",
             "        if there:\n", "        if False:\n", "crashes.errors", 2000),
    Mutation("the cache is trusted after a failed sync", OPENING, "_carry",
             "    if tail.durable_seq < tail.last_seq:\n", "    if False:\n", "crashes.errors", 400),
    Mutation("a clean close is trusted whose sync may have failed", LOG, "Log._next_segment",
             "previous.records_end)", "previous.offset)", "crashes.errors", 1000),
    Mutation("a refused batch uses up its seqs", COMMIT, "Committer._write",
             "        except JournalError as error:  # not a byte of it was written: the seqs stay free\n",
             "        except JournalError as error:\n            self.log.next_seq += len(records)\n",
             "crashes.errors", 400),
    # -- epochs, seqs, retries ----------------------------------------------------------------------------------------
    Mutation("an epoch is used twice", LOG, "Log.open", "epoch = previous_epoch + 1", "epoch = previous_epoch"),
    Mutation("a successor has its parent's epoch", "recovery/log/accept_loss.py", "accept_loss",
             "read_holder(lock.read()).epoch) + 1", "read_holder(lock.read()).epoch)",
             "tests/test_recovery_accept_loss.py::"
             "test_what_survives_goes_on_under_its_own_seqs_and_each_loss_is_marked"),
    Mutation("a batch says of itself that it is durable", LOG, "Log.append_payload",
             "            durable_seq=self.durable_seq,", "            durable_seq=self.next_seq + count - 1,",
             "crashes.errors", 400),
    Mutation("op_ids are forgotten at a restart", COMMIT, "Committer.__init__",
             "remember=remember_op_ids", "remember=False", count=40),
    Mutation("op_ids of the newest segment are all that a restart remembers", "journal/op_ids.py", "_read",
             "        if operations >= OP_ID_WINDOW:", "        if operations:",
             "tests/test_journal_commit.py::"
             "test_the_op_id_window_counts_a_group_as_one_operation_after_a_restart_too"),
    Mutation("op_ids are forgotten by events, not by operations", "journal/op_ids.py", "OpIds.remember",
             "        while len(known) > OP_ID_WINDOW:", "        while known:",
             "tests/test_journal_commit.py::"
             "test_the_op_id_window_counts_a_group_as_one_operation_after_a_restart_too"),
    Mutation("a retry of another operation is answered with this one's receipt", "journal/op_ids.py", "_same",
             "return [_canonical(each.event) for each in given] == [_canonical(each.event) for each in again]",
             "return True", "tests/test_journal_commit.py::test_the_same_op_id_with_another_event_is_refused"),
    Mutation("a generated op_id is answered with what took its seq", "journal/op_ids.py", "OpIds._generated_seq",
             "batch.epoch == epoch and head.op_id is None", "head.op_id is None",
             "tests/test_journal_commit.py::"
             "test_a_generated_op_id_whose_event_was_lost_is_not_answered_by_what_took_its_seq"),
    Mutation("the torn tail is not kept", OPENING, "_quarantine_tail",
             "    write_file(storage, path, data)\n", ""),
    Mutation("what is carried keeps the old end as well", OPENING, "_carry",
             "kept_end, first_seq, chain = batches[0].offset,", "kept_end, first_seq, chain = tail.offset,"),
    # -- evidence and checks ------------------------------------------------------------------------------------------
    Mutation("what memory.db knows to be durable is not asked", LOG, "Log.open",
             "LogReader(storage, directory, evidence_seq=evidence_seq)", "LogReader(storage, directory)",
             "crashes.damage", 600),
    Mutation("a torn tail is accepted although it is known to have been durable", REGIONS, "decision_on",
             "covered=max(evidence_seq, region.durable_seq) >= region.first_seq", "covered=False",
             "crashes.damage", 600),
    Mutation("zeros are the end, whatever was synced there", SCAN, "Scanner.bad_region",
             "            if self.durable_seq < self.next_seq:\n", "            if True:\n", "crashes.damage", 1500),
    Mutation("records are not held against their CRC", SCAN, "Scanner.__iter__",
             "            if not trailer_matches(found, payload, data[end - TRAILER_BYTES : end]):\n",
             "            if False:\n"),
    Mutation("the chain of a batch is not looked at", SCAN, "Scanner._mismatch",
             "        if found.previous_chain != self.chain:\n", "        if False:\n", "crashes.damage", 600),
    Mutation("the chain across two segments is not looked at", "journal/segments.py", "Segments._whole",
             "scanner.chain != successor.previous_chain or ", "",
             "crashes.damage", 1500),
    Mutation("a batch header is not held against its CRC", FORMAT, "decode_batch_header",
             "    if crc32(data[offset + 8 : offset + BATCH_HEADER_BYTES]) != crc:\n", "    if False:\n",
             "crashes.damage", 1500),
    Mutation("a file's header is not held against its CRC", FORMAT, "view_header",
             "    if crc32(body, crc32(data[:16])) != crc:\n", "    if False:\n", "damage.journal-flips", 1),
    Mutation("a checkpoint is used that the journal does not vouch for", "replay/engine.py", "_Build._take_parts",
             "        if reason is not None:\n", "        if False:\n", "damage.places", 1),
    Mutation("a part is not held against its sha256", CHECKPOINT, "CheckpointStore.read_part",
             "        if hashlib.sha256(data).hexdigest() != part.sha256:\n", "        if False:\n",
             "crashes.damage", 1500),
    # -- two writers --------------------------------------------------------------------------------------------------
    Mutation("a writer does not look whether the lock file is still its own", LOG, "Log._check_alive",
             "        if not self._lock.is_held():\n", "        if False:\n",
             "tests/test_recovery_forks.py::test_a_writer_whose_lock_file_was_taken_away_takes_nothing_more"),
    Mutation("a writer does not look whether another one raised the epoch", LOG, "Log._check_alive",
             "        elif self._lock.read() != self._holder:\n", "        elif False:\n",
             "tests/test_recovery_forks.py::test_an_opener_that_slept_while_another_took_over_is_refused"),
    Mutation("a batch is acknowledged although the lock was taken while it was written", LOG, "Log.append_payload",
             "            if not self._lock.is_held():", "            if False:",
             "tests/test_journal_log.py::test_a_batch_during_which_the_lock_was_taken_away_is_not_acknowledged"),
    Mutation("a lock file that was replaced meanwhile is taken", LOG, "take_lock",
             "    if not lock.is_held():", "    if False:",
             "tests/test_journal_log.py::test_a_lock_file_that_was_replaced_while_it_was_locked_is_no_lock"),
    Mutation("a forked child shares its parent's lock", STORAGE, "RealLock.is_held",
             "        if os.getpid() != self._owner:\n", "        if False:\n",
             "tests/test_recovery_forks.py::test_a_forked_child_writes_nothing_and_its_parent_goes_on"),
    # -- the operating system ------------------------------------------------------------------------------------------
    Mutation("a short write is taken for a whole one", STORAGE, "RealFile.write_at",
             "            while written < len(data):\n", "            while False:\n",
             "tests/test_real_short_io.py::test_a_claim_in_the_lock_file_is_whole"),
    Mutation("a short read is taken for the end", STORAGE, "RealFile.read_at",
             "            while len(data) < length:", "            while False:",
             "tests/test_real_short_io.py::test_every_transfer_is_short"),
    # That one flipped bit must make the CRC right (`syndrome._is_whole`) is asked twice: whatever it lets through, the
    # scanner of `repair_segment._made_whole` holds against the CRC again. To leave it out is no bug, and not here.
    # -- watermark, repairs -------------------------------------------------------------------------------------------
    Mutation("the watermark is not synced", WATERMARK, "Watermark.advance",
             "        self._file.sync()\n", "", "tests/test_journal_watermark.py"),
    Mutation("the watermark is written over the one that is synced", WATERMARK, "Watermark.advance",
             "        self._sector = 3 - self._sector\n", "", "tests/test_journal_watermark.py"),
    Mutation("a batch is acknowledged although its watermark failed", LOG, "Log.append_payload",
             "                self._watermark.advance(Mark(first_seq + count - 1, chain, self.epoch))\n",
             "                from contextlib import suppress\n\n"
             "                with suppress(Exception):\n"
             "                    self._watermark.advance(Mark(first_seq + count - 1, chain, self.epoch))\n",
             "tests/test_journal_watermark.py"),
    Mutation("a repaired file takes the place of the damaged one before it is synced", REPAIRED, "put_in_place",
             *_unsynced("    publish(storage, temporary, path, data, check)\n"), "tests/test_journal_repair.py"),
    Mutation("a damaged file is not kept when its repair takes its place", REPAIRED, "put_in_place",
             "    quarantined = keep_damaged(storage, directory, path)\n", "    quarantined = None\n",
             "tests/test_journal_repair.py"),
    Mutation("a repair is not written down before it is done", REPAIRED, "put_in_place",
             "    write_pending(storage, directory, [*read_pending(storage, directory), *told])\n", "",
             "tests/test_journal_repair.py"),
    Mutation("a repair is taken that the chain does not confirm", "journal/repair_segment.py", "_is_end",
             " == (end.offset, end.next_seq, end.chain)", " is not None", "tests/test_journal_syndrome.py"),
    Mutation("what parity restored is not held against what it protects", "journal/parity_file.py", "restored",
             "if restoration.lost or hashlib.sha256(data).digest() != parity.header.sha256:", "if restoration.lost:",
             "tests/test_journal_parity.py::test_a_block_whose_crc_fits_by_chance_is_not_enough"),
    Mutation("a sector that cannot be read stops its repair", "journal/repair_bench.py", "Bench._found",
             "read_around(self.storage, path)[0]", "self.storage.read(path)",
             "tests/test_cli_unreadable.py::test_it_is_named_and_comes_back_from_parity"),
    Mutation("a checkpoint that cannot be read stops recovery", "journal/filesystems.py", "read_fault",
             "    if error.errno not in _BAD_BYTES:", "    if True:",
             "tests/test_cli_unreadable.py::test_a_checkpoint_that_cannot_be_read_costs_a_rung"),
    Mutation("what bears witness is newer than the list of segments", READER, "LogReader.refresh",
             "            self.segments = list_segments(self.storage, self.directory)\n", "",
             "tests/test_journal_meanwhile.py::test_a_strict_writer_that_goes_on_in_another_segment_lost_nothing"),
    Mutation("a rotten part of a backup is kept", "recovery/log/backup.py", "back_up",
             "            storage.remove(path)\n", "            pass\n",
             "tests/test_cli_backup.py::test_what_rotted_in_the_backup_is_copied_again"),
    # -- state --------------------------------------------------------------------------------------------------------
    Mutation("the position is committed before the rows", LIVE, "LiveState._write_rows",
             "        apply_records(self.connection, appended.first_seq, records)\n"
             "        last_seq = appended.first_seq + appended.count - 1\n"
             "        position = Position(last_seq, self.journal_id, appended.epoch, appended.chain.hex())\n"
             "        schema.write_position(self.connection, position)\n",
             "        last_seq = appended.first_seq + appended.count - 1\n"
             "        position = Position(last_seq, self.journal_id, appended.epoch, appended.chain.hex())\n"
             "        schema.write_position(self.connection, position)\n"
             '        self.connection.execute("COMMIT")\n'
             '        self.connection.execute("BEGIN IMMEDIATE")\n'
             "        apply_records(self.connection, appended.first_seq, records)\n"),
    Mutation("the position is committed after the rows", LIVE, "LiveState._write_rows",
             "        last_seq = appended.first_seq + appended.count - 1\n",
             "        last_seq = appended.first_seq + appended.count - 1\n"
             '        self.connection.execute("COMMIT")\n'
             '        self.connection.execute("BEGIN IMMEDIATE")\n', "crashes.files", 20),
    Mutation("rows are committed before the journal has synced them", LIVE, "LiveState.stage",
             "            self._staged = appended.first_seq\n",
             "            self._staged = appended.first_seq\n"
             '            self.connection.execute("COMMIT")\n'
             '            self.connection.execute("BEGIN IMMEDIATE")\n'),
    Mutation("a generation is swapped in before it is synced", WORKING, "finish",
             "    _sync(storage, path)\n", "    pass\n", "crashes.files", 6),
    Mutation("folding goes on after a sync that failed", FOLDING, "Folding._is_open",
             "not self._closed and self.failed is None", "not self._closed",
             f"{FOLDS}::test_after_a_sync_that_failed_the_log_stays_and_is_copied_again"),
    Mutation("closing folds what a sync failed to write", FOLDING, "Folding.close",
             "            if self.failed is not None:\n", "            if False:\n",
             f"{FOLDS}::test_after_a_sync_that_failed_the_log_stays_and_is_copied_again"),
    Mutation("a failed sync leaves its pages counted as folded", FOLDING, "Folding._file_failed",
             "                os.pwrite(index, bytes(_BACKFILLED_BYTES), _BACKFILLED_AT)\n", "                pass\n",
             f"{FOLDS}::test_a_reader_that_stays_does_not_hide_what_a_failed_sync_lost"),
    Mutation("a catch-up's failed sync leaves what was copied before it counted as folded", LIVE, "LiveState.catch_up",
             "            self.folding.note(error)\n", "",
             f"{FOLDS}::test_a_sync_that_fails_while_events_are_caught_up_takes_back_what_was_copied_before"),
    Mutation("a database is made in whatever file a link leads to", "replay/holders.py", "refuse_another",
             "    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or found == []:", "    if False:",
             "tests/test_recovery_links.py::test_a_link_that_is_swapped_in_right_before_sqlite_opens_a_file"),
    Mutation("memory.db is written in place of the next generation", GENERATIONS, "Generations.building_path",
             "1 + max(", "max("),
    Mutation("catching up forgets the position", CATCHUP, "_commit",
             "        write_position(connection, position)\n", ""),
    Mutation("catching up begins one event late", CATCHUP, "catch_up",
             "within(batch, start.seq, reader.last_seq)", "within(batch, start.seq + 1, reader.last_seq)"),
    Mutation("a part that an older checkpoint shares is swept", CHECKPOINT, "CheckpointStore.sweepable",
             "for manifest in manifests if", "for manifest in manifests[:1] if", count=40),
    Mutation("an old agent version is left where a newer one belongs", AGENTS, "action_for",
             'return "write" if wanted else "remove"', 'return "none"'),
)  # fmt: skip
