"""``trtc convert``: options, the original spellings, what is said."""

from __future__ import annotations

import json
from pathlib import Path

import family_cases_moe
import models
import pytest
from commandline import MODEL, Trtc

from trtc.frontend import SOURCES

assert family_cases_moe.FAMILY_CASES_MOE   # are among those that are known


def test_a_checkpoint_is_converted_and_compiled(trtc_: Trtc, tmp_path: Path) -> None:
    out, engine = tmp_path / "ranks", tmp_path / "engine"
    code, printed, said = trtc_("convert", MODEL, "-o", out, "--tp-size", 2)
    assert (code, printed) == (0, "") and said.startswith(f"checkpoint: {out}, 2 x float16, ")
    assert (out / "tokenizer.json").read_bytes() == (MODEL / "tokenizer.json").read_bytes()
    assert trtc_("compile", out, "-o", engine, "--target", "onnx", "--max-seq-len", 64)[0] == 0
    code, printed, _ = trtc_("run", engine, "--prompt", "God", "--max-new-tokens", 5)
    assert code == 0 and printed.startswith("God save your")


@pytest.mark.parametrize("flags", ["--moe-ep-size 2", "--moe_ep_size 2 --moe_tp_size 1", "--moe-tp-size 1 --cp-size 2"])
def test_experts_whole_on_ranks(flags: str, trtc_: Trtc, tmp_path: Path) -> None:
    out = tmp_path / "ranks"
    code, _, said = trtc_("convert", models.checkpoint("mixtral"), "-o", out, "--tp-size", 2, *flags.split())
    assert code == 0, said
    mapping, cp = json.loads((out / "config.json").read_text())["mapping"], 1 + ("cp" in flags)
    assert mapping == {
        "world_size": 2 * cp, "tp_size": 2, "pp_size": 1, **({"cp_size": 2} if cp > 1 else {}),
        "moe_tp_size": 1, "moe_ep_size": 2,
    }   # fmt: skip
    assert f"checkpoint: {out}, 2 x bfloat16, " in said


@pytest.mark.parametrize(
    "flags",
    [
        "--model_dir SRC --output_dir OUT --tp_size 2 --pp_size 2 --dtype float32 --workers 1",
        "--model_dir SRC --output_dir OUT --world_size 4 --pp_size 2 --dtype auto --load_model_on_cpu",
        "--model-dir SRC --output-dir OUT --world-size 4 --tp-size 2 --pp-size 2 --load_by_shard --source hf",
        "--quant_ckpt_path SRC --output-model-dir OUT --world-size 4 --pp_size 2 --gpt_variant gpt2 --ckpt-type hf",
        "--model_dir SRC --output_dir OUT --tp_size 2 --pp_size 2 --load_nemo_on_gpu --dataset_cache_dir x",
        "SRC -o OUT --tp-size 2 --pp-size 2 --source huggingface",
        "SRC -o OUT --tp-size 2 --pp-size 2 --source modelopt",
        "SRC -o OUT --tp-size 2 --pp-size 2 --source auto",
    ],
)
def test_the_spellings_of_before(flags: str, trtc_: Trtc, tmp_path: Path) -> None:
    places = {"SRC": models.checkpoint("mha"), "OUT": tmp_path / "ranks"}
    code, _, said = trtc_("convert", *(places.get(word, word) for word in flags.split()))
    assert code == 0, said
    mapping = json.loads((tmp_path / "ranks/config.json").read_text())["mapping"]
    assert mapping == {"world_size": 4, "tp_size": 2, "pp_size": 2}


