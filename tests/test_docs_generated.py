"""What docs/generate.py makes is what the verbs, the table of keys and the decision tables say today."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from recovery.cli.verbs import EXIT_CODES, VERBS
from recovery.config.file import parse
from recovery.config.reading import keys
from recovery.config.table import Config
from recovery.tables.agents import AGENT
from recovery.tables.directory import DIRECTORY
from recovery.tables.memory import MEMORY

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "config.md", "performance.md", "recovery.md", "reliability.md",
                                  "telemetry.md", "dashboards/journal.json"])  # fmt: skip
def test_the_file_is_current(generate: ModuleType, name: str):
    assert (DOCS / name).read_text(encoding="utf-8") == generate.FILES[name](), "run: make docs"


def test_every_verb_and_every_exit_code_is_there():
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    for name in VERBS:
        assert f"\n## journal {name}\n" in text
    for code in EXIT_CODES:
        assert f"\n- `{code}` " in text


def test_every_key_is_there():
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    for key in keys():
        assert f"# {key.name}\n\n{key.doc}\n" in text


def test_the_file_of_defaults_is_the_defaults():
    """Scenario: a user copies the block, to change one line of it."""
    block = (DOCS / "config.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    assert parse(block.encode(), "docs/config.md") == Config()


def test_every_line_of_the_decision_tables_is_there():
    text = (DOCS / "recovery.md").read_text(encoding="utf-8")
    for row in (*MEMORY, *AGENT, *(row for _, row in DIRECTORY)):
        assert f"| `{row.case}` | {row.when} |" in text


def test_a_stale_file_is_named(generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "docs/cli.md is stale: run make docs",
        "docs/config.md is stale: run make docs",
        "docs/performance.md is stale: run make docs",
        "docs/recovery.md is stale: run make docs",
        "docs/reliability.md is stale: run make docs",
        "docs/telemetry.md is stale: run make docs",
        "docs/dashboards/journal.json is stale: run make docs",
    ]
    assert generate.main([]) == generate.main(["--check"]) == 0
    (tmp_path / "cli.md").write_text("old")
    assert generate.main(["--check"]) == 1


def test_it_runs_as_a_script_from_anywhere(tmp_path: Path):
    done = subprocess.run([sys.executable, DOCS / "generate.py", "--check"], cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 0
