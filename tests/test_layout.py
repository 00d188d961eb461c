"""What the repository promises about itself: packages, layers, sizes of files and functions, light imports."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trtc.errors import MissingPackage

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib: Any = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
SETUPTOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = ("ir", "passes", "frontend", "backend", "runtime")
MODULES = sorted(f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py"))
COMMANDS = sorted(f for f in (ROOT / "trtc").glob("*.py")) + sorted((ROOT / "trtc" / "cli").rglob("*.py"))
MAY_IMPORT = {
    "ir": {"errors", "ir"},
    "passes": {"errors", "ir", "passes"},
    "frontend": {"errors", "ir", "passes", "frontend"},
    "backend": {"errors", "expressions", "ir", "passes", "backend"},
    "runtime": {"errors", "expressions", "runtime"},
}
"""What each layer may import of trtc; a back end's rewrite rules are passes."""

LONGEST_FILE, LONGEST_FUNCTION = 400, 40


def dotted(path: Path) -> str:
    return ".".join(("trtc", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_package_is_listed() -> None:
    found: set[str] = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        base = ROOT / folder
        own = [base / "__init__.py", base / "cli" / "__init__.py"]   # the rest of trtc/ are links
        inits = own if package == "trtc" else base.rglob("__init__.py")
        found |= {".".join((package, *f.parent.relative_to(base).parts)) for f in inits}
    assert found == set(SETUPTOOLS["packages"]), "a package that is not listed is missing from the wheel"


def test_links_point_at_their_folders() -> None:
    for package, folder in SETUPTOOLS["package-dir"].items():
        if package != "trtc":
            assert (ROOT / package.replace(".", "/")).resolve() == ROOT / folder


def test_every_data_file_ships() -> None:
    shipped: dict[str, list[str]] = SETUPTOOLS["package-data"]
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                patterns = shipped.get(dotted(path.parent), [])
                assert any(path.match(p) for p in patterns), f"{name(path)} is in no pattern of package-data"


def imported(path: Path) -> Iterator[str]:
    """The modules of trtc that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relative to itself"
            if node.module == "trtc":
                yield from (f"trtc.{alias.name}" for alias in node.names)
            elif (node.module or "").startswith("trtc."):
                yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("trtc."))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_layers_import_downwards_only(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    for module in imported(path):
        assert module.split(".")[1] in MAY_IMPORT[layer], f"{layer} must not import {module}"


@pytest.mark.parametrize("path", [*MODULES, *COMMANDS], ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_doctests(path: Path) -> None:
    try:
        module = importlib.import_module(dotted(path))
    except MissingPackage as error:
        pytest.skip(str(error))
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("path", [*MODULES, *COMMANDS], ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module begins with a sentence on what is in it"


HEAVY = {
    "numpy", "ml_dtypes", "torch", "onnx", "onnxruntime", "transformers", "tensorrt", "tensorrt_rtx", "tokenizers",
    "jsonschema", "jinja2", "sentencepiece",
}   # fmt: skip


def loaded(modules: list[str]) -> set[str]:
    """What a fresh Python has loaded after importing these modules."""
    code = f"import sys, importlib\nfor m in {modules}: importlib.import_module(m)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


def test_trtc_and_its_command_line_import_nothing_heavy() -> None:
    commands = [f for f in COMMANDS if "cli" in f.parts and (f.stem == "__init__" or not f.stem.startswith("_"))]
    modules = [dotted(f)[len("trtc.") :] for f in commands]
    found = loaded(["trtc", "trtc.errors", *modules])
    assert set(modules) <= found
    assert not {m.partition(".")[0] for m in found} & HEAVY


def test_runtime_runs_without_the_compiler() -> None:
    modules = [dotted(f) for f in MODULES if f.relative_to(ROOT).parts[0] == "runtime"]
    found = {m.split(".")[1] for m in loaded(modules) if m.startswith("trtc.")}
    assert "runtime" in found and not found & {"ir", "passes", "frontend", "backend"}


def test_no_package_of_tests() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py")), "importlib mode needs none, and two would clash"
