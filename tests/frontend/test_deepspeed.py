"""DeepSpeed's training runs: the same model as in Hugging Face's form, whatever the stage and the number of ranks.

``write_run`` lays files out as the published sources of DeepSpeed do; ``data/deepspeed.tar.gz`` holds runs that
DeepSpeed 0.19.8 itself made, and what its own zero_to_fp32 makes of them.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from deepspeed_files import flat, partitions
from fuzz import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import LIMITS, Case
from sources import damaged, same_weights

import trtc
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.sources.deepspeed import DeepSpeedSource
from trtc.frontend.weights import joined
from trtc.ir.materialize import materialize
from trtc.ir.ops import Weight
from trtc.ir.types import f32

torch: Any = import_module("torch")
load_file: Any = import_module("safetensors.torch").load_file
SYSTEM: Any = vars(os)["system"]

CASES = (
    Case("run", {"num_key_value_heads": 2, "vocab_size": 101}),
    Case("run-tied-bf16", {"num_key_value_heads": 1, "tie_word_embeddings": True}, dtype="bfloat16"),
)
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def write_run(case: Case, folder: Path, stage: int, ranks: int = 1, frozen: str = "") -> tuple[Path, Path]:
    """The model in both forms: Hugging Face's folder, and a run's."""
    hf, run = models.write(case, folder / "hf"), folder / "run"
    step = run / "global_step3"
    step.mkdir(parents=True)
    (run / "latest").write_text("global_step3")
    (run / "config.json").write_bytes((hf / "config.json").read_bytes())
    tensors = load_file(hf / "model.safetensors")
    shared = {"lm_head.weight": "model.embed_tokens.weight"} if "lm_head.weight" not in tensors else {}
    still = {k: v for k, v in tensors.items() if frozen and frozen in k}
    trained = {k: v for k, v in tensors.items() if k not in still}
    groups = [{k: v for k, v in trained.items() if (v.ndim > 1) is matrices} for matrices in (True, False)]
    empty = {k: torch.zeros(0) for k in tensors}
    fragments = [{k: flat([v], ranks).chunk(ranks)[rank] if stage == 3 else v for k, v in still.items()}
                 for rank in range(ranks)]   # fmt: skip
    for rank in range(ranks if stage == 3 else 1):
        name = f"zero_pp_rank_{rank}_mp_rank_00" if stage == 3 else "mp_rank_00"
        rounded = {k: v.bfloat16() if stage else v for k, v in tensors.items()}
        torch.save({
            "module": OrderedDict(empty if stage == 3 else rounded),
            "buffer_names": [], "optimizer": None, "shared_params": shared, "ds_version": "0.16.2",
            "param_shapes": [OrderedDict((k, v.shape) for k, v in g.items()) for g in groups] if stage else None,
            "frozen_param_shapes": {k: v.shape for k, v in still.items()} or None,
            "frozen_param_fragments": fragments[rank] or None, "ds_config": {"zero_optimization": {"stage": stage}},
        }, step / f"{name}_model_states.pt")   # fmt: skip
    for rank, own in enumerate(partitions(stage, groups, ranks) if stage else []):
        state: dict[str, Any] = {"args": Namespace(lr=0.1), "random": np.random.RandomState(rank).get_state()}
        if stage == 3:
            state |= {"partition_count": ranks, "fp32_flat_groups": own}
        else:
            state |= {"partition_count": [ranks] * 2, "single_partition_of_fp32_groups": own}
        torch.save({"optimizer_state_dict": state}, step / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return hf, run


LAYOUTS = [(0, 1), (1, 1), (1, 4), (2, 3), (3, 1), (3, 3), (3, 7)]


@pytest.mark.parametrize(("stage", "ranks"), LAYOUTS)
@every_case
def test_weights_are_those_of_the_hugging_face_form(case: Case, stage: int, ranks: int, tmp_path: Path) -> None:
    hf, run = (open_checkpoint(folder) for folder in write_run(case, tmp_path, stage, ranks))
    assert run.format == "deepspeed" and run.dtype == hf.dtype and run.config == hf.config
    assert run.generation == hf.generation
    same_weights(hf, run)


@pytest.mark.parametrize("stage", [2, 3])
def test_frozen_parameters(stage: int, tmp_path: Path) -> None:
    hf, run = (open_checkpoint(folder) for folder in write_run(CASES[0], tmp_path, stage, 2, frozen="layers.0."))
    same_weights(hf, run)


def test_a_parameter_is_read_where_it_lies(tmp_path: Path) -> None:
    """Nothing is copied but by the one join of a tensor's parts."""
    _, run = write_run(CASES[0], tmp_path, 3, 3)
    graph = str(open_checkpoint(run).graph(Limits(2, 8, 16), f32))
    assert '{key = "model.layers.1.mlp.up_proj.weight/2"} : f32[512]' in graph
    source = open_checkpoint(run).source
    assert not source["model.layers.1.mlp.up_proj.weight/2"].flags.owndata


