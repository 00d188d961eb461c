"""``trtc inspect`` on engines of target cuda: steps by phase, and where the time of a decode step goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import Trtc
from emulated_cuda import compile_emulated, emulate, install
from fake_cuda import FakeDriver

from trtc.cli import _layers
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.cuda import layers
from trtc.runtime.cuda.layers import times

pytestmark = pytest.mark.xdist_group("inspect-cuda")   # which builds the kernels of its model once
MODEL = Path(__file__).parents[2] / "examples" / "shakespeare"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    limits = {"max_batch_size": 2, "max_input_len": 8, "max_seq_len": 16}
    compile_emulated(monkeypatch, MODEL, tmp_path / "engine", "float16", **limits)
    return tmp_path / "engine"


def test_steps_by_phase_and_the_ops_of_their_places(trtc_: Trtc, engine: Path) -> None:
    code, out, err = trtc_("inspect", engine, "--layers")
    assert (code, err) == (0, "")
    one, two, prefill = out.split("\n\n")
    assert one.startswith("decode-1, B in 1..1, S in 1..1, M in 1..16\n")
    assert two.startswith("decode-2, B in 2..2, S in 1..1, M in 1..16\n")
    assert prefill.startswith("prefill, B in 1..2, S in 1..8, M in 1..16\n")
    attention = next(line for line in one.splitlines() if "attention/cuda.append_" in line)
    assert "transformer.layers.0" in attention and "attention" in attention.split()[-1]
    assert "cuBLASLt" in prefill and "cuBLASLt" not in one
    code, out, _ = trtc_("inspect", engine, "--layers", "--json")
    phases = (one, two, prefill)
    assert code == 0 and [len(steps) for steps in json.loads(out)] == [len(p.splitlines()) - 2 for p in phases]


def test_the_time_of_a_step(trtc_: Trtc, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    monkeypatch.setattr(layers, "REPEATS", 2)
    said = times(EngineBundle.open(engine))
    assert (said["profile"], said["sizes"], said["context"]) == (0, {"B": 1, "S": 1, "M": 16}, 9)
    (tmp_path / "times.json").write_text(json.dumps(said))
    code, out, _ = trtc_("inspect", engine, "--times", tmp_path / "times.json")
    assert code == 0 and out.startswith("decode-1, B in 1..1, S in 1..1, M in 1..16: B = 1, S = 1, M = 16, ")
    assert _layers.RUNTIMES["cuda"] == times.__module__
    said = times(EngineBundle.open(engine), batch=2, new=3)
    assert (said["profile"], said["sizes"], said["context"]) == (2, {"B": 2, "S": 3, "M": 16}, 3)


def test_a_paged_cache(trtc_: Trtc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = {"max_batch_size": 2, "max_input_len": 8, "max_seq_len": 80}
    folder = tmp_path / "engine"
    compile_emulated(monkeypatch, MODEL, folder, "float16", paged_kv_cache=True, **limits)
    code, out, _ = trtc_("inspect", folder)
    assert code == 0 and "2 heads of 32, in pages of 64 tokens: 1,792 bytes a token" in out
    assert "inputs of rank0/plan.json, B in 1..2, S in 1..8, P in 1..5\n" in out
    assert "  pages                      i32[B, 2]\n  layers.{0..6}.key_cache    f16[P, 2, 64, 32]\n" in out
    assert ",page-caches{target=cuda:90}\n" in out
    said = json.loads(trtc_("inspect", folder, "--json")[1])
    assert said["cache"]["page"] == json.loads((folder / "engine.json").read_text())["cache"]["page"] == 64
    install(monkeypatch)
    monkeypatch.setattr(layers, "REPEATS", 2)
    assert times(EngineBundle.open(folder))["sizes"] == {"B": 1, "S": 1, "P": 2}   # a page, and nobody's


def test_an_engine_for_several_architectures(trtc_: Trtc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What ``trtc compile`` and ``trtc inspect`` say of it; phases are numbered through all plans."""
    emulate(monkeypatch)
    given = ("--target", "cuda:90,80", "--max-batch-size", 1, "--max-input-len", 8, "--max-seq-len", 16)
    code, out, _ = trtc_("compile", MODEL, "--dry-run", *given)
    assert code == 0 and out.startswith("target    cuda:80,90\n") and ",legalize{target=cuda:80,90}," in out
    folder = tmp_path / "engine"
    code, _, err = trtc_("compile", MODEL, "-o", folder, *given)
    assert code == 0 and f"engine: {folder}, cuda:80,90, " in err
    code, out, _ = trtc_("inspect", folder)
    assert code == 0 and "\ntarget    cuda:80,90\n" in out
    assert all(f"rank0/{name} " in out for name in ("plan.json", "plan-80.json", "plan-90.json"))
    code, out, _ = trtc_("inspect", folder, "--layers")
    names = [part.partition(", B in")[0] for part in out.split("\n\n")]
    assert code == 0 and names == [f"cuda:{n}, {phase}" for n in (80, 90) for phase in ("decode-1", "prefill")]
    monkeypatch.setattr(layers, "REPEATS", 1)
    install(monkeypatch, FakeDriver(capability=(9, 0)))
    assert times(EngineBundle.open(folder))["profile"] == 2