def test_stages_alone(trtc_: Trtc, tmp_path: Path) -> None:
    code, _, said = trtc_("convert", models.checkpoint("mha"), "-o", tmp_path / "ranks", "--pp-size", 2)
    assert code == 0, said
    mapping = json.loads((tmp_path / "ranks/config.json").read_text())["mapping"]
    assert mapping == {"world_size": 2, "tp_size": 1, "pp_size": 2}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("SRC", "-o CKPT is given 0 times, but must be once\n  = help: trtc convert SRC -o CKPT"),
        ("SRC --model_dir SRC -o OUT", "SRC is given 2 times, but must be once\n  = help: trtc convert SRC -o CKPT"),
        ("SRC -o OUT --world_size 4 --tp_size 3", "world_size is 4, but must be tp_size * pp_size, 3 * 1"),
        ("SRC -o OUT --world_size 3 --pp_size 2", "world_size is 3, but must be a multiple of pp_size, 2"),
        ("SRC -o OUT --tp-size 0", "tp_size is 0, but must be at least 1"),
        ("SRC -o OUT --source metta", (
            f"source is metta, but must be one of {', '.join(SOURCES)}\n  = help: did you mean `meta`?"
        )),
    ],
)   # fmt: skip
def test_mistakes(flags: str, message: str, trtc_: Trtc, tmp_path: Path) -> None:
    places = {"SRC": models.checkpoint("mha"), "OUT": tmp_path / "ranks"}
    code, printed, said = trtc_("convert", *(places.get(word, word) for word in flags.split()))
    assert (code, printed, said) == (2, "", f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


QUANTIZES = (
    "options that quantise (use_weight_only and so on) are no options: convert only casts\n"
    "  = help: give a quantised one as SRC, as ModelOpt, AutoAWQ and GPTQ make them; see docs/sources.md"
)
SIZES = (
    "sizes of a model (vocab_size, n_layer and so on) are no options: SRC has them\n"
    "  = help: trtc convert SRC -o CKPT; no checkpoint is made up of sizes alone"
)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--use_weight_only --weight_only_precision int4", QUANTIZES), ("--int8_kv_cache", QUANTIZES),
        ("--smoothquant 0.5 --per_token --per_channel", QUANTIZES), ("--use-fp8", QUANTIZES),
        ("--n_layer 2", SIZES), ("--vocab_size 32000 --rotary_base 1e4", SIZES),
        ("--qformat int4_awq --awq_block_size 64 --calib_size 512", QUANTIZES), ("--kv_cache_dtype int8", QUANTIZES),
        ("--num_medusa_heads 4", "drafts of other models (Medusa, EAGLE) are no option: engines do not check them"),
        ("--use_prompt_tuning", "use_prompt_tuning is no option: engines take no embeddings of prompts"),
        ("--save_config_only", "save_config_only is no option: a checkpoint is written whole"),
        ("--remove_duplicated_kv_heads", (
            "remove_duplicated_kv_heads is no option: heads of keys and values stay as SRC has them"
        )),
        ("--nemo_rename_key a", (
            "nemo_rename_key is no option: the names of NeMo's and of Megatron's tensors are known"
        )),
    ],
)   # fmt: skip
def test_options_of_before_that_are_none(flags: str, message: str, trtc_: Trtc, tmp_path: Path) -> None:
    code, printed, said = trtc_("convert", models.checkpoint("mha"), "-o", tmp_path / "ranks", *flags.split())
    assert (code, printed, said) == (2, "", f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_modelopt_is_both_of_its_forms(trtc_: Trtc, tmp_path: Path) -> None:
    trtc_("convert", models.checkpoint("mha"), "-o", tmp_path / "ranks", "--tp-size", 2)
    code, _, said = trtc_("convert", tmp_path / "ranks", "-o", tmp_path / "again", "--source", "modelopt")
    assert code == 0 and said.startswith(f"checkpoint: {tmp_path / 'again'}, 1 x float32, ")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf", "config.json is missing from SRC"),
        ("huggingface", "config.json is missing from SRC"),
        ("meta", "params.json is missing from SRC"),
        ("nemo", "model_config.yaml is missing from SRC"),
        ("deepspeed", "config.json is missing from SRC"),
        ("jax", "SRC holds no flax_model*.msgpack\n  = help: fetch the weights, too"),
        ("gguf", "SRC holds no *.gguf\n  = help: name the .gguf file itself"),
        ("modelopt", "config.json is missing from SRC"),
        ("trtllm", "config.json is missing from SRC"),
    ],
)
def test_the_form_that_is_named_is_the_one_that_is_looked_for(
    source: str, message: str, trtc_: Trtc, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    code, printed, said = trtc_("convert", tmp_path / "empty", "-o", tmp_path / "ranks", "--source", source)
    assert (code, printed, said) == (2, "", f"error: {message}\n".replace("SRC", str(tmp_path / "empty")))


def test_a_place_without_what_the_named_form_has(trtc_: Trtc, tmp_path: Path) -> None:
    _, _, said = trtc_("convert", tmp_path / "no", "-o", tmp_path / "ranks", "--source", "modelopt")
    note = "help: give the directory that holds config.json, and the weights"
    assert said == f"error: {tmp_path / 'no'} is no directory\n  = {note}\n"


def test_what_json_says(trtc_: Trtc, tmp_path: Path) -> None:
    """Progress is of bytes; what was there is told where one goes on."""
    source, out = models.checkpoint("mha"), tmp_path / "ranks"
    _, _, said = trtc_("convert", source, "-o", out, "--log-json", "--resume")
    events = [json.loads(line) for line in said.splitlines()]
    last = next(e for e in reversed(events) if e["event"] == "progress")
    assert last["phase"] == "weights" and last["done"] == last["total"] == events[-1]["bytes"]
    assert events[-1]["kept"] == 0 and "(0 of them were there)" in events[-1]["message"]
