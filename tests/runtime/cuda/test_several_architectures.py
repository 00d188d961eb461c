"""Engines for several architectures: the runtime takes the plan of the GPU that it finds, and reads no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulated_cuda import change_plan, compile_emulated, install
from emulated_cuda import kernels as emulated
from fake_cuda import FakeDriver, Kernels
from models import LIMITS, checkpoint

import trtc
from trtc.errors import TrtcError

NAME = "llama3-head64-old"   # whose prompts Hopper's kernel attends with
AGAIN = "help: the engine is damaged: copy it again, or compile it again"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A copy of an engine for 8.0, 8.6 and 9.0, which a test may damage."""
    made = tmp_path_factory.getbasetemp() / "several-engine"
    if not made.exists():
        compile_emulated(monkeypatch, checkpoint(NAME), made, "float16", target="cuda:80,86,90", **LIMITS)
    shutil.copytree(made, tmp_path / "ENGINE")
    return tmp_path / "ENGINE"


def loaded(monkeypatch: pytest.MonkeyPatch, engine: Path, capability: tuple[int, int]) -> set[tuple[int, str]]:
    """Load an engine on a GPU: the architecture and the entry of each kernel whose machine code is loaded."""
    found = set[tuple[int, str]]()

    def load(image: bytes) -> Kernels:
        made = emulated(image)
        found.update((kernel.said["architecture"], kernel.entry) for kernel in made.values())
        return made

    driver = install(monkeypatch, FakeDriver(capability=capability))
    driver.load = load
    trtc.load(engine, verify=False)
    return found


@pytest.mark.parametrize(("capability", "architecture"), [
    ((8, 0), 80), ((8, 6), 86), ((8, 7), 86), ((8, 9), 86), ((9, 0), 90),
])   # fmt: skip
def test_the_plan_is_that_of_the_gpu(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], architecture: int
) -> None:
    found = loaded(monkeypatch, engine, capability)
    assert {number for number, _ in found} == {architecture}
    entries = {entry for _, entry in found if "prefill" in entry}
    assert entries == {"hopper_prefill_attention" if architecture == 90 else "prefill_attention"}


def test_nothing_is_read_of_other_plans(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = {number: json.loads((engine / f"rank0/plan-{number}.json").read_text()) for number in (80, 86, 90)}
    mine = {kernel["file"] for kernel in plans[86]["kernels"]}
    others = {kernel["file"] for number in (80, 90) for kernel in plans[number]["kernels"]} - mine
    assert len(others) > 10
    for name in ("plan-80.json", "plan-90.json", *others):
        file = engine / "rank0" / name
        file.write_bytes(b"?" * file.stat().st_size)
    assert {number for number, _ in loaded(monkeypatch, engine, (8, 6))} == {86}


@pytest.mark.parametrize("capability", [(7, 5), (9, 1), (10, 0), (12, 0)])
def test_a_gpu_that_no_plan_is_for(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    """9.1, too: Hopper's attention has instructions that 9.0 alone has."""
    with pytest.raises(TrtcError) as caught:
        loaded(monkeypatch, engine, capability)
    assert str(caught.value).replace(str(engine), "ENGINE") == (
        "error: ENGINE/rank0/plan.json has machine code for compute capabilities 8.0, 8.6 and 9.0, but this machine "
        "has Fake GPU (compute capability {}.{})\n".format(*capability)
        + "  = help: compile again on this machine, with --target cuda"
    )


def of_no_file(listed: dict[str, Any]) -> None:
    listed["plans"][0]["file"] = "plan-70.json"


def of_a_folder_above(listed: dict[str, Any]) -> None:
    listed["plans"][0]["file"] = "../plan-80.json"


def of_itself(listed: dict[str, Any]) -> None:
    listed["plans"][0]["file"] = "plan.json"


def empty(listed: dict[str, Any]) -> None:
    listed["plans"] = []


def newer(listed: dict[str, Any]) -> None:
    listed["version"] = 2


@pytest.mark.parametrize(("edit", "message"), [
    (of_no_file, f"plan-70.json is missing, but plan.json names it\n  = {AGAIN}"),
    (of_a_folder_above, "plan.json breaks its schema at $.plans[0].file: '../plan-80.json' does not match "
                        f"'^(?!/)(?!.*(^|/)\\\\.\\\\.(/|$))[^\\\\\\\\]+$'\n  = {AGAIN}"),
    (of_itself, "plan.json breaks its schema at $: Additional properties are not allowed ('plans' was unexpected)\n"
                f"  = {AGAIN}"),
    (empty, f"plan.json breaks its schema at $.plans: [] should be non-empty\n  = {AGAIN}"),
    (newer, "plan.json is a plan of version 2, but this trtc reads up to 1\n"
            "  = help: upgrade trtc, or compile the engine again with this one"),
])   # fmt: skip
def test_lists_of_plans_that_are_damaged_or_newer(
    engine: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    change_plan(engine, edit)
    with pytest.raises(TrtcError) as caught:
        loaded(monkeypatch, engine, (8, 0))
    assert str(caught.value).removeprefix(f"error: {engine}/rank0/") == message
