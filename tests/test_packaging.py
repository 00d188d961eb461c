"""What is installed is ``trtc`` and nothing else: a wheel in an empty environment, outside the checkout."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ("trtc", "frontend", "ir", "passes", "backend", "runtime", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = {"frontend", "ir", "passes", "backend", "runtime"}
pytestmark = pytest.mark.xdist_group("packaging")   # one wheel serves all


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy: a build leaves things behind."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(copy)]
    subprocess.run(command, check=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment that has the wheel, and this interpreter's packages as its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True, timeout=300)
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    line = list(map(str, command))
    return subprocess.run(line, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"trtc"}
    assert {"trtc/runtime/engine.schema.json", "trtc/py.typed", "trtc/cli/run.py"} <= names
    sources = {
        f"{prefix}{f.relative_to(ROOT).as_posix()}"
        for folder, prefix in (("trtc", ""), *((each, "trtc/") for each in sorted(FOLDERS)))
        for f in (ROOT / folder).rglob("*.py")
        if not FOLDERS & set(f.relative_to(ROOT).parts[1:2])
    }
    assert {name for name in names if name.endswith(".py")} == sources


def test_it_runs_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "trtc", "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  compile  Compile a checkpoint to an engine.\n" in done.stdout
    done = run(installed / "trtc", "passes", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "  fuse-attention " in done.stdout
    done = run(installed / "python", "-c", "import trtc; print(trtc.__file__)", folder=tmp_path)
    assert Path(done.stdout).is_relative_to(installed.parent)


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_no_folder_is_a_package_of_its_own(installed: Path, tmp_path: Path, name: str) -> None:
    done = run(installed / "python", "-c", f"import {name}", folder=tmp_path)
    assert done.returncode == 1 and f"No module named '{name}'" in done.stderr


def test_it_compiles_and_runs_the_shipped_model(installed: Path, tmp_path: Path) -> None:
    model = ROOT / "examples" / "shakespeare"
    done = run(installed / "trtc", "compile", model, "-o", "engine", "--target", "onnx", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(installed / "trtc", "run", "engine", "--prompt", "ROMEO:", "--max-new-tokens", "5", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("ROMEO:\n")
