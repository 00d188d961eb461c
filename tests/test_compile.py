"""``trtc.compile`` in Python: every argument, and text that is token for token that of transformers."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from models import Case

import trtc
from trtc.backend.backends import default_target
from trtc.errors import TrtcError
from trtc.passes import PASSES
from trtc.passes.pipeline import Step
from trtc.runtime.bundle import EngineBundle

jsonschema: Any = import_module("jsonschema")
ROOT = Path(__file__).resolve().parents[1]
MODELS, SHAKESPEARE = ROOT.parent / "shared/models", ROOT / "examples/shakespeare"
SMALL: dict[str, Any] = {"target": "onnx", **models.LIMITS}
PASS = '''
"""A pass that counts how often it ran."""

from trtc.ir import Graph
from trtc.passes import Pass

RUNS = []


class Counted(Pass, name="counted-{}"):
    def run(self, graph: Graph) -> Graph:
        RUNS.append(graph)
        return graph
'''


def compiled(name: str, out: Path, **options: Any) -> EngineBundle:
    return trtc.compile(models.checkpoint(name), out, **{**SMALL, **options})


def error_of(name: str, out: Path, **options: Any) -> str:
    with pytest.raises(TrtcError) as error:
        compiled(name, out, **options)
    assert not out.exists()
    return str(error.value).removeprefix("error: ")


@pytest.mark.parametrize("folder", [MODELS / "stories260K", SHAKESPEARE], ids=lambda folder: folder.name)
def test_greedy_text_is_that_of_transformers(folder: Path, tmp_path: Path) -> None:
    """All golden prompts in one batch; then four of different lengths, and 200 new tokens."""
    if not (folder / "GOLDEN.json").is_file():
        pytest.skip(f"there is no {folder.name} here")
    golden: list[dict[str, Any]] = json.loads((folder / "GOLDEN.json").read_text(encoding="utf-8"))
    trtc.compile(folder, tmp_path / "engine", target="onnx", dtype="float32")
    engine = trtc.load(tmp_path / "engine")
    new = [one.get("new_ids") or one["greedy_new_ids"] for one in golden]
    made = engine.generate([one["prompt"] for one in golden], max_new_tokens=len(new[0]))
    for one, ids, completion in zip(golden, new, made, strict=True):
        assert (completion.prompt_token_ids, completion.token_ids) == (one["input_ids"], ids)
        assert one["text"] in (completion.text, one["prompt"] + completion.text)
    by_length = {len(one["input_ids"]): one["input_ids"] for one in golden if one.get("min_top2_logit_gap", 1) > 0.01}
    prompts = [by_length[n] for n in sorted(by_length)[:4]]
    assert len(prompts) == 4
    completions = engine.generate(prompts, max_new_tokens=200)
    assert [c.token_ids for c in completions] == greedy(folder, prompts, 200)


@pytest.mark.parametrize("name", ["gpt2-shakespeare", "opt-shakespeare", "bloom-shakespeare", "capp-gpt"])
def test_greedy_tokens_of_other_families_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Trained models, all golden prompts in one batch."""
    if not (MODELS / name / "GOLDEN.json").is_file():
        pytest.skip(f"there is no {name} here")
    golden: list[dict[str, Any]] = json.loads((MODELS / name / "GOLDEN.json").read_text(encoding="utf-8"))
    trtc.compile(MODELS / name, tmp_path / "engine", target="onnx", dtype="float32")
    new = [one["greedy_new_ids"] for one in golden]
    made = trtc.load(tmp_path / "engine").generate([one["prompt"] for one in golden], max_new_tokens=len(new[0]))
    assert [c.prompt_token_ids for c in made] == [one["input_ids"] for one in golden]
    assert [c.token_ids for c in made] == new


def test_learned_positions_bound_the_sequence(tmp_path: Path) -> None:
    folder = models.write(Case("gpt2-positions", model="GPT2", head="LMHeadModel"), tmp_path / "model")
    with pytest.raises(TrtcError) as error:
        trtc.compile(folder, tmp_path / "engine", target="onnx", max_seq_len=65)
    assert str(error.value) == (
        "error: max_seq_len is 65, but must not exceed 64, the positions that the model has learned"
    )


def greedy(folder: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
    """transformers' likeliest tokens, each prompt by itself."""
    torch = models.torch
    model = models.transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)   # quicker for a model so small
    try:
        return [
            model.generate(
                x := torch.tensor([ids]), attention_mask=torch.ones_like(x), max_new_tokens=count, do_sample=False
            )[0, len(ids) :].tolist()
            for ids in prompts
        ]
    finally:
        torch.set_num_threads(threads)