def test_an_engine_gives_the_logits_of_transformers(tmp_path: Path) -> None:
    case = CASES[0]
    hf, run = write_run(case, tmp_path, 3, 2)
    expected = np.stack(models.fresh_reference(hf, case, "float32"))
    bundle = trtc.compile(run, tmp_path / "engine", target="onnx", dtype="float32", **LIMITS)
    assert bundle.source.format == "deepspeed"
    np.testing.assert_allclose(models.engine_logits(bundle, case), expected, rtol=0, atol=2e-4)   # orders of sums
    assert len(next(iter(trtc.load(bundle.path).generate([[3, 5]], max_new_tokens=4))).token_ids) == 4


@pytest.fixture(scope="session")
def made_by_deepspeed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepspeed")
    with tarfile.open(Path(__file__).parent / "data/deepspeed.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize(
    ("run", "step"),
    [("zero1", ""), ("zero2", ""), ("zero3", ""), ("zero2", "_universal"), ("zero3", "_universal")],
)
def test_runs_of_deepspeed_itself(made_by_deepspeed: Path, run: str, step: str) -> None:
    """Three ranks, two groups of parameters, tied embeddings in stage 3; two ranks in f32 in stage 1."""
    source = DeepSpeedSource(made_by_deepspeed / run / f"global_step2{step}")
    expected = torch.load(made_by_deepspeed / run / "zero_to_fp32.pt")
    tensors = joined(source, source.pieces)
    assert len(expected) == 12

    def fetch(key: str, *_: int) -> Weight:
        return Weight(key, source.type(key))

    for key, tensor in expected.items():
        value = tensors(key, tuple(tensor.shape), fetch)
        np.testing.assert_array_equal(materialize(value, source), tensor.numpy(), err_msg=key)


def test_a_universal_checkpoint_is_found_by_its_own_tag(made_by_deepspeed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "latest_universal").write_text("global_step2_universal\n")
    (run / "config.json").write_bytes((made_by_deepspeed / "zero3/config.json").read_bytes())
    (run / "global_step2_universal").symlink_to(made_by_deepspeed / "zero3/global_step2_universal")
    first, second = open_checkpoint(run), open_checkpoint(made_by_deepspeed / "zero3")
    assert (first.source.folder.name, second.source.folder.name) == ("global_step2_universal", "global_step2")
    same_weights(first, second)


def test_weights_in_a_form_of_hugging_face_come_first(tmp_path: Path) -> None:
    hf, run = write_run(CASES[0], tmp_path, 2, 2)
    (run / "model.safetensors").write_bytes((hf / "model.safetensors").read_bytes())
    assert open_checkpoint(run).format == "huggingface"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(CASES[0], tmp_path, 2, 2)[1]


def error_of(folder: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(folder).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(folder), "RUN").removeprefix("error: ")


MODEL, FIRST, SECOND = (
    f"global_step3/{name}.pt"
    for name in (
        "mp_rank_00_model_states", "zero_pp_rank_0_mp_rank_00_optim_states", "zero_pp_rank_1_mp_rank_00_optim_states"
    )
)   # fmt: skip
NOT = "RUN/global_step3 cannot be read as a checkpoint of DeepSpeed: "


def change(file: Path, edit: Callable[[Any], object]) -> None:
    value = torch.load(file, weights_only=False)
    edit(value)
    torch.save(value, file)


