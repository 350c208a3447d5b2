"""Deleting any one sync of the write path is caught: each is removed in a copy, and the crash seeds must fail there.

A call whose removal goes unnoticed is a hole in the tests, or a sync that buys nothing.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ("journal/segment.py", "journal/log.py", "journal/opening.py", "journal/storage.py")
SEEDS = "300"


def sync_calls() -> list[tuple[str, int, str]]:
    """(file, line, source) of every statement on the write path that syncs a file, a directory or the lock."""
    found = []
    for name in FILES:
        source = (ROOT / name).read_text()
        tree = ast.parse(source)
        for owner in ast.walk(tree):
            if isinstance(owner, ast.ClassDef) and (owner.name.startswith("Real") or owner.name in ("File", "Storage")):
                continue
            if not isinstance(owner, ast.FunctionDef) or _within_real(tree, owner):
                continue
            for node in ast.walk(owner):
                if (
                    isinstance(node, ast.Expr)
                    and isinstance(node.value, ast.Call)
                    and isinstance(node.value.func, ast.Attribute)
                    and node.value.func.attr in ("sync", "sync_dir")
                ):
                    found.append((name, node.lineno, ast.unparse(node)))
    return sorted(set(found))


def _within_real(tree: ast.Module, function: ast.FunctionDef) -> bool:
    return any(
        isinstance(owner, ast.ClassDef) and (owner.name.startswith("Real") or owner.name in ("File", "Storage"))
        for owner in tree.body
        if function in ast.walk(owner)
    )


def test_the_list_of_syncs_is_not_empty_by_accident() -> None:
    assert len(sync_calls()) >= 7, sync_calls()


@pytest.mark.parametrize(("name", "line", "source"), sync_calls(), ids=lambda value: str(value))
def test_a_deleted_sync_is_caught(tmp_path: Path, name: str, line: int, source: str) -> None:
    for folder in ("journal", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    lines = (ROOT / name).read_text().splitlines(keepends=True)
    indent = lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]
    lines[line - 1] = f"{indent}pass  # was: {source}\n"
    (tmp_path / name).write_text("".join(lines))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tests.crashes", "0", SEEDS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, f"{name}:{line} {source} can be deleted unnoticed: {done.stdout}{done.stderr}"
    assert done.stdout.startswith("seed "), done.stderr
