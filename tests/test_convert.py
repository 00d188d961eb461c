"""Converting: any source to any numbers of ranks and on to others, without loss; how much it reads and holds."""

from __future__ import annotations

import errno
import json
import os
import struct
import tracemalloc
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import Any

import models
import numpy as np
import pytest
from models import KNOWN, LIMITS, Case

import trtc
from trtc.compiler import read_model
from trtc.frontend.sources.safetensors import SafetensorsSource

load: Any = import_module("safetensors.numpy").load_file
for module in Path(__file__).parent.glob("*cases*.py"):
    import_module(module.stem)   # adds its cases to those that are known
MODELS = Path(__file__).parents[2] / "shared/models"
every_case = models.every(KNOWN)


def convert(source: Path, out: Path, **options: Any) -> Path:
    trtc.convert(source, out, **options)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def shards(case: Case) -> bool:
    """Whether 4 ranks can have equal parts of the model."""
    config = models.opened(models.checkpoint(case.name)).config
    moe = config.moe
    widths = [config.intermediate_size, *((moe.intermediate_size, moe.shared_intermediate_size) if moe else ())]
    even = all(width % 4 == 0 for width in (*widths, config.num_attention_heads))
    return even and config.num_hidden_layers > 1


@every_case
def test_there_and_back_again(case: Case, tmp_path: Path) -> None:
    """To 2 x 2 ranks, to one, to 4: as from the source to 4 at once; and no weight has changed."""
    source = models.checkpoint(case.name)
    if not shards(case):
        pytest.skip("4 ranks cannot divide it")
    two = convert(source, tmp_path / "two", tp_size=2, pp_size=2, use_parallel_embedding=True)
    one = convert(two, tmp_path / "one")
    four = convert(one, tmp_path / "four", tp_size=4)
    assert contents(four) == contents(convert(source, tmp_path / "direct", tp_size=4))
    if not models.opened(source).config.embedding_dim:   # or the format has other weights
        expected, found = models.weights_of_model(source), models.weights_of_model(two)
        assert expected.keys() == found.keys()
        for role, array in found.items():   # in f32, which all fit in: routers are stored so
            np.testing.assert_array_equal(array.astype(np.float32), expected[role].astype(np.float32), err_msg=role)


def test_every_family_that_has_cases_is_converted() -> None:
    def architectures(cases: Iterable[Case]) -> set[str]:
        return {models.opened(models.checkpoint(case.name)).config.architecture for case in cases}

    assert architectures(filter(shards, KNOWN.values())) == architectures(KNOWN.values())


def test_projections_of_embeddings_are_multiplied_in(tmp_path: Path) -> None:
    """OPT-350m, which has no place for them in the format: torch multiplies the same, sums in another order."""
    source = models.checkpoint("opt-projected-after")
    hf = {name.removeprefix("model.decoder."): tensor.float() for name, tensor in models.torch_tensors(source).items()}
    folder = convert(source, tmp_path / "ranks", dtype="float32")
    tensors = models.torch_tensors(folder / "rank0.safetensors")
    words = hf["embed_tokens.weight"]
    for name, product in (
        ("transformer.vocab_embedding.weight", words @ hf["project_in.weight"].T),
        ("lm_head.weight", words @ hf["project_out.weight"]),
    ):
        np.testing.assert_allclose(tensors[name].numpy(), product.numpy(), rtol=1e-5, atol=1e-6)
    assert not any("project" in name for name in tensors)


@pytest.mark.parametrize("name", ["gqa-tied-head16", "biases-gelu-head10", "gemma2", "opt-projected-after"])
def test_logits_stay_what_they_were(name: str, tmp_path: Path) -> None:
    """Read of 2 x 2 ranks, as a graph and as an engine; transformers' own, tolerance as in test_llama.py."""
    case = KNOWN[name]
    source = models.checkpoint(name)
    folder = convert(source, tmp_path / "ranks", tp_size=2, pp_size=2, dtype="float32")
    expected = np.stack(models.reference(source, case, "float32"))
    model = read_model(folder, dtype="float32", **LIMITS)
    got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5)
    bundle = trtc.compile(folder, tmp_path / "engine", target="onnx", dtype="float32", **LIMITS)
    assert bundle.source.format == "trtllm"
    np.testing.assert_allclose(models.engine_logits(bundle, case), expected, rtol=0, atol=5e-5)


