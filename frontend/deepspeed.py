"""Folders of DeepSpeed's training runs, with the model's config.json beside the steps."""

from __future__ import annotations

from pathlib import Path

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import Checkpoint, Format, read_generation
from trtc.frontend.combined import combined
from trtc.frontend.deepspeed_pipeline import PipelineSource, has_layers, pipeline_names
from trtc.frontend.huggingface import names_of, read_config
from trtc.frontend.sources.deepspeed import DeepSpeedSource
from trtc.frontend.weights import Expression, Fetch, joined, through
from trtc.ir.op import Value

TAGS = ("latest", "latest_universal")   # files that hold the name of the last step's folder
JOIN = (
    "help: their model states have no universal_checkpoint_info, which says how parameters were split; DeepSpeed's "
    "ds_to_universal.py joins them: give the folder of what it writes"
)


def open_deepspeed(folder: Path) -> Checkpoint:
    """The checkpoint of a run's last step."""
    raw, family, config = read_config(folder)
    step = step_of(folder)
    if has_layers(step):
        layers = PipelineSource(step)
        tensors = pipeline_names(config, layers)
        weights = through(names_of(family, config, tensors.known), tensors)
        return Checkpoint(folder, "deepspeed", raw, config, layers, weights, lambda: read_generation(folder, raw))
    source = DeepSpeedSource(step)
    weights = through(names_of(family, config, source.names), _tensors(source))
    return Checkpoint(folder, "deepspeed", raw, config, source, weights, lambda: read_generation(folder, raw))


FORMAT = Format("latest", lambda path: any((path / tag).is_file() for tag in TAGS), open_deepspeed)


def _tensors(source: DeepSpeedSource) -> Expression:
    """The parameters by name: those of the only rank, or the parts of all joined."""
    own, count = joined(source, source.pieces), len(source.ranks)
    if not count:
        return own
    rules = source.rules
    if rules is None:
        raise TrtcError(f"{source.folder} has {count} model-parallel ranks, but must have one", JOIN)

    def tensor(key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        if key not in source.names:
            return fetch(key, *shape)
        stored = [_type(source, f"mp{rank}/{key}") for rank in range(count)]
        parts = [own(f"mp{n}/{key}", sizes, fetch) for n, sizes in enumerate(stored)]
        return combined(key, parts, rules.join(key), shape, padded=rules.padded(key))

    return tensor


def _type(source: DeepSpeedSource, key: str) -> tuple[int, ...]:
    if key in source.pieces:
        return source.pieces[key].shape
    return tuple(size for size in source.type(key).shape if isinstance(size, int))


def step_of(folder: Path) -> Path:
    """The folder of the last step, whose name is in a file."""
    found = [folder / tag for tag in TAGS if (folder / tag).is_file()]
    if not found:
        raise TrtcError(f"latest is missing from {folder}", "help: it holds the name of a step's folder: global_step10")
    with found[0].open("rb") as file:
        name = file.read(256).decode(errors="replace").strip()
    if not name or Path(name).name != name or not (folder / name).is_dir():
        raise TrtcError(f"{found[0].name} says {name!r}, but must name a folder in {folder}")
    return folder / name