EDITS: list[tuple[str, Callable[[Any], object], str]] = [
    (MODEL, lambda s: s.pop("param_shapes"), f"{NOT}'param_shapes'"),
    (MODEL, lambda s: s["param_shapes"].pop(), (
        f"{NOT}its ranks have other groups than the 1 of the parameters' shapes"
    )),
    (MODEL, lambda s: s["param_shapes"][1].update(x=torch.Size([99])), (
        f"{NOT}elements 160..259 are asked for, but there are 160"
    )),
    (MODEL, lambda s: s["param_shapes"][1].popitem(), (
        f"{NOT}the partitions hold 160 elements for group 1, but its parameters take 128"
    )),
    (MODEL, lambda s: s["param_shapes"][1].update(x=3), f"{NOT}a shape must be of whole numbers"),
    (MODEL, lambda s: s.update(shared_params=3), f"{NOT}something else stands where names and values must be"),
    (MODEL, lambda s: s.update(param_shapes=3), f"{NOT}a int stands where a list must be"),
    (FIRST, lambda s: s["optimizer_state_dict"].update(partition_count=3), (
        "RUN/global_step3 holds the optimizer states of 2 ranks, but the run had 3\n  = help: fetch the others, too"
    )),
    (FIRST, lambda s: s["optimizer_state_dict"]["single_partition_of_fp32_groups"].__setitem__(0, None), (
        f"{NOT}a NoneType stands where a tensor must be"
    )),
    (FIRST, lambda s: s["optimizer_state_dict"].update(param_alignment_paddings=[[0] * 16, [-1] * 5]), (
        f"{NOT}a shape must be of whole numbers"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("file", "edit", "message"), EDITS)
def test_states_that_do_not_fit(run: Path, file: str, edit: Callable[[Any], object], message: str) -> None:
    change(run / file, edit)
    assert error_of(run) == message


def test_files_that_are_missing(run: Path) -> None:
    (run / FIRST).unlink()
    missing = f"the file of rank 0 is missing from RUN/global_step3, but {Path(SECOND).name} is there"
    assert error_of(run) == missing
    (run / MODEL).unlink()
    (run / SECOND).unlink()
    fetch = "\n  = help: fetch the weights, too"
    assert error_of(run) == f"RUN/global_step3 holds no *mp_rank_00_model_states.pt{fetch}"
    (run / "global_step3").rmdir()
    assert error_of(run) == "latest says 'global_step3', but must name a folder in RUN"
    (run / "latest").write_text("../run")
    assert error_of(run) == "latest says '../run', but must name a folder in RUN"


def test_a_parameter_of_another_shape_or_missing(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "intermediate_size": 47}))
    assert error_of(run) == (
        "tensor model.layers.0.mlp.gate_proj.weight is f32[48, 32], but the config asks for f32[47, 32]\n"
        "  = it is transformer.layers.0.mlp.fc.weight\n"
        "  = help: the tensors and the config are of different models"
    )
    (run / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert error_of(run) == (
        "tensor model.layers.2.input_layernorm.weight is missing from the 3 files of RUN/global_step3\n"
        "  = help: did you mean `model.layers.0.input_layernorm.weight`?"
    )


def test_a_parameter_in_pieces_of_another_shape(tmp_path: Path) -> None:
    _, run = write_run(CASES[0], tmp_path, 3, 2)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "vocab_size": 99}))
    assert error_of(run) == (
        "tensor model.embed_tokens.weight is f32[101, 32], but the config asks for f32[99, 32]\n"
        "  = help: the tensors and the config are of different models"
    )


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return SYSTEM, (f"touch {self.target}",)


def repickle(file: Path, pickled: bytes) -> None:
    """Another pickle in an archive of torch."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, pickled if name.endswith("/data.pkl") else content)


def test_a_hostile_state_runs_nothing(run: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    repickle(run / FIRST, pickle.dumps({"optimizer_state_dict": {"loss_scaler": Hostile(trap)}}, 2))
    assert error_of(run) == (
        f"{Path(FIRST).name} asks for {SYSTEM.__module__}.system, but a checkpoint needs tensors alone\n"
        "  = help: such a pickle can run code; get the checkpoint as safetensors"
    )
    assert not trap.exists()


def test_classes_that_are_passed_over_are_never_imported(run: Path, tmp_path: Path) -> None:
    """A module of an allowed name that lies on the path would run as it is imported; it is not."""
    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "deepspeed/__init__.py").write_text("raise AssertionError")
    code = f"from trtc.frontend import open_checkpoint\nopen_checkpoint({str(run)!r})"
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True)


@settings(max_examples=cases(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:invalid escape sequence")   # of a text that pickletools decodes
@given(st.data())
def test_any_damage_is_refused_or_harmless(made_by_deepspeed: Path, tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["zero2", "zero3"]))
    step = tmp_path / "global_step2"
    step.mkdir(exist_ok=True)
    for file in step.iterdir():
        file.unlink()
    files = sorted((made_by_deepspeed / name / "global_step2").iterdir())
    for file in files:
        (step / file.name).write_bytes(file.read_bytes())
    struck = step / data.draw(st.sampled_from([file.name for file in files]))
    with zipfile.ZipFile(struck) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        pickled = archive.read(member)
    if data.draw(st.booleans()):
        repickle(struck, damaged(pickled, data))
    else:
        struck.write_bytes(damaged(struck.read_bytes(), data))
    try:
        source = DeepSpeedSource(step)
    except TrtcError:
        return
    for key, entry in source.entries.items():
        assert 0 <= entry.start <= entry.stop <= entry.file.stat().st_size
        assert key not in source.pieces
