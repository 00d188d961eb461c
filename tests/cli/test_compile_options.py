"""Every option of TensorRT's builder arrives, in either spelling; those of the graph are in the graph."""

from __future__ import annotations

from dataclasses import fields

import pytest
from commandline import MODEL, Trtc

from trtc.cli._tensorrt import TensorRT

OPTIONS = {
    "packed": ("", "tensorrt:11.4", "True"),
    "max_num_tokens": ("64", "tensorrt:10.9", "64"),
    "opt_num_tokens": ("16", "tensorrt:10.9", "16"),
    "multiple_profiles": ("", "tensorrt:10.9", "True"),
    "weightless": ("", "tensorrt-rtx:1.7", "True"),
    "refit": ("", "tensorrt:10.9", "True"),
    "strip_plan": ("", "tensorrt:10.9", "True"),
    "weight_streaming": ("", "tensorrt:10.9", "True"),
    "version_compatible": ("", "tensorrt:8.6", "True"),
    "hardware_compatible": ("ampere_plus", "tensorrt:8.6", "ampere_plus"),
    "compute_capabilities": ("8.9,12.0", "tensorrt-rtx:1.7", "('8.9', '12.0')"),
    "profiling_verbosity": ("detailed", "tensorrt:8.6", "detailed"),
    "enable_debug_output": ("", "tensorrt:10.9", "True"),
    "optimization_level": ("0", "tensorrt:8.6", "0"),
    "workspace": ("512MiB", "tensorrt:8.6", "536870912"),
    "weight_sparsity": ("", "tensorrt:8.6", "True"),
    "tactic_sources": ("cublas,edge_mask_convolutions", "tensorrt:10.9", "('cublas', 'edge_mask_convolutions')"),
    "input_timing_cache": ("in.cache", "tensorrt:10.9", "in.cache"),
    "output_timing_cache": ("out.cache", "tensorrt:10.9", "out.cache"),
    "monitor_memory": ("", "tensorrt:10.9", "True"),
    "workers": ("3", "tensorrt:10.9", "3"),
}
"""By option: a value, a target that has it, and what a dry run says that the builder is told."""


def test_every_option_is_here() -> None:
    assert set(OPTIONS) == {*(f.name for f in fields(TensorRT)), "workers"}


@pytest.mark.parametrize("spelling", ["_", "-"])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_arrives(name: str, spelling: str, trtc_: Trtc) -> None:
    value, target, told = OPTIONS[name]
    given = [f"--{name.replace('_', spelling)}", *([value] if value else [])]
    code, out, err = trtc_("compile", MODEL, "--dry-run", "--max-seq-len", 64, "--target", target, *given)
    assert (code, err) == (0, "")
    (builder,) = [part for part in out.split("\n\n") if part.startswith("builder\n")]
    assert builder.split(maxsplit=2)[1:] == [name, told]


def test_beams_are_sequences(trtc_: Trtc) -> None:
    limits = ("--max-batch-size", 2, "--max-seq-len", 64, "--max-beam-width", 3)
    _, out, _ = trtc_("compile", MODEL, "--dry-run", "--target", "tensorrt:10.9", *limits)
    assert "limits    6 sequences, 64 new tokens a call" in out and "inputs, B in 1..6" in out


def test_packed_tokens_have_a_profile_of_decode(trtc_: Trtc) -> None:
    options = ("--target", "tensorrt:11.0", "--packed", "--max-num-tokens", 100, "--max-batch-size", 4)
    _, out, _ = trtc_("compile", MODEL, "--dry-run", "--max-seq-len", 64, *options)
    profiles = next(part for part in out.split("\n\n") if part.startswith("profiles\n"))
    assert [line.split() for line in profiles.splitlines()[2:]] == [
        ["0", "1..2..4", "1..50..100"], ["1", "1..2..4", "1..2..4"],
    ]   # fmt: skip
    assert "pack-inputs{max-tokens=100}" in out and "B in 1..4, T in 1..100" in out


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("tensorrt:10.16", "packed is asked for, but TensorRT 10.16 has no attention over packed tokens: "),
        ("tensorrt-rtx:1.7", "packed is asked for, but TensorRT-RTX has no attention over packed tokens\n"),
        ("onnx", "packed: target onnx has no such option, but tensorrt and tensorrt-rtx have\n"),
    ],
)
def test_packed_tokens_where_the_target_cannot(target: str, said: str, trtc_: Trtc) -> None:
    code, out, err = trtc_("compile", MODEL, "--dry-run", "--target", target, "--packed")
    assert (code, out) == (2, "") and err.startswith(f"error: {said}")