def test_the_bundle_is_what_its_schema_says(tmp_path: Path) -> None:
    bundle = compiled("yarn-mscale-sharded", tmp_path / "engine", dtype="float16")
    document = json.loads((tmp_path / "engine/engine.json").read_text())
    schema = json.loads(files("trtc.runtime").joinpath("engine.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
    for name, entry in document["files"].items():
        content = (tmp_path / "engine" / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert set(document["files"]) == {"rank0/model.onnx", "rank0/weights.bin", "graph.trtc"}
    assert EngineBundle.open(tmp_path / "engine") == bundle
    assert (bundle.dtype, bundle.vocab_size, bundle.source.architecture) == ("float16", 1009, "LlamaForCausalLM")
    assert (bundle.cache.layers, bundle.cache.kv_heads, bundle.cache.head_size, bundle.cache.dtype) == (2, 4, 8, "f32")
    assert bundle.cache.bytes_per_token == 2 * 2 * 4 * 8 * 4
    assert bundle.bounds == {"B": (1, 4), "S": (1, 40), "M": (1, 48)}
    assert vars(bundle.limits) == models.LIMITS
    assert bundle.model == json.loads((models.checkpoint("yarn-mscale-sharded") / "config.json").read_text())
    assert document["generation"] == {"bos_token_id": 1, "eos_token_ids": [2], "pad_token_id": None}


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Also in another process, whose hashes of strings are others, and with another number of threads."""
    for number, threads in (("1", 1), ("2", 4)):
        code = (
            "import sys, trtc; trtc.compile(sys.argv[1], sys.argv[2], target='onnx', max_seq_len=48, "
            f"dtype='bfloat16', threads={threads})"
        )
        command = [sys.executable, "-c", code, str(models.checkpoint("yarn-mscale-sharded")), str(tmp_path / number)]
        subprocess.run(command, check=True, cwd=ROOT, env={"PYTHONHASHSEED": number, "PYTHONPATH": str(ROOT)})
    first, second = (json.loads((tmp_path / n / "engine.json").read_text()) for n in "12")
    assert first == second


def test_tokenizer_files_come_along(tmp_path: Path) -> None:
    bundle = trtc.compile(SHAKESPEARE, tmp_path / "engine", target="onnx", max_seq_len=64)
    assert bundle.tokenizer == "tokenizer.json" and bundle.dtype == "float16"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (bundle.path / name).read_bytes() == (SHAKESPEARE / name).read_bytes()


def test_an_engine_is_replaced_whole(tmp_path: Path) -> None:
    compiled("mha", tmp_path / "engine")
    (tmp_path / "engine/stray").write_text("x")
    before = (tmp_path / "engine/engine.json").read_bytes()
    folder = models.write(models.CASES["mha"], tmp_path / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(TrtcError):
        trtc.compile(folder, tmp_path / "engine", **SMALL)
    assert (tmp_path / "engine/engine.json").read_bytes() == before
    compiled("yarn", tmp_path / "engine")
    assert not (tmp_path / "engine/stray").exists()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["engine", "model"]


def test_what_is_no_engine_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.txt").write_text("x")
    with pytest.raises(TrtcError, match="exists and is no engine"):
        compiled("mha", tmp_path / "thesis")
    assert (tmp_path / "thesis/chapter1.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, (8, 64, 64)),
        ({"max_seq_len": 32}, (8, 32, 32)),
        ({"max_seq_len": 100, "max_input_len": 10, "max_batch_size": 1}, (1, 10, 100)),   # rope goes on beyond 64
        ({"max_input_len": 20}, (8, 20, 64)),
    ],
)
def test_limits(given: dict[str, Any], limits: tuple[int, int, int], tmp_path: Path) -> None:
    bundle = trtc.compile(models.checkpoint("mha"), tmp_path / "engine", target="onnx", **given)
    assert tuple(vars(bundle.limits).values()) == limits
    assert bundle.bounds == dict(zip("BSM", ((1, n) for n in limits), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0, but must be at least 1"),
        (
            {"max_seq_len": 2**31},
            "max_seq_len is 2147483648, but must be at most 2147483647, as sizes are 32-bit integers",
        ),
        ({"max_seq_len": -5}, "max_seq_len is -5, but must be at least 1"),
        ({"max_input_len": 49}, "max_input_len is 49, but must not exceed max_seq_len, 48"),
        ({"dtype": "float61"}, (
            "dtype is float61, but must be one of float32, float16, bfloat16\n  = help: did you mean `float16`?"
        )),
        ({"dtype": "int4"}, "dtype is int4, but must be one of float32, float16, bfloat16"),
        ({"target": "onxx"}, "unknown target `onxx`\n  = help: did you mean `onnx`?"),
        ({"passes": "canonicalise"}, (
            "unknown pass `canonicalise`\n --> <pipeline>:1:1\n  |\n1 | canonicalise,lower{target=onnx:VERSION}\n"
            "  | ^^^^^^^^^^^^\n  = help: did you mean `canonicalize`?"
        )),
        ({"load": ["none.py"]}, (
            "none.py is no Python file\n  = help: --load takes a file of passes, such as my_pass.py"
        )),
    ],
)   # fmt: skip
def test_options_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    version = import_module("onnxruntime").__version__
    assert error_of("mha", tmp_path / "engine", **options).replace(f"onnx:{version}", "onnx:VERSION") == message


@pytest.mark.parametrize("passes", ["", "cse", "canonicalize,fuse-swiglu", "merge-projections", "fuse,fuse"])
@pytest.mark.parametrize("name", ["biases-gelu-head10", "llama3-head64-old"])
def test_every_pipeline_gives_the_same_logits(name: str, passes: str, tmp_path: Path) -> None:
    case = models.CASES[name]
    bundle = compiled(name, tmp_path / "engine", passes=passes, dtype="float32")
    want = np.stack(models.reference(models.checkpoint(name), case, "float32"))
    np.testing.assert_allclose(models.engine_logits(bundle, case), want, atol=5e-5)   # f32, sums in another order
    assert bundle.pipeline.endswith("canonicalize,cse")
    assert "fuse" in passes or bundle.pipeline.startswith(f"{passes},rewrite-plugins{{target=onnx:".lstrip(","))


def test_passes_of_a_file_and_observers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PASS.replace("{}", "once"))
    steps: list[Step] = []
    bundle = compiled(
        "mha", tmp_path / "engine", load=[tmp_path / "mine.py", str(tmp_path / "mine.py")],
        passes="counted-once,fuse,counted-once", observers=[steps.append],
    )   # fmt: skip
    module = sys.modules[PASSES["counted-once"].__module__]
    assert len(module.RUNS) == 2
    assert [s.number for s in steps] == list(range(1, len(steps) + 1))
    assert ",".join(str(s.by) for s in steps) == bundle.pipeline
    assert all(a.after is b.before for a, b in pairwise(steps))
    assert (tmp_path / "engine/graph.trtc").read_text() == f"{steps[-1].after}\n"


def test_all_logits(tmp_path: Path) -> None:
    bundle = compiled("mha", tmp_path / "engine", all_logits=True)
    logits = next(t for t in bundle.ranks[0].outputs if t.name == "logits")
    assert logits.shape == ("B", "S", 97) and logits.dtype == "f32"


def test_progress_is_of_bytes_and_phases(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def tell(phase: str, done: int, total: int) -> None:
        told.append((phase, done, total))

    bundle = compiled("yarn", tmp_path / "engine", progress=tell)
    weights = [(done, total) for phase, done, total in told if phase == "weights"]
    size = bundle.files["rank0/weights.bin"].bytes
    assert weights == sorted(weights) and weights[-1] == (size, size) and {t for _, t in weights} == {size}
    assert [t for t in told if t[0] != "weights"] == [("model", 0, 1), ("model", 1, 1)]


def test_the_target_is_the_best_that_builds_and_runs_here(tmp_path: Path) -> None:
    bundle = compiled("mha", tmp_path / "engine", target="")
    assert bundle.target.name == default_target()


def test_an_interrupted_compile_leaves_nothing(tmp_path: Path) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiled("mha", tmp_path / "engine", progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Path]:
    """A copy of a checkpoint, to be changed."""
    yield shutil.copytree(models.checkpoint("mha"), tmp_path / "model")


def test_a_truncated_checkpoint_says_so(damaged: Path, tmp_path: Path) -> None:
    file = damaged / "model.safetensors"
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    last = max((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"][1])
    file.write_bytes(content[:-1])
    with pytest.raises(TrtcError) as error:
        trtc.compile(damaged, tmp_path / "engine", **SMALL)
    assert str(error.value) == (
        f"error: model.safetensors has {len(content) - 1} bytes, but tensor {last} ends at byte {len(content)}\n"
        "  = help: the file is cut short or is no safetensors file; fetch it again"
    )


def test_a_key_that_is_wrong_is_named(damaged: Path, tmp_path: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    changed = copy.deepcopy(config)
    del changed["num_attention_heads"]
    (damaged / "config.json").write_text(json.dumps(changed))
    with pytest.raises(TrtcError) as error:
        trtc.compile(damaged, tmp_path / "engine", **SMALL)
    assert str(error.value) == "error: config.json: num_attention_heads is missing"
