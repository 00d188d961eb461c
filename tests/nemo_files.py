"""NeMo's archives, written as the published sources of NeMo and Megatron Core lay them out."""

from __future__ import annotations

import io
import json
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import models
from models import Case

torch: Any = import_module("torch")
yaml: Any = import_module("yaml")
load_file: Any = import_module("safetensors.torch").load_file

OWN = {
    "qkv": "self_attention.query_key_value", "o": "self_attention.dense", "fc1": "mlp.dense_h_to_4h",
    "fc2": "mlp.dense_4h_to_h", "before": "input_layernorm", "after": "post_attention_layernorm",
    "layers": "language_model.encoder", "embedding": "language_model.embedding", "out": "language_model.output_layer",
}   # fmt: skip
CORE = {
    "qkv": "self_attention.linear_qkv", "o": "self_attention.linear_proj", "fc1": "mlp.linear_fc1",
    "fc2": "mlp.linear_fc2", "before": "input_layernorm", "after": "pre_mlp_layernorm",
    "layers": "decoder", "embedding": "embedding", "out": "output_layer",
}   # fmt: skip


def parts_of(tensors: dict[str, Any], name: str, count: int, axis: int) -> list[Any]:
    return list(tensors[name].chunk(count, axis)) if name in tensors else []


def grouped(tensors: dict[str, Any], layer: str, kind: str, groups: int, ranks: int) -> list[Any]:
    """Each rank's q, k and v: for each key head the rows of its queries, its own, its values'."""
    q, k, v = (tensors[f"{layer}.self_attn.{p}_proj.{kind}"] for p in "qkv")
    each = [torch.cat([a, b, c]) for a, b, c in zip(q.chunk(groups), k.chunk(groups), v.chunk(groups), strict=True)]
    step = groups // ranks
    return [torch.cat(each[at : at + step]) for at in range(0, groups, step)]


def from_gpt2(tensors: dict[str, Any]) -> dict[str, Any]:
    """GPT-2's tensors under the names of LLaMA's, and as linear layers keep them."""
    made = {
        "model.embed_tokens.weight": tensors["transformer.wte.weight"], "positions": tensors["transformer.wpe.weight"],
        **{f"model.norm.{kind}": tensors[f"transformer.ln_f.{kind}"] for kind in ("weight", "bias")},
    }   # fmt: skip
    names = {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "attn.c_proj": "self_attn.o_proj"}
    for key, tensor in tensors.items():
        if not key.startswith("transformer.h."):
            continue
        _, _, n, part, kind = key.replace("attn.c", "attn_c").replace("mlp.c", "mlp_c").split(".")
        part, tensor = part.replace("_c_", ".c_", 1), tensor.t() if tensor.ndim == 2 else tensor
        if part == "attn.c_attn":
            for name, third in zip("qkv", tensor.chunk(3), strict=True):
                made[f"model.layers.{n}.self_attn.{name}_proj.{kind}"] = third
        else:
            made[f"model.layers.{n}.{names.get(part, part)}.{kind}"] = tensor
    return made


