"""``trtc compile`` with kernels as plugins, a user's and trtc's own, up to the call of TensorRT."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import Trtc
from models import KNOWN, LIMITS, Case, checkpoint, graph_logits, write
from quantizers import SCHEMES, quantise
from tensorrt_evaluator import Evaluator
from tensorrt_families import logits
from tensorrt_standin import standin

from trtc.backend import backends
from trtc.backend.tensorrt import build as building
from trtc.backend.tensorrt.emit import Emitter
from trtc.compiler import read_model
from trtc.ir import IRError, bf16, f32
from trtc.ir.target import target as find_target
from trtc.passes.widen import widen

pytest.importorskip("cuda.bindings.nvrtc")
EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_kernel.py"
VERSIONS = ("10.9", "10.13", "10.16", "11.0", "11.4")
CASE = KNOWN["nemotron-gqa"]
INTEGERS = Case("integers", {
    "hidden_size": 64, "intermediate_size": 192, "num_key_value_heads": 2, "num_hidden_layers": 1,
})   # fmt: skip
torch: Any = import_module("torch")
torch_file: Any = import_module("safetensors.torch")
SMALL = ("--max-batch-size", 4, "--max-input-len", 8, "--max-seq-len", LIMITS["max_seq_len"])


class Built:
    """What was emitted for the last engine."""

    emit: Emitter
    builder: Any

    @property
    def plugins(self) -> list[str]:
        """The names of the layers that are plugins."""
        network = self.emit.network
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        return [layer.name for layer in layers if "plugin" in layer.own]


@pytest.fixture(name="built")
def standing_in(monkeypatch: pytest.MonkeyPatch) -> Built:
    """A stand-in builds, of the version that the target names."""
    made, begin = Built(), building.begin

    def installed(target: Any) -> Any:
        return standin(target.version)

    def watched(*arguments: Any) -> tuple[Any, Emitter]:
        made.builder, made.emit = begin(*arguments)
        return made.builder, made.emit

    def missing(modules: tuple[str, ...]) -> list[str]:
        return []

    monkeypatch.setattr(backends, "missing", missing)
    monkeypatch.setattr(building, "installed", installed)
    monkeypatch.setattr(building, "begin", watched)
    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_a_users_kernel_is_a_plugin(version: str, trtc_: Trtc, built: Built, tmp_path: Path) -> None:
    model, out = checkpoint("nemotron-gqa"), tmp_path / "engine"
    options = ("--load", EXAMPLE, "--passes", "fuse,fuse-relu-squared", "--dtype", "float32", *SMALL)
    code, _, err = trtc_("compile", model, "-o", out, "--target", f"tensorrt:{version}/sm90", *options)
    assert code == 0, err
    assert built.plugins == [f"transformer.layers.{i}.mlp.act/example.relu_squared" for i in range(2)]
    assert (out / "engine.json").is_file()
    read = read_model(model, dtype="float32", **LIMITS)
    want = graph_logits(read.graph, read.checkpoint.source, CASE)[:, :3]
    np.testing.assert_allclose(logits(Evaluator(built.emit, built.builder, rounds=False), CASE), want, atol=2e-5)


WHY = {
    "tensorrt:10.13": "its kernel is compiled for one GPU, but the target names none, as in tensorrt:10.13/sm90",
    "tensorrt:10.8/sm90": "TensorRT 10.8 has no plugins compiled ahead of time, which TensorRT has from 10.9 on",
    "tensorrt-rtx:1.7/sm89": "TensorRT-RTX 1.7 has no plugins compiled ahead of time: its plugins are Python code, "
                             "which must be there when a plan is loaded",
    "tensorrt:10.13/sm75": "relu_squared is for architectures 80, 86, 89, 90, 100, 120, not 75",
}   # fmt: skip


@pytest.mark.parametrize("target", WHY)
def test_why_a_users_kernel_is_none(target: str, trtc_: Trtc) -> None:
    options = ("--load", EXAMPLE, "--passes", "fuse,fuse-relu-squared", "--dtype", "float32", *SMALL, "--dry-run")
    code, _, err = trtc_("compile", checkpoint("nemotron-gqa"), "--target", target, *options, "--explain")
    said = "rewrite-plugins skipped example.relu_squared at transformer.layers.0.mlp.act: "
    assert code == 0 and f"{said}{WHY[target]}\n" in err


def test_a_launch_that_does_not_fit_its_kernel_builds_nothing(trtc_: Trtc, built: Built, tmp_path: Path) -> None:
    source = EXAMPLE.read_text().replace("example.relu", "wrong.relu").replace("fuse-relu", "wrong-relu")
    (tmp_path / "wrong.py").write_text(source.replace("result(), count(elements))", "count(elements), result())"))
    (tmp_path / "custom_kernel.cu").write_text(EXAMPLE.with_suffix(".cu").read_text())
    options = ("--load", tmp_path / "wrong.py", "--passes", "fuse,wrong-relu-squared", "--dtype", "float32", *SMALL)
    model, out = checkpoint("nemotron-gqa"), tmp_path / "engine"
    code, _, err = trtc_("compile", model, "-o", out, "--target", "tensorrt:10.13/sm90", *options)
    assert (code, out.exists()) == (2, False)
    assert err.startswith("error: argument 2 of relu_squared is i32 in its launch, but u64 in the kernel\n")


@pytest.fixture(scope="module", name="quantised")
def with_integers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bf16 with weights of 8-bit integers, and scales of its own type."""
    folder = tmp_path_factory.mktemp("models")
    quantise(SCHEMES["int-8-rows"], write(INTEGERS, folder / "plain"), folder / "quantised")
    file = folder / "quantised" / "model.safetensors"
    tensors = {k: v.to(torch.bfloat16) if k.endswith("_scale") else v for k, v in torch_file.load_file(file).items()}
    torch_file.save_file(tensors, file)
    return folder / "quantised"


