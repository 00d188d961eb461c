"""Every command, Python and IR block in README.md and docs/ runs, and prints what it is said to print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trtc.backend.targets
from trtc.ir import parse

assert trtc.backend.targets   # the targets' own ops may stand in a graph

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("make ", "python benchmarks/")   # .ci/run runs the first, and the second take minutes
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The language and the text of each fenced block."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield match[1], match[2]


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with what it is said to print, `...` standing for anything."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, said = part.partition("\n")
        yield command, said


def matches(said: str, printed: str) -> bool:
    pattern = "".join(".*" if part == "..." else re.escape(part) for part in re.split(r"(\.\.\.)", said.strip()))
    lines = "\n".join(line.rstrip() for line in printed.splitlines()).strip()
    return re.fullmatch(pattern, lines, re.DOTALL) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "trtc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trtc "$@"\n')
    (tmp_path / "bin" / "trtc").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    for language, text in blocks(page):
        assert language in ("console", "python", "trtc", "text"), f"nothing runs a block of `{language}`"
        if language == "trtc":
            assert parse(text) == parse(str(parse(text)))
        elif language == "python":
            subprocess.run([sys.executable, "-c", text], check=True, cwd=tmp_path, env=environment, timeout=120)
        elif language == "console":
            for command, said in commands(text):
                if not command.startswith(ELSEWHERE):
                    _run(command, said, tmp_path, environment)


def _run(command: str, said: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, env=environment,
        timeout=120, check=False,
    )   # fmt: skip
    assert (done.returncode == 0) is not said.startswith("error:"), f"$ {command}\n{done.stdout}"
    assert matches(said, done.stdout), f"$ {command}\n{done.stdout}"


def test_the_readme_shows_the_example_as_it_is() -> None:
    code = (ROOT / "examples" / "custom_pass.py").read_text(encoding="utf-8").split('"""\n\n', 1)[1]
    assert ("python", code) in list(blocks(PAGES[0]))


def test_the_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    named = {target for text in texts for target in re.findall(r"(?:`|\$ )make (\w+)", text)}
    assert {"demo", "test", "check"} <= named <= targets
