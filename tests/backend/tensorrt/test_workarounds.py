"""Each workaround is done for the versions that need it, and has a test of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tensorrt_api import VERSIONS
from tensorrt_families import target_of
from tensorrt_standin import standin

from trtc.backend.tensorrt.api import FIRST, KNOWN, PROBES, PRODUCTS, RTX, Api, api_of, probed
from trtc.backend.tensorrt.attention_rules import (
    attention_rules,
    mask_all,
    mask_attention,
    pad_heads,
    pad_packed,
    pad_values,
)
from trtc.backend.tensorrt.plugins import FEATURE
from trtc.backend.tensorrt.target import api
from trtc.backend.tensorrt.workarounds import WORKAROUNDS, needs
from trtc.ir.target import target

HERE = Path(__file__).parent
TESTS = {
    "weak-types": ("test_versions.py", "test_every_family_on_a_version_of_each_major_one"),
    "unread-timing-caches": ("test_version_8_6.py", "test_a_timing_cache_that_it_cannot_read_is_left_out"),
    "endless-builds": ("test_version_8_6.py", "test_ctrl_c_leaves_a_build_that_nothing_stops"),
    "whole-caches": ("test_versions.py", "test_layers_that_a_version_has_are_used"),
    "copied-caches": ("test_versions.py", "test_no_cache_is_copied"),
    "no-lengths": ("test_workarounds.py", "test_rules_of_attention_are_those_that_a_version_needs"),
    "one-mask": ("test_rtx_target.py", "test_masks_of_all_kinds_become_one"),
    "one-head-size": ("test_rtx_target.py", "test_values_of_narrower_heads_are_padded"),
    "odd-heads": ("test_rtx_target.py", "test_heads_of_odd_sizes_are_padded"),
    "no-scale": ("test_rtx_lowering.py", "test_the_layers_mean_what_the_op_means"),
    "no-less-or-equal": ("test_rtx_lowering.py", "test_comparisons_with_nan_are_false"),
    "few-greatest": ("test_rtx_target.py", "test_more_than_a_layer_finds_are_refused"),
    "equal-ranks": ("test_rtx_lowering.py", "test_the_layers_mean_what_the_op_means"),
    "first-axis": ("test_layers_beyond_rtx.py", "test_ranks_exchange_what_the_op_says"),
    "same-name": ("test_rtx_lowering.py", "test_layers_of_one_place_have_names_of_their_own"),
    "silent-errors": ("test_rtx_build.py", "test_a_rejected_setting_fails_the_build"),
    "swallowed-exceptions": ("test_rtx_build.py", "test_an_interrupted_build_stops_and_leaves_nothing"),
}


def test_each_has_a_test() -> None:
    assert set(TESTS) == set(WORKAROUNDS)
    for file, name in TESTS.values():
        tree = ast.parse((HERE / file).read_text())
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], f"{file} has no {name}"


@pytest.mark.parametrize("name", WORKAROUNDS)
def test_each_is_for_some_version_and_says_why(name: str) -> None:
    w = WORKAROUNDS[name]
    assert any(w.applies(Api(product, v)) for product in PRODUCTS for v in KNOWN[product])
    assert w.name == name and w.reason and w.done and not w.reason.endswith(".") and not w.done.endswith(".")


RULES = {
    "8.6": (), "10.13": (), "10.14": (mask_all, pad_values, pad_heads), "10.16": (mask_all, pad_values, pad_heads),
    "11.0": (mask_attention, pad_values, pad_heads, pad_packed),
    "11.4": (mask_attention, pad_values, pad_heads, pad_packed),
    "rtx 1.4": (mask_all, pad_values, pad_heads), "rtx 1.5": (mask_attention, pad_values, pad_heads),
}   # fmt: skip


@pytest.mark.parametrize(("version", "rules"), RULES.items())
def test_rules_of_attention_are_those_that_a_version_needs(version: str, rules: tuple[object, ...]) -> None:
    assert attention_rules(api(target(target_of(version)))) == rules


def test_a_workaround_ends_where_its_reason_ends() -> None:
    assert needs(api_of("tensorrt", "10.14"), "whole-caches") and not needs(api_of("tensorrt", "10.15"), "whole-caches")
    assert not needs(api_of("tensorrt-rtx", "1.4"), "whole-caches")
    assert api_of("tensorrt", "12") == api_of("tensorrt", "12.3") == api_of("tensorrt", "11.4")
    assert api_of("tensorrt", "10") == api_of("tensorrt", "10.16")
    assert api_of("tensorrt", "9") == api_of("tensorrt", "8.6")
    assert needs(api_of("tensorrt", "8.6"), "weak-types") and not needs(api_of("tensorrt", "10.0"), "weak-types")


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_have_the_features_whose_names_their_modules_have(version: str) -> None:
    record, found = api(target(target_of(version))), probed(standin(version))
    assert set(PROBES) == set(FIRST)
    named = {feature for feature in FIRST if record.level >= FIRST[feature]}
    assert found == named - ({FEATURE} if record.product == RTX else set[str]())
