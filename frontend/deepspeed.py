"""Folders of DeepSpeed's training runs, with the model's config.json beside the steps."""

from __future__ import annotations

from pathlib import Path

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import Checkpoint, Format, read_generation
from trtc.frontend.huggingface import names_of, read_config
from trtc.frontend.sources.deepspeed import DeepSpeedSource
from trtc.frontend.weights import joined, through

TAGS = ("latest", "latest_universal")   # files that hold the name of the last step's folder


def open_deepspeed(folder: Path) -> Checkpoint:
    """The checkpoint of a run's last step."""
    raw, family, config = read_config(folder)
    source = DeepSpeedSource(step_of(folder))
    weights = through(names_of(family, config, {*source, *source.pieces}), joined(source, source.pieces))
    return Checkpoint(folder, "deepspeed", raw, config, source, weights, lambda: read_generation(folder, raw))


FORMAT = Format("latest", lambda path: any((path / tag).is_file() for tag in TAGS), open_deepspeed)


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