@pytest.mark.parametrize("version", VERSIONS)
def test_weights_of_integers_stay_so(version: str, quantised: Path, trtc_: Trtc, built: Built, tmp_path: Path) -> None:
    options = ("--target", f"tensorrt:{version}/sm90", "--plugins", "--dtype", "bfloat16", *SMALL)
    code, _, err = trtc_("compile", quantised, "-o", tmp_path / "engine", *options)
    assert code == 0, err
    places = ("attention.q+k+v", "attention.dense", "mlp.fc+gate", "mlp.proj")
    assert built.plugins == [f"transformer.layers.0.{place}/cuda.fused_linear" for place in places]
    integers = [a for a in built.emit.arrays.values() if a.dtype == np.int8]
    assert [a.shape[1] for a in integers] == [64, 64, 64, 192]
    read = read_model(quantised, dtype="bfloat16", **LIMITS)
    want = graph_logits(widen(read.graph, bf16, f32), read.checkpoint.source, INTEGERS)[:, :3]
    got = logits(Evaluator(built.emit, built.builder, rounds=False), INTEGERS)
    np.testing.assert_allclose(got, want, rtol=0, atol=2**-6)   # the graph rounds q * scale, the kernel does not


def test_weights_of_integers_beside_the_plan(quantised: Path, trtc_: Trtc, built: Built, tmp_path: Path) -> None:
    options = ("--target", "tensorrt:10.13/sm90", "--plugins", "--weightless", "--dtype", "bfloat16", *SMALL)
    code, _, err = trtc_("compile", quantised, "-o", tmp_path / "engine", *options)
    assert code == 0, err
    network = built.emit.network
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    assert len(built.plugins) == sum(t.dtype == built.emit.trt.int8 for t in inputs) == 4


def test_why_weights_become_floats(quantised: Path, trtc_: Trtc) -> None:
    asked = ("compile", quantised, "--target", "tensorrt:10.13/sm90", "--plugins", "--explain", "--dry-run")
    said = "rewrite-plugins skipped linear at transformer.layers.0.mlp.proj: "
    _, _, err = trtc_(*asked, "--max-batch-size", 8, "--max-input-len", 5, "--dtype", "bfloat16")
    assert f"{said}x has up to 40 rows, but the kernel is quick for 32 at most\n" in err
    _, _, err = trtc_(*asked, *SMALL, "--dtype", "float16")
    assert f"{said}the weight has scales of bf16, but must have f16 ones, as x\n" in err


REFUSED = {
    "": "--plugins is given for no target, but is for target tensorrt\n  = help: --target tensorrt:10.13/sm90",
    "onnx": "--plugins is given for target onnx, but is for target tensorrt\n  = help: --target tensorrt:10.13/sm90",
    "tensorrt": "--plugins is given for tensorrt, but must be for one GPU, which kernels are compiled for\n"
                "  = help: --target tensorrt:10.13/sm90",
    "tensorrt:10.8/sm90": "plugins are asked for, but TensorRT 10.8 has no plugins compiled ahead of time, which "
                          "TensorRT has from 10.9 on",
}   # fmt: skip


@pytest.mark.parametrize("target", REFUSED)
def test_targets_without_plugins(target: str, trtc_: Trtc) -> None:
    options = ("--target", target) if target else ()
    code, out, err = trtc_("compile", checkpoint("nemotron-gqa"), "--plugins", "--dry-run", *options)
    assert (code, out, err) == (2, "", f"error: {REFUSED[target]}\n")


def test_what_else_a_target_may_be_asked_for() -> None:
    with pytest.raises(IRError, match=r"tensorrt:10\.13/sm90 is asked for with plugs, but can have plugins"):
        find_target("tensorrt:10.13/sm90+plugs")
    assert str(find_target("tensorrt:10.13/sm90+plugins")) == "tensorrt:10.13/sm90+plugins"
