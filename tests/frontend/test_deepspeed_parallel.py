"""DeepSpeed's model-parallel ranks and pipelines: the same model as in Hugging Face's form.

The ranks' parts are cut as deepspeed/module_inject/layers.py does it, and told in ``universal_checkpoint_info``;
pipelines are laid out as transformers 4's convert_bloom_original_checkpoint_to_pytorch.py reads them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from deepspeed_files import partitions
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS, Case
from sources import damaged, same_weights

import trtc
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.deepspeed_pipeline import PipelineSource
from trtc.frontend.sources.deepspeed_rules import read_rules
from trtc.ir.types import f32

torch: Any = import_module("torch")
load_file: Any = import_module("safetensors.torch").load_file
CASE = Case("parallel", {"num_key_value_heads": 4, "vocab_size": 96})
MERGED = Case("parallel-halves", {
    "num_key_value_heads": 4, "vocab_size": 96, "pad_token_id": 0, "sliding_window": None,
}, model="Phi3")   # fmt: skip
ROW = [r".*o_proj\.weight", r".*down_proj\.weight"]
SAME = [r".*norm\.weight"]
INFO = {
    "universal_checkpoint_version": 0.2, "original_vocab_size": 96, "parameter_with_row_parallelism_patterns": ROW,
    "vocabulary_parameter_patterns": [r"model\.embed_tokens\.weight", r"lm_head\.weight"],
}   # fmt: skip


SPLIT = {**INFO, "tp_replicated_parameter_patterns": SAME}


def cut(name: str, tensor: Any, ranks: int, halves: bool) -> list[Any]:
    """Each rank's part of a parameter."""
    if name.endswith("norm.weight") or (halves and "qkv_proj" in name):
        return [tensor] * ranks
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return list(tensor.chunk(ranks, 1))
    if "gate_up_proj" in name:
        return [torch.cat(pair) for pair in zip(*(half.chunk(ranks) for half in tensor.chunk(2)), strict=True)]
    if name in ("model.embed_tokens.weight", "lm_head.weight"):   # rows of no word at the end
        tensor = torch.cat([tensor, torch.full((4 * ranks, tensor.shape[1]), torch.nan, dtype=tensor.dtype)])
    return list(tensor.chunk(ranks))


def write(case: Case, folder: Path, stage: int, ranks: int, *, mean: bool = False) -> tuple[Path, Path]:
    """The model in both forms; a run of so many model-parallel ranks, each of two data-parallel ones."""
    hf, run = models.write(case, folder / "hf"), folder / "run"
    step = run / "global_step3"
    step.mkdir(parents=True)
    (run / "latest").write_text("global_step3")
    (run / "config.json").write_bytes((hf / "config.json").read_bytes())
    tensors, halves = load_file(hf / "model.safetensors"), case is MERGED
    every = {name: cut(name, tensor, ranks, halves) for name, tensor in tensors.items()}
    info: dict[str, Any] = {**INFO, ("parameter_to_average_patterns" if mean else "tp_replicated_parameter_patterns"): [
        *SAME, *([r".*qkv_proj\.weight"] if halves else []),
    ], "parameter_with_2_sub_params_cat_dim_0": [r".*gate_up_proj\.weight"] if halves else []}   # fmt: skip
    for rank in range(ranks):
        own = {name: parts[rank].clone() for name, parts in every.items()}
        groups = [{k: v for k, v in own.items() if (v.ndim > 1) is matrices} for matrices in (True, False)]
        for data in range(2 if stage == 3 else 1):
            name = f"zero_pp_rank_{data}_mp_rank_{rank:02}" if stage == 3 else f"mp_rank_{rank:02}"
            torch.save({
                "module": OrderedDict((k, torch.zeros(0) if stage == 3 else v) for k, v in own.items()),
                "param_shapes": [OrderedDict((k, v.shape) for k, v in g.items()) for g in groups] if stage else None,
                "universal_checkpoint_info": info,
            }, step / f"{name}_model_states.pt")   # fmt: skip
        for data, flat in enumerate(partitions(stage, groups, 2) if stage else []):
            key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
            state = {"partition_count": 2 if stage == 3 else [2, 2], key: flat}
            file = f"zero_pp_rank_{data}_mp_rank_{rank:02}_optim_states.pt"
            torch.save({"optimizer_state_dict": state}, step / file)
    return hf, run