def test_the_tensors_of_a_rank(tmp_path: Path) -> None:
    """Names, shapes and parts, by hand: 4 heads of 16 over 2 groups of keys, 1009 words for 2 ranks."""
    source = models.checkpoint("gqa-tied-head16")
    hf = models.torch_tensors(source)
    folder = convert(source, tmp_path / "ranks", tp_size=2, pp_size=2, dtype="float32")
    first, last = (models.torch_tensors(folder / f"rank{n}.safetensors") for n in (0, 3))
    layer = "transformer.layers.0"
    own = {
        "attention.qkv.weight": (64, 32), "attention.dense.weight": (32, 32), "mlp.fc.weight": (24, 32),
        "mlp.gate.weight": (24, 32), "mlp.proj.weight": (32, 24), "input_layernorm.weight": (32,),
        "post_layernorm.weight": (32,),
    }   # fmt: skip
    shapes = {f"{layer}.{name}": shape for name, shape in own.items()}
    assert {k: tuple(v.shape) for k, v in first.items()} == {"transformer.vocab_embedding.weight": (1009, 32), **shapes}
    assert {k: tuple(v.shape) for k, v in last.items()} == {
        **shapes, "transformer.ln_f.weight": (32,), "lm_head.weight": (505, 32)
    }   # fmt: skip
    theirs = "model.layers.1.self_attn"   # the second stage's layer 0, its second rank
    q, k, v = (hf[f"{theirs}.{part}_proj.weight"] for part in "qkv")
    qkv = models.torch.cat([q[32:], k[16:], v[16:]])
    assert models.torch.equal(last[f"{layer}.attention.qkv.weight"], qkv.float())
    assert models.torch.equal(last[f"{layer}.attention.dense.weight"], hf[f"{theirs}.o_proj.weight"][:, 32:].float())
    words = hf["model.embed_tokens.weight"][505:].float()
    assert models.torch.equal(last["lm_head.weight"][:504], words) and not last["lm_head.weight"][504:].any()


def test_the_tensors_of_experts(tmp_path: Path) -> None:
    """The halves w3 and w1 of each expert, each divided by itself; the router in float32, and whole."""
    source = models.checkpoint("mixtral")
    hf = models.torch_tensors(source)
    folder = convert(source, tmp_path / "ranks", tp_size=2)
    tensors = models.torch_tensors(folder / "rank1.safetensors")
    theirs, ours, torch = "model.layers.1.block_sparse_moe", "transformer.layers.1.mlp", models.torch
    experts = [[hf[f"{theirs}.experts.{n}.{part}.weight"] for part in ("w3", "w1", "w2")] for n in range(4)]
    fc = torch.stack([torch.cat([w3[24:], w1[24:]]) for w3, w1, _ in experts])
    assert torch.equal(tensors[f"{ours}.fc.weight"], fc) and f"{ours}.gate.weight" not in tensors
    assert torch.equal(tensors[f"{ours}.proj.weight"], torch.stack([w2[:, 24:] for _, _, w2 in experts]))
    assert tensors[f"{ours}.router.weight"].dtype == torch.float32
    assert torch.equal(tensors[f"{ours}.router.weight"], hf[f"{theirs}.gate.weight"].float())
    moe = json.loads((folder / "config.json").read_text())["moe"]
    assert moe == {"num_experts": 4, "top_k": 2, "normalization_mode": 1}


@pytest.mark.parametrize(("axis", "shape"), [(0, (505, 32)), (1, (1009, 16))])
def test_parallel_embedding(axis: int, shape: tuple[int, int], tmp_path: Path) -> None:
    source = models.checkpoint("gqa-tied-head16")
    options: dict[str, Any] = {"use_parallel_embedding": True, "embedding_sharding_dim": axis}
    folder = convert(source, tmp_path / "ranks", tp_size=2, **options)
    assert models.torch_tensors(folder / "rank1.safetensors")["transformer.vocab_embedding.weight"].shape == shape
    config = json.loads((folder / "config.json").read_text())
    assert (config["use_parallel_embedding"], config["embedding_sharding_dim"]) == (True, axis)
    back = contents(convert(folder, tmp_path / "back"))
    assert back == contents(convert(source, tmp_path / "plain"))


def test_fewer_key_heads_than_ranks(tmp_path: Path) -> None:
    """Each is had by as many ranks in a row: one key head of 20 over 4 ranks."""
    source = models.checkpoint("mqa-bias-head20")
    folder = convert(source, tmp_path / "ranks", tp_size=4)
    biases = [models.torch_tensors(folder / f"rank{n}.safetensors") for n in range(4)]
    keys = [tensors["transformer.layers.1.attention.qkv.bias"][20:40] for tensors in biases]
    hf = models.torch_tensors(source)["model.layers.1.self_attn.k_proj.bias"]
    assert all(models.torch.equal(key, hf) for key in keys)