class Writer:
    """A model in NeMo's form, of the tensors of transformers'."""

    def __init__(self, tensors: dict[str, Any], config: dict[str, Any], **form: Any) -> None:
        self.t, self.config, self.form = tensors, config, form
        self.ranks, self.stages = form.get("ranks", 1), form.get("stages", 1)
        self.n = CORE if form.get("core") else OWN
        self.root = form.get("root", "model.")
        self.made: list[list[dict[str, Any]]] = [[{} for _ in range(self.stages)] for _ in range(self.ranks)]

    def put(self, stage: int, name: str, parts: list[Any]) -> None:
        """One part a rank; the same for all where there is but one."""
        for rank in range(self.ranks):
            if parts:
                self.made[rank][stage][f"{self.root}{name}"] = parts[rank % len(parts)].clone()

    def write(self) -> list[list[dict[str, Any]]]:
        last, ranks = self.stages - 1, self.ranks
        words = parts_of(self.t, "model.embed_tokens.weight", ranks, 0)
        self.put(0, f"{self.n['embedding']}.word_embeddings.weight", words)
        positions = parts_of(self.t, "positions", 1, 0)
        self.put(0, f"{self.n['embedding']}.position_embeddings.weight", positions)
        each = self.config["num_hidden_layers"] // self.stages
        for n in range(self.config["num_hidden_layers"]):
            self.layer(n, n // each, f"{self.n['layers']}.layers.{n % each}")
        self.norm(last, f"{self.n['layers']}.final_layernorm.", "model.norm")
        self.put(last, f"{self.n['out']}.weight", parts_of(self.t, "lm_head.weight", ranks, 0))
        if self.stages > 1 and "lm_head.weight" not in self.t:
            self.put(last, "word_embeddings.weight", words)
        return self.made

    def layer(self, n: int, stage: int, name: str) -> None:
        theirs, ranks = f"model.layers.{n}", self.ranks
        groups = self.config.get("num_key_value_heads", self.config["num_attention_heads"])
        fused = self.form.get("fused_norms")
        before = f"{name}.{self.n['qkv']}.layer_norm_" if fused else f"{name}.{self.n['before']}."
        after = f"{name}.{self.n['fc1']}.layer_norm_" if fused else f"{name}.{self.n['after']}."
        self.norm(stage, before, f"{theirs}.input_layernorm")
        experts = f"{theirs}.block_sparse_moe.gate.weight" in self.t
        self.norm(stage, f"{name}.pre_mlp_layernorm." if experts else after, f"{theirs}.post_attention_layernorm")
        if experts:
            self.experts(stage, f"{name}.mlp", f"{theirs}.block_sparse_moe")
        if f"{theirs}.self_attn.q_norm.weight" in self.t:
            for part in "qk":
                self.norm(stage, f"{name}.self_attention.{part}_layernorm.", f"{theirs}.self_attn.{part}_norm")
        for kind in ("weight", "bias"):
            if f"{theirs}.self_attn.q_proj.{kind}" in self.t:
                self.put(stage, f"{name}.{self.n['qkv']}.{kind}", grouped(self.t, theirs, kind, groups, ranks))
            down = [p for p in ("down_proj", "c_proj") if f"{theirs}.mlp.{p}.{kind}" in self.t]
            for ours, key in (("o", "self_attn.o_proj"), *(("fc2", f"mlp.{p}") for p in down)):
                split = (ranks, 1) if kind == "weight" else (1, 0)
                self.put(stage, f"{name}.{self.n[ours]}.{kind}", parts_of(self.t, f"{theirs}.{key}.{kind}", *split))
            self.first(stage, f"{name}.{self.n['fc1']}", theirs, kind)
        if self.form.get("core"):
            for rank in range(ranks):
                self.made[rank][stage][f"{self.root}{name}.mlp.linear_fc1._extra_state"] = None

    def first(self, stage: int, name: str, theirs: str, kind: str) -> None:
        ranks = self.ranks
        plain = parts_of(self.t, f"{theirs}.mlp.c_fc.{kind}", ranks, 0)
        gate, up = (parts_of(self.t, f"{theirs}.mlp.{p}_proj.{kind}", ranks, 0) for p in ("gate", "up"))
        if plain or self.form.get("two_projections"):
            self.put(stage, f"{name}.{kind}", plain or gate)
            self.put(stage, f"{name}_2.{kind}", up)
        elif gate:
            self.put(stage, f"{name}.{kind}", [torch.cat(pair) for pair in zip(gate, up, strict=True)])

    def experts(self, stage: int, name: str, theirs: str) -> None:
        """Megatron Core's router and experts, each an MLP of its own."""
        self.put(stage, f"{name}.router.weight", [self.t[f"{theirs}.gate.weight"]])
        for n in range(self.config["num_local_experts"]):
            gate, up = (parts_of(self.t, f"{theirs}.experts.{n}.{w}.weight", self.ranks, 0) for w in ("w1", "w3"))
            expert = f"{name}.experts.local_experts.{n}"
            self.put(stage, f"{expert}.linear_fc1.weight", [torch.cat(pair) for pair in zip(gate, up, strict=True)])
            down = parts_of(self.t, f"{theirs}.experts.{n}.w2.weight", self.ranks, 1)
            self.put(stage, f"{expert}.linear_fc2.weight", down)

    def norm(self, stage: int, name: str, theirs: str) -> None:
        less = 1 if self.form.get("less_one") else 0
        self.put(stage, f"{name}weight", [self.t[f"{theirs}.weight"] - less])
        if f"{theirs}.bias" in self.t:
            self.put(stage, f"{name}bias", [self.t[f"{theirs}.bias"]])


def yaml_of(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """model_config.yaml of the same model."""
    own = {
        "mcore_gpt": False, "micro_batch_size": 4, "tensor_model_parallel_size": 1, "encoder_seq_length": 64,
        "max_position_embeddings": 64, "num_layers": config["num_hidden_layers"], "hidden_size": config["hidden_size"],
        "ffn_hidden_size": config["intermediate_size"], "num_attention_heads": config["num_attention_heads"],
        "num_query_groups": config.get("num_key_value_heads"), "kv_channels": None, "normalization": "rmsnorm",
        "layernorm_epsilon": 1e-5, "bias": False, "activation": "fast-swiglu", "headscale": False,
        "transformer_block_type": "pre_ln", "share_embeddings_and_output_weights": config["tie_word_embeddings"],
        "position_embedding_type": "rope", "rotary_percentage": 1.0, "rotary_base": 10000, "window_size": None,
        "apply_query_key_layer_scaling": True, "precision": "bf16", "make_vocab_size_divisible_by": 128,
        "tokenizer": {"library": "huggingface", "type": "some/name", "model": None}, "optim": {"betas": [0.9, 0.98]},
    }   # fmt: skip
    return {**own, **changes}


def write_nemo(case: Case, folder: Path, *, raw: dict[str, Any] | None = None, **form: Any) -> tuple[Path, Path]:
    """The model in both forms: Hugging Face's folder and NeMo's archive."""
    hf, archive = models.write(case, folder / "hf"), folder / "model.nemo"
    tensors = load_file(hf / "model.safetensors")
    if form.get("less_one"):   # numbers that lose nothing by it
        tensors = {k: (v * 256).round() / 256 if "norm.weight" in k else v for k, v in tensors.items()}
        import_module("safetensors.torch").save_file(tensors, hf / "model.safetensors", {"format": "pt"})
    config = json.loads((hf / "config.json").read_text())
    if case.model == "GPT2":
        size, layers, heads = (config[key] for key in ("n_embd", "n_layer", "n_head"))
        tensors = from_gpt2(tensors)
        config |= {"num_hidden_layers": layers, "hidden_size": size, "num_attention_heads": heads}
        config |= {"intermediate_size": 4 * size, "tie_word_embeddings": True}
    files = {"model_config.yaml": yaml.safe_dump(yaml_of(config, **(raw or {}))).encode()}
    made = Writer(tensors, config, **form).write()
    for rank, stages in enumerate(made):
        for stage, state in enumerate(stages):
            several = f"tp_rank_{rank:02}_pp_rank_{stage:03}/" if len(stages) > 1 else f"mp_rank_{rank:02}/"
            buffer = io.BytesIO()
            torch.save(state, buffer)
            files[f"{several if len(made) * len(stages) > 1 else ''}model_weights.ckpt"] = buffer.getvalue()
    pack(archive, files)
    return hf, archive


def pack(archive: Path, files: dict[str, bytes], form: int = tarfile.GNU_FORMAT, mode: Any = "w:") -> None:
    with tarfile.open(archive, mode, format=form) as tar:
        tar.addfile(folder_of("."))
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def folder_of(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member
