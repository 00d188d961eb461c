"""What targets take, in words, and docs/targets.md, which is written from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import LIMITS, checkpoint
from tensorrt_standin import standin

from trtc.backend.explain import answer, explained, page
from trtc.backend.targets_document import BEGIN, END, document, kept
from trtc.backend.tensorrt import target as records
from trtc.compiler import plan, read_model
from trtc.ir import IRError, bf16, f16
from trtc.ir.ops import Attention, Experts, Input, KVCacheUpdate, Neg, PackedAttention, RMSNorm
from trtc.ir.target import target

PAGE = Path(__file__).parents[2] / "docs" / "targets.md"


def test_the_page_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert document(kept(text)) == text, "run `trtc targets --write docs/targets.md`"


def test_what_was_executed_is_kept() -> None:
    table = "\n| a | b | c | d |\n"
    assert kept(document(table)) == table and kept("") != "" and kept(f"{BEGIN}{END}") == ""


def test_versions_of_one_answer_stand_together() -> None:
    rows = dict(explained(KVCacheUpdate, ["tensorrt"]))
    assert list(rows) == ["tensorrt 8.6 to 10.14", "tensorrt 10.15 to 11.4"]
    assert rows["tensorrt 8.6 to 10.14"] == (
        "decomposes: it has no KV cache update layers, which TensorRT has from 10.15 on"
    )
    assert rows["tensorrt 10.15 to 11.4"].startswith("native if the cache is an input")


ANSWERS = [
    ("tensorrt:11.4", RMSNorm, "decomposes: it has no such layer"),
    ("tensorrt-rtx:1.7", PackedAttention, "refused: it has no attention over packed tokens: its builder knows"),
    ("tensorrt:11.0/sm90", Experts, "decomposes: mixture-of-experts layers need a GPU of sm_100 or sm_103 or"),
    ("tensorrt:11.0/sm100", Experts, "native if its operands are f32 or f16 or bf16 or i32"),
    ("tensorrt:10.13", Attention, "decomposes: it has no attention layers, which TensorRT has from 10.14 on"),
    ("tensorrt:11.0", Input, "native always"),
]


@pytest.mark.parametrize(("name", "kind", "words"), ANSWERS)
def test_answers(name: str, kind: type[Neg], words: str) -> None:
    assert answer(target(name), kind).startswith(words)


def test_a_page_has_passes_ops_and_workarounds() -> None:
    text = page(target("tensorrt:10.14"))
    assert text.startswith("tensorrt:10.14\n") and "choose-next{count=64}, split-attention" in text
    assert "\nwhole-caches: " in text and "\nweak-types: " not in text and "\n  attention\n" in text
    assert "bf16 computed in f32" in page(target("onnx"))


def test_the_gpu_may_be_named() -> None:
    assert str(target("tensorrt:10.16/sm89")) == "tensorrt:10.16/sm89"
    old = target("tensorrt:10.16/sm75")
    assert bf16 not in old.floats and f16 in old.floats
    assert old.refuses(Neg(Input("x", bf16["B"]))) == "x is bf16, but must be f32 or f16"
    with pytest.raises(IRError, match="`big` is no compute capability"):
        target("tensorrt:10.16/big")


def test_a_newer_version_is_asked_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def module(product: str) -> object:
        return standin("10.15")   # of a product that has lost some layers again

    def version(product: str) -> str:
        return "12.0.1"

    monkeypatch.setattr(records, "installed_version", version)
    monkeypatch.setattr(records, "module", module)
    to = target("tensorrt")
    assert str(to) == "tensorrt:12.0.1" and to.fixed == ("M",)
    q = Input("q", f16["B", 4, "S", 64])
    assert to.refuses(Attention(q, q, q)) == (
        "TensorRT 11.4 has no attention over lengths: its module has no IAttention.key_value_lengths"
    )


def test_a_model_in_what_a_target_does_not_compute_in_is_refused() -> None:
    model = read_model(checkpoint("mha"), dtype="bfloat16", **LIMITS)
    with pytest.raises(IRError) as error:
        plan(model, target="tensorrt:8.6")
    assert str(error.value).startswith(
        "error: tensorrt:8.6 computes in f32, f16, but layers.0.key_cache is bf16\n  = help: --dtype float16\n"
    )
