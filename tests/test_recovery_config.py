"""journal.yaml: defaults, every key, and every way to get one wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from journal.errors import UsageError
from journal.log import RESERVE_BYTES, SEGMENT_BYTES_MAX
from journal.retention import WEIGHTS as POLICY_WEIGHTS
from journal.retention import Policy
from recovery.config.file import FILE_BYTES_MAX, load, parse
from recovery.config.reading import keys
from recovery.config.table import Config
from replay.layout import Layout

EVERY_KEY = b"""
paths:
  memory_db: state/memory.db
  agents: /srv/agents
  models: models
  journal: ./journal/
segment_bytes_max: 1_048_576
checkpoint:
  events: 10
  seconds: 20
  bytes: 30
  agents: {ledger: critical, "test-*": stateless, "*": normal}
  weights: {critical: 9}
retention: {checkpoints_min: 3, gap_events: 5, gap_ratio: 0}
quarantine: {days: 0, bytes_max: 1}
reload: {log: logs/server.log, patterns: {memory_corruption: "bad {agent}"}}
watch: {memory: revert}
agents: {validation: strict, schema: caxton, backup: /mnt/agents}
embeddings:
  {model: /opt/minilm, batch_size: 8, mirror: /mnt/models, hub: off, repository: acme/minilm, revision: v2,
   backend: onnx}
segments: {pack: false}
parity: {share: 0.25, directory: /mnt/parity}
scrub: {bytes_per_second: 0}
disk: {reserve_bytes: 0}
server:
  {control: command, unit: caxton.service, user: true, start: [up, --now], stop: [down], status: [is-up],
   start_url: "http://127.0.0.1:1/start", stop_url: "http://127.0.0.1:1/stop", health: "http://127.0.0.1:2/health",
   token_file: secret, timeout_seconds: 5, interval_seconds: 0.1}
