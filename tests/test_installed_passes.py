"""Packages that announce passes: docs/passes.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PASS = '''
from trtc.ir.op import Value
from trtc.ir.ops import Add
from trtc.passes import rewrite


@rewrite("leave-add")
def leave_add(op: Add) -> Value | None:
    """a + b  ->  a + b"""
'''


def passes(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """``trtc passes leave-add`` where a package of this code is installed."""
    (folder / "mine.py").write_text(code)
    (folder / "mine-1.dist-info").mkdir(exist_ok=True)
    (folder / "mine-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (folder / "mine-1.dist-info/entry_points.txt").write_text("[trtc.passes]\nx = mine\n")
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "trtc", "passes", "leave-add"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )   # fmt: skip


def test_they_are_known(tmp_path: Path) -> None:
    done = passes(tmp_path, PASS)
    assert (done.returncode, done.stdout) == (0, "leave-add\n\na + b  ->  a + b\n")


def test_one_that_is_broken_is_named(tmp_path: Path) -> None:
    done = passes(tmp_path, "1 / 0\n")
    what = "mine, which an installed package announces under trtc.passes, cannot be loaded"
    assert (done.returncode, done.stderr) == (2, f"error: {what}: ZeroDivisionError: division by zero\n")