def test_both_forms_of_one_model_give_the_same_checkpoint(tmp_path: Path) -> None:
    if not (MODELS / "stories260K-meta").is_dir():
        pytest.skip("there is no stories260K here")
    hf, meta = (
        convert(MODELS / name, tmp_path / name, tp_size=2, pp_size=2) for name in ("stories260K", "stories260K-meta")
    )
    same = {"config.json", *(f"rank{n}.safetensors" for n in range(4)), "tokenizer.model"}
    assert all((hf / name).read_bytes() == (meta / name).read_bytes() for name in same)
    texts: list[list[int]] = []
    for folder in (hf, meta):
        trtc.compile(folder, tmp_path / "engine", target="onnx", dtype="float32")
        made = trtc.load(tmp_path / "engine").generate([[1, 403, 407, 261]], max_new_tokens=60)
        texts.append(made[0].token_ids)
    assert texts[0] == texts[1] and len(texts[0]) == 60


def test_dtypes(tmp_path: Path) -> None:
    """Rounded as torch rounds; the model's own where nothing is said."""
    source = models.checkpoint("mha")
    for name, dtype in models.DTYPES.items():
        folder = convert(source, tmp_path / name, dtype=name)
        assert json.loads((folder / "config.json").read_text())["dtype"] == name
        tensor = models.torch_tensors(folder / "rank0.safetensors")["transformer.layers.1.mlp.proj.weight"]
        hf = models.torch_tensors(source)["model.layers.1.mlp.down_proj.weight"]
        assert models.torch.equal(tensor, hf.to(dtype))
    assert contents(convert(source, tmp_path / "own")) == contents(tmp_path / "float32")


def test_other_programs_read_the_files(tmp_path: Path) -> None:
    """safetensors' own reader, which checks that tensors fill the file without a gap."""
    folder = convert(models.checkpoint("yarn-mscale-sharded"), tmp_path / "ranks", pp_size=2)
    for rank in range(2):
        assert load(folder / f"rank{rank}.safetensors")
        header = (folder / f"rank{rank}.safetensors").read_bytes()[:8]
        assert struct.unpack("<Q", header)[0] % 8 == 0


@pytest.mark.parametrize("source", ["gqa-tied-head16", "gpt2"])
def test_what_lies_as_it_is_wanted_is_copied_by_the_kernel(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the same bytes as where the file system cannot; transposed and divided weights never can."""
    done: list[int] = []
    copy = os.copy_file_range

    def counted(*arguments: Any) -> int:
        done.append(copy(*arguments))
        return done[-1]

    def refused(*_: Any) -> int:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "copy_file_range", counted)
    size = trtc.convert(models.checkpoint(source), tmp_path / "copied", tp_size=2).bytes
    assert size / 10 < sum(done) < size
    monkeypatch.setattr(os, "copy_file_range", refused)
    convert(models.checkpoint(source), tmp_path / "written", tp_size=2)
    assert contents(tmp_path / "copied") == contents(tmp_path / "written")


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
@pytest.mark.parametrize(("model", "layers"), [("Llama", 4), ("Mixtral", 1)])
def test_memory_is_a_few_tensors_whatever_the_model_is(model: str, layers: int, dtype: str, tmp_path: Path) -> None:
    """What NumPy allocates for copies that are joined by rows: nothing; for what is cast or joined otherwise: a block
    a worker, though all experts of a layer are one tensor."""
    config = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": layers, "num_attention_heads": 8}
    source = models.write(Case("big", config, model=model), tmp_path / "model")
    size = (source / "model.safetensors").stat().st_size
    tracemalloc.start()
    try:
        trtc.convert(source, tmp_path / "ranks", tp_size=2, dtype=dtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 60e6 and peak < 10e6


def test_the_source_is_read_once_for_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank's part of a tensor is written before the next tensor of the file is looked at."""
    read, looked_at = SafetensorsSource.__getitem__, list[int]()

    def recorded(source: SafetensorsSource, key: str) -> Any:
        looked_at.append(source.entries[key].start)
        return read(source, key)

    monkeypatch.setattr(SafetensorsSource, "__getitem__", recorded)
    trtc.convert(models.checkpoint("mha"), tmp_path / "ranks", tp_size=4, workers=1)
    embedding_and_head, written = looked_at[:2], looked_at[2:]   # those are compared at first
    assert len(set(embedding_and_head)) == 2 and len(written) > 50 and written == sorted(written)


def test_what_is_written_goes_to_the_disk_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before all is written, and all of it in the end."""
    sync, sizes, begun = os.fsync, list[int](), Event()

    def synced(file: int) -> None:
        sizes.append(os.fstat(file).st_size)
        begun.set()
        sync(file)

    def wait(phase: str, done: int, total: int) -> None:
        assert not total / 2 < done < total or begun.wait(60)

    monkeypatch.setattr(os, "fsync", synced)
    done = trtc.convert(models.checkpoint("mha"), tmp_path / "ranks", tp_size=2, progress=wait)
    assert sum(sizes[-2:]) == done.bytes