crash: {cores: ["cores/*"], log: logs/crash.log, log_bytes: 4096, patterns: [boom]}
degraded: {memory: refuse, disk: queue, queue_bytes: 2048}
rto_seconds: 30
durability: {strict: true}
log: {format: json}
redact: {patterns: ["sk-[0-9a-f]+"], fields: [password]}
"""


def refused(data: bytes) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(data, "d/journal.yaml")
    error = caught.value
    assert error.exit_code == 2
    assert error.path == "d/journal.yaml"
    assert "\n" not in str(error)
    assert len(str(error)) < 600
    return error


# -- what a file means ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"# nothing\n", b"---\n", b"{}", b"paths:\ncheckpoint:\n", b"\xef\xbb\xbf"])
def test_a_file_that_sets_nothing_is_the_defaults(data):
    assert parse(data, "journal.yaml") == Config()


def test_every_key_can_be_set():
    config = parse(EVERY_KEY, "journal.yaml")
    assert config.layout("/d") == Layout("/d", "/d/state/memory.db", "/srv/agents", "/d/models", "/d/journal")
    assert config.segment_bytes_max == 1 << 20
    assert (config.quarantine.days, config.quarantine.bytes_max) == (0, 1)
    assert config.agents.validation == "strict"
    assert config.watch.memory == "revert"
    assert config.reload.log == "logs/server.log"
    assert config.reload.all_patterns["memory_corruption"] == "bad {agent}"
    assert config.reload.all_patterns["validation_failure"].startswith("validation_failed")
    assert (config.agents.schema, config.agents.backup) == ("caxton", "/mnt/agents")
    assert (config.model_path("/d"), config.embeddings.batch_size) == ("/opt/minilm", 8)
    assert (config.parity.share, config.parity.directory) == (0.25, "/mnt/parity")
    assert config.scrub.bytes_per_second == 0
    assert config.segments.pack is False
    assert (config.mirror_path("/d"), config.embeddings.hub) == ("/mnt/models", "off")
    assert (config.embeddings.repository, config.embeddings.revision) == ("acme/minilm", "v2")
    assert config.embeddings.backend == "onnx"
    assert config.disk.reserve_bytes == 0
    assert (config.server.control, config.server.start, config.server.stop) == ("command", ("up", "--now"), ("down",))
    assert (config.server.unit, config.server.user, config.server.token_file) == ("caxton.service", True, "secret")
    assert (config.server.status, config.server.health) == (("is-up",), "http://127.0.0.1:2/health")
    assert (config.server.timeout_seconds, config.server.interval_seconds) == (5.0, 0.1)
    assert (config.crash.cores, config.crash.log_bytes, config.crash.patterns) == (("cores/*",), 4096, ("boom",))
    assert (config.degraded.memory, config.degraded.disk, config.degraded.queue_bytes) == ("refuse", "queue", 2048)
    assert config.rto_seconds == 30.0
    assert config.durability.strict is True
    assert config.log.format == "json"
    assert (config.redact.patterns, config.redact.fields) == (("sk-[0-9a-f]+",), ("password",))
    assert config.policy() == Policy(
        events=10,
        seconds=20,
        bytes=30,
        keep_min=3,
        gap_events=5,
        gap_ratio=0.0,
        agents={"ledger": "critical", "test-*": "stateless", "*": "normal"},
        weights={"critical": 9.0, "normal": 1.0, "stateless": 0.1},
    )
    written = yaml.safe_load(EVERY_KEY)
    flat = {f"{section}.{key}" for section, value in written.items() if isinstance(value, dict) for key in value}
    assert flat | {"segment_bytes_max", "rto_seconds"} == {key.name for key in keys() if key.kind is not None}


def test_the_defaults_are_those_of_the_modules_that_use_them():
    config = Config()
    assert config.policy() == Policy()
    assert config.checkpoint.weights == POLICY_WEIGHTS
    assert (config.segment_bytes_max, config.disk.reserve_bytes) == (SEGMENT_BYTES_MAX, RESERVE_BYTES)
    assert config.layout("/d") == Layout.under("/d")
    assert config.model_path("/d/") == "/d/models/all-MiniLM-L6-v2"


def test_an_exact_name_comes_before_patterns_and_those_in_their_order():
    policy = parse(EVERY_KEY.replace(b"ledger:", b"test-ledger:"), "journal.yaml").policy()
    assert policy.weight("test-ledger") == 9.0
    assert policy.weight("test-parrot") == 0.1
    assert policy.weight("other") == policy.weight(None) == 1.0


def test_a_bare_off_is_the_word_and_not_false():
    assert parse(b"agents: {validation: off}", "journal.yaml").agents.validation == "off"


def test_every_default_is_a_value_that_its_key_takes():
    documented = [key for key in keys() if key.kind is not None]
    assert len(documented) > 15
    for key in documented:
        assert key.kind is not None
        assert key.kind.read(key.default) == key.default, key.name
        assert key.doc.endswith(".")


# -- what is refused: the line, and what to write ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says", "hint"),
    [
        (b"checkpoint:\n  event: 5\n", "line 2: unknown key 'checkpoint.event'", "did you mean checkpoint.events?"),
        (b"\n\nbatch_size: 5\n", "line 3: unknown key 'batch_size'", "did you mean embeddings.batch_size?"),
        (b"segment_max_bytes: 5\n", "line 1: unknown key", "did you mean segment_bytes_max?"),
        (b"disk: {zzz: 1}\n", "line 1: unknown key 'disk.zzz'", "known here: reserve_bytes"),
        (b"on: 1\n", "unknown key 'on'", "known here: paths, segment_bytes_max"),
        (b"checkpoint:\n  events: many\n", "line 2: checkpoint.events must be a whole number, at least 1", ""),
        (b"checkpoint:\n  events: 0\n", "line 2: checkpoint.events must be a whole number", ""),
        (b"checkpoint:\n  events: true\n", "line 2: checkpoint.events must be a whole number", ""),
        (b"checkpoint:\n  events: 1.5\n", "line 2: checkpoint.events must be a whole number", ""),
        (b"checkpoint:\n  events:\n", "line 2: checkpoint.events must be a whole number", ""),
        (b"segment_bytes_max: 1\n", "at least 65536 and at most 1073741824", ""),
        (b"retention: {gap_ratio: 1.5}\n", "a number from 0 to 1", ""),
        (b"retention: {gap_ratio: .nan}\n", "a number from 0 to 1", ""),
        (b"retention: {checkpoints_min: 1}\n", "at least 2", ""),
        (b"reload: {patterns: {memory_corruption: oops}}\n", "a regular expression that holds {agent}", ""),
        (b"reload: {patterns: {memory_corruption: '({agent}'}}\n", "a regular expression that holds {agent}", ""),
        (b"reload: {patterns: {unknown: '{agent}'}}\n", "validation_failure, memory_corruption", ""),
        (b"agents: {validation: loose}\n", "must be one of strict, lenient, off", ""),
        (b"agents: {validation: true}\n", "must be one of strict, lenient, off", ""),
        (b"agents: strict\n", "line 1: agents must be a section of keys", ""),
        (b"checkpoint:\n  agents:\n    x: vital\n", "line 2: checkpoint.agents must be a map", ""),
        (b"checkpoint: {weights: {critical: -1}}\n", "checkpoint.weights must be a map", ""),
        (b"checkpoint: {weights: {critical: .inf}}\n", "checkpoint.weights must be a map", ""),
        (b"paths: {agents: ''}\n", "must be a path", ""),
        (b"paths: {agents: .}\n", "must be a path", ""),
        (b"paths: {agents: ../elsewhere}\n", "must be a path", ""),
        (b'paths: {agents: "a\\0b"}\n', "must be a path", ""),
        (b"paths: {agents: journal}\n", "lies in paths.journal", "a place of its own"),
        (b"paths: {agents: journal/agents}\n", "lies in paths.journal", "a place of its own"),
        (b"- a\n- b\n", "must be a map", ""),
        (b"just text\n", "must be a map", ""),
        (b"a: b: c\n", "line 1: mapping values are not allowed here", "docs/config.md"),
        (b"paths: [\n", "line 2:", ""),
        (b"paths:\n\tagents: x\n", "line 2:", ""),
        (b"disk: {}\ndisk: {}\n", "line 2: key 'disk' is written twice", "keep one"),
        (b"? [a]\n: b\n", "a key must be plain text", ""),
        (b"\xff\xfe", "line 1: the configuration is not UTF-8", ""),
        (b"a: 1\nb: \xff\n", "line 2: the configuration is not UTF-8", ""),
        (b"a: \x00\n", "cannot be read", ""),
        (b"{}\n---\n{}\n", "a second document", ""),
        (b"a: !!python/object/apply:os.system [id]\n", "tags are not allowed", ""),
        (b"disk: {reserve_bytes: " + b"9" * 5000 + b"}\n", "", ""),
        (b"disk: {reserve_bytes: " + b"1:" * 9000 + b"1}\n", "", ""),
        (b"x" * (FILE_BYTES_MAX + 1), "longer than", ""),
    ],
)
def test_refused(data, says, hint):
    error = refused(data)
    assert says in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 1: anchors and aliases"),
        (b"a: *nothing\n", "anchors and aliases"),
        (b"[" * 20_000, "nested deeper"),
        (b"{a: " * 9 + b"1" + b"}" * 9, "nested deeper"),
        (b"- " * 9 + b"x", "nested deeper"),
        (b"a: [" + b"1," * 5000 + b"]", "more than 4096"),
    ],
)
def test_bombs_are_refused_before_they_unfold(data, says):
    assert says in refused(data).message


@given(st.binary(max_size=200) | st.text("{}[]&*!|>:-? \n\"'#%@a1", max_size=60).map(str.encode))
def test_any_bytes_are_a_configuration_or_a_declared_error(data):
    try:
        config = parse(data, "journal.yaml")
    except UsageError as error:
        assert error.path == "journal.yaml"  # noqa: PT017 - both outcomes are fine, a traceback is not
        return
    assert isinstance(config, Config)


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_directory_without_a_file_has_the_defaults(tmp_path: Path):
    assert load(tmp_path) == Config()


def test_the_directorys_file_is_found_and_another_can_be_named(tmp_path: Path):
    (tmp_path / "journal.yaml").write_text("disk: {reserve_bytes: 1}")
    (tmp_path / "other.yaml").write_text("disk: {reserve_bytes: 2}")
    assert load(tmp_path).disk.reserve_bytes == 1
    assert load(tmp_path, tmp_path / "other.yaml").disk.reserve_bytes == 2


def test_a_named_file_must_be_there(tmp_path: Path):
    with pytest.raises(UsageError, match="no such configuration file"):
        load(tmp_path, tmp_path / "none.yaml")


def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path):
    (tmp_path / "journal.yaml").mkdir()
    with pytest.raises(UsageError, match="cannot be read: it is no regular file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match="no regular file"):
        load(tmp_path, tmp_path / "pipe.yaml")


@pytest.mark.parametrize(
    ("control", "lacks"), [("systemd", "unit"), ("command", "start"), ("http", "start_url")]
)
def test_a_control_that_could_not_start_what_it_stops_is_refused(control, lacks):
    assert f"needs server.{lacks}" in str(refused(f"server: {{control: {control}}}".encode()))
