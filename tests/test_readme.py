"""What the documents say to run runs, and what they link to is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.commands import ENVIRONMENT, ROOT

DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
RUNNABLE = [path for path in DOCUMENTS if re.search(r"^```(python|console)$", path.read_text(), re.MULTILINE)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """An environment in which `journal` is this checkout's, as it is after an install."""
    tools = tmp_path / "bin"
    tools.mkdir()
    command = tools / "journal"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m recovery "$@"\n')
    command.chmod(0o755)
    return {**ENVIRONMENT, "PATH": f"{tools}{os.pathsep}{ENVIRONMENT.get('PATH', os.defpath)}"}


@pytest.mark.parametrize("document", RUNNABLE, ids=name_of)
def test_what_a_document_shows_runs_from_top_to_bottom(document: Path, place: dict[str, str], tmp_path: Path):
    """Scenario: a reader pastes block after block into one directory, the Python ones twice."""
    work = tmp_path / "work"
    work.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=work, env=place, check=False, capture_output=True, text=True, timeout=60, input=""
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
        return done.stdout

    ran = 0
    for language, text in blocks(document):
        if language == "python":
            assert run(sys.executable, "-c", text) == run(sys.executable, "-c", text)
            ran += 1
        elif language == "console":
            for line in text.splitlines():
                if line.startswith("$ "):
                    run("sh", "-c", line[2:])
                    ran += 1
    assert ran


def test_the_readme_teaches_embedding_and_operating():
    found = blocks(ROOT / "README.md")
    (program,) = (text for language, text in found if language == "python")
    assert len([line for line in program.splitlines() if line]) <= 15
    assert sum(text.count("$ journal ") for language, text in found if language == "console") > 5


# -- links ------------------------------------------------------------------------------------------------------------


@cache
def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as code hosts make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(document: Path):
    broken = []
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (document.parent / target).resolve() if target else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


def test_documents_are_found_and_have_links():
    assert {"README.md", "CONTRIBUTING.md", "docs/format.md", "docs/faq.md"} <= set(map(name_of, DOCUMENTS))
    assert sum(len(links(path)) for path in DOCUMENTS) > 30