@pytest.mark.parametrize(("stage", "ranks", "mean"), [(0, 2, False), (1, 4, False), (2, 2, True), (3, 2, False)])
@pytest.mark.parametrize("case", [CASE, MERGED], ids=["llama", "halves"])
def test_weights_are_those_of_the_hugging_face_form(
    case: Case, stage: int, ranks: int, mean: bool, tmp_path: Path
) -> None:
    hf, run = (open_checkpoint(folder) for folder in write(case, tmp_path, stage, ranks, mean=mean))
    assert run.format == "deepspeed" and run.config == hf.config and run.dtype == hf.dtype
    same_weights(hf, run)


def test_an_engine_gives_the_logits_of_transformers(tmp_path: Path) -> None:
    hf, run = write(CASE, tmp_path, 2, 2)
    expected = np.stack(models.fresh_reference(hf, CASE, "float32"))
    bundle = trtc.compile(run, tmp_path / "engine", target="onnx", dtype="float32", **LIMITS)
    np.testing.assert_allclose(models.engine_logits(bundle, CASE), expected, rtol=0, atol=2e-4)   # orders of sums


def error_of(folder: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(folder).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(folder), "RUN").removeprefix("error: ")


NOT = "RUN/global_step3 cannot be read as a checkpoint of DeepSpeed: "
RULES: list[tuple[dict[str, Any], str]] = [
    ({}, (
        "RUN/global_step3 has 2 model-parallel ranks, but must have one\n"
        "  = help: their model states have no universal_checkpoint_info, which says how parameters were split; "
        "DeepSpeed's ds_to_universal.py joins them: give the folder of what it writes"
    )),
    ({"autotp_unsupported_parameter_patterns": {"x": "y"}}, (
        f"{NOT}universal_checkpoint_info has autotp_unsupported_parameter_patterns, a way to split parameters that is "
        "not supported"
    )),
    ({"parameter_with_sub_params": [{}]}, f"{NOT}'partition_dim'"),
    ({"parameter_with_sub_params": [{"partition_dim": 2, "shape": [1], "patterns": []}]}, (
        f"{NOT}parameter_with_sub_params has parts along axis 2, but must have them along 0 or 1"
    )),
    ({"parameter_with_sub_params": [{"partition_dim": 0, "shape": [[3, "x"]], "patterns": ["a"]}]}, (
        f"{NOT}parameter_with_sub_params must have the sizes of the parts"
    )),
    ({**SPLIT, "parameter_with_sub_params": [
        {"partition_dim": 0, "shape": [[32, 34, 32], 32], "patterns": [r".*q_proj\.weight"]},
    ]}, "parameter_with_sub_params says 49, but rank 0 has 16 along axis 0"),
    ({**SPLIT, "parameter_with_sub_params": [
        {"partition_dim": 0, "shape": [[16, 16], 32], "patterns": ["q"]},
    ], "sub_param_shard_widths": {"q": [[16]]}}, ""),
    ({"tp_replicated_parameter_patterns": 3}, f"{NOT}tp_replicated_parameter_patterns must be a list of patterns"),
    ({"tp_replicated_parameter_patterns": ["(a+)+b"]}, f"{NOT}(a+)+b is no pattern of names of parameters"),
    ({"tp_replicated_parameter_patterns": ["(a"]}, (
        f"{NOT}(a is no pattern of names of parameters: missing ), unterminated subpattern at position 0"
    )),
    ({"universal_checkpoint_version": 0.2}, (
        "tensor model.embed_tokens.weight is f32[104, 32], but the config asks for f32[96, 32]\n"
        "  = help: the tensors and the config are of different models"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("info", "message"), RULES)
def test_ranks_that_do_not_say_how_they_are_split(info: dict[str, Any], message: str, tmp_path: Path) -> None:
    _, run = write(CASE, tmp_path, 0, 2)
    for file in (run / "global_step3").iterdir():
        torch.save({**torch.load(file, weights_only=False), "universal_checkpoint_info": info}, file)
    if message:
        assert error_of(run) == message
    else:   # of no parameter
        open_checkpoint(run).graph(Limits(2, 8, 16), f32)


def test_projections_in_one_parameter(tmp_path: Path) -> None:
    """Phi-3's merged q, k and v, and gate and up, as AutoTP of DeepSpeed 0.19 cuts them, evenly or not."""
    hf, run = write(MERGED, tmp_path, 0, 2)
    tensors, step = load_file(hf / "model.safetensors"), run / "global_step3"
    merged = {"qkv_proj": ([32, 32, 32], [[16, 16], [24, 8], [16, 16]]), "gate_up_proj": ([48, 48], None)}
    subs: list[Any] = []
    by_rank: dict[str, Any] = {}
    made: list[dict[str, Any]] = [{}, {}]
    for name, tensor in tensors.items():
        kind = next((kind for kind in merged if kind in name), None)
        if not kind:
            continue
        whole, widths = merged[kind]
        pattern = f"^{re.escape(name)}$"
        subs.append({"patterns": [pattern], "shape": [tuple(whole), 32], "partition_dim": 0})
        if widths:
            by_rank[pattern] = widths
        each = widths or [[size // 2] * 2 for size in whole]
        pieces = [part.split(sizes) for part, sizes in zip(tensor.split(whole), each, strict=True)]
        for rank in range(2):
            made[rank][name] = torch.cat([piece[rank] for piece in pieces])
    info: dict[str, Any] = {**INFO, "tp_replicated_parameter_patterns": SAME, "parameter_with_sub_params": subs,
            "sub_param_shard_widths": by_rank, "affine_map": {"version": 1, "params": {}}}   # fmt: skip
    for rank in range(2):
        file = step / f"mp_rank_{rank:02}_model_states.pt"
        state = torch.load(file, weights_only=False)
        torch.save({**state, "module": {**state["module"], **made[rank]}, "universal_checkpoint_info": info}, file)
    same_weights(*(open_checkpoint(path) for path in (hf, run)))


def test_ranks_that_are_missing(tmp_path: Path) -> None:
    _, run = write(CASE, tmp_path, 2, 2)
    file = run / "global_step3/zero_pp_rank_1_mp_rank_01_optim_states.pt"
    file.unlink()
    assert error_of(run).startswith("RUN/global_step3 holds the optimizer states of 1 ranks, but the run had 2")
    (run / "global_step3/zero_pp_rank_0_mp_rank_01_optim_states.pt").unlink()
    assert error_of(run) == (
        "RUN/global_step3 holds the optimizer states of 1 model-parallel ranks, but the model's of 2\n"
        "  = help: fetch the others, too"
    )
    (run / "global_step3/mp_rank_00_model_states.pt").unlink()
    assert error_of(run) == (
        "the file of rank 0 is missing from RUN/global_step3, but mp_rank_01_model_states.pt is there"
    )


SMALL = {"hidden_size": 32, "vocab_size": 96}
BLOOM = Case("pipeline-bloom", {**SMALL, "n_head": 4, "n_layer": 2, "tie_word_embeddings": True}, model="Bloom")
NEOX = Case("pipeline-neox", {**SMALL, "rope_parameters": {
    "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
}, "head_dim": None}, model="GPTNeoX")   # fmt: skip
AVERAGED = ("layernorm.weight", "layernorm.bias", "norm.weight", "norm.bias", "dense.bias", "dense_4h_to_h.bias")


def write_pipeline(case: Case, folder: Path, ranks: int) -> tuple[Path, Path]:
    """The model in both forms: Hugging Face's folder, and a run's, a file a layer and rank."""
    hf, run = models.write(case, folder / "hf"), folder / "run"
    step = run / "global_step9"
    step.mkdir(parents=True)
    (run / "latest").write_text("global_step9")
    (run / "config.json").write_bytes((hf / "config.json").read_bytes())
    first, layers = (3, 2) if case is BLOOM else (2, 2)
    files: dict[int, dict[str, Any]] = {}
    for key, tensor in load_file(hf / "model.safetensors").items():
        if layer := re.fullmatch(r"(?:transformer\.h|gpt_neox\.layers)\.(\d+)\.(.+)", key):
            files.setdefault(first + int(layer[1]), {})[layer[2]] = tensor
        elif "word_embeddings" in key or "embed_in" in key:
            name = "word_embeddings.norm." if "layernorm" in key else "word_embeddings."
            files.setdefault(1 if case is BLOOM else 0, {})[name + key.rpartition(".")[2]] = tensor
        elif "ln_f" in key or "final_layer_norm" in key:
            name = "" if case is BLOOM else "norm."
            files.setdefault(first + layers + 1, {})[name + key.rpartition(".")[2]] = tensor
        elif key == "embed_out.weight":
            files[first + layers + 2] = {"final_linear.weight": tensor}
    for number, tensors in files.items():
        for rank in range(ranks):
            own: dict[str, Any] = {}
            for name, tensor in tensors.items():
                row = name.endswith(("dense_4h_to_h.weight", "self_attention.dense.weight"))
                whole = name.endswith(AVERAGED) or name in ("weight", "bias")
                own[name] = tensor.clone() if whole else tensor.chunk(ranks, 1 if row else 0)[rank].clone()
            torch.save(own, step / f"layer_{number:02}-model_{rank:02}-model_states.pt")
    return hf, run


@pytest.mark.parametrize(("case", "ranks"), [(BLOOM, 1), (BLOOM, 2), (BLOOM, 4), (NEOX, 1)])
def test_pipelines(case: Case, ranks: int, tmp_path: Path) -> None:
    hf, run = (open_checkpoint(folder) for folder in write_pipeline(case, tmp_path, ranks))
    assert run.format == "deepspeed" and run.config == hf.config
    same_weights(hf, run)


def test_pipelines_that_cannot_be_joined(tmp_path: Path) -> None:
    assert error_of(write_pipeline(NEOX, tmp_path / "a", 2)[1]) == (
        "RUN/global_step9 has 2 model-parallel ranks, but must have one\n"
        "  = help: GPT-NeoX's convert_neox_to_hf.py joins them"
    )
    _, run = write_pipeline(BLOOM, tmp_path / "b", 1)
    (run / "config.json").write_bytes((write(CASE, tmp_path / "c", 0, 1)[0] / "config.json").read_bytes())
    assert error_of(run) == (
        "RUN/global_step9 holds a pipeline of LlamaForCausalLM, whose layers have no names\n"
        "  = help: read are those of BloomForCausalLM, GPTNeoXForCausalLM; save the model with save_pretrained instead"
    )
    _, run = write_pipeline(BLOOM, tmp_path / "d", 2)
    (run / "global_step9/layer_03-model_01-model_states.pt").unlink()
    assert error_of(run).startswith("tensor 3.1/input_layernorm.weight is missing from the 7 files of RUN/global_step9")


quick = settings(max_examples=cases(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@pytest.mark.filterwarnings("ignore:invalid escape sequence")   # of a text that pickletools decodes
@given(st.data())
def test_any_damage_of_a_layer_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "layer_01-model_00-model_states.pt"
    torch.save({"word_embeddings.weight": torch.ones(3, 2)}, file)
    file.write_bytes(damaged(file.read_bytes(), data))
    try:
        source = PipelineSource(tmp_path)
    except TrtcError:
        return
    for entry in source.entries.values():
        assert 0 <= entry.start <= entry.stop <= file.stat().st_size


@quick
@given(st.text(alphabet="ab.*+?()[]{}|\\\\d^$1", max_size=24), st.text(alphabet="ab1.", max_size=60))
def test_any_pattern_is_refused_or_quickly_matched(pattern: str, name: str) -> None:
    try:
        rules = read_rules({"tp_replicated_parameter_patterns": [pattern]})
    except ValueError:
        return
    assert rules and rules.join(name) in ("first", "rows")
