"""ONNX files as checkpoints: a decoder with past, its tokenizer and token ids beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import DTYPES, Format, read_generation, read_json, tokenizer_files
from trtc.frontend.decoder import Limits
from trtc.frontend.onnx.decoder import decoder, imported
from trtc.frontend.sources.onnx_file import OnnxSource
from trtc.ir.graph import Graph, ordered
from trtc.ir.ops import Embedding, Input
from trtc.ir.types import DType, Size, i32

NAMES = (
    "decoder_with_past.onnx", "decoder_with_past_model.onnx", "model.onnx", "onnx/decoder_with_past_model.onnx",
    "onnx/model.onnx",
)   # fmt: skip
"""What exporters call the model, in the order in which a directory is searched."""
LONGEST = 4096   # positions of a model whose config.json says nothing


@dataclass(frozen=True)
class OnnxFacts:
    """What a graph and the config.json beside it say of a model.

    Args:
        learned_positions: whether positions are looked up in a table, which ends with the last of them.
    """

    architecture: str
    vocab_size: int
    max_position_embeddings: int
    learned_positions: bool


@dataclass(frozen=True)
class OnnxCheckpoint:
    """An ONNX model that can be compiled.

    Args:
        folder: where its tokenizer lies.
        model: the graph that the file states, in sizes B, S and P.
        raw: config.json, if one is there.
    """

    folder: Path
    raw: dict[str, Any]
    config: OnnxFacts
    source: OnnxSource
    model: Graph
    format: str = "onnx"

    @property
    def dtype(self) -> str:
        """float32, float16 or bfloat16: what the caches are."""
        cache = next(i for i in self.model.inputs if i.key.endswith("_cache"))
        return next(name for name, dtype in DTYPES.items() if dtype == cache.dtype)

    def graph(self, limits: Limits, dtype: DType, *, all_logits: bool = False) -> Graph:
        """The graph of this model, in plain ops, over caches of a fixed capacity."""
        if dtype != DTYPES[self.dtype]:
            name = next(name for name, known in DTYPES.items() if known == dtype)
            raise TrtcError(
                f"dtype is {name}, but the ONNX model computes in {self.dtype}", f"help: export it in {name}"
            )
        return decoder(self.model, limits, all_logits=all_logits)

    @property
    def tokenizer_files(self) -> list[Path]:
        return tokenizer_files(self.folder)

    @property
    def generation(self) -> dict[str, Any]:
        """Ids of the tokens that begin, end and pad."""
        return read_generation(self.folder, self.raw)


def open_onnx(path: Path) -> OnnxCheckpoint:
    """The checkpoint of an ONNX file, or of a directory that holds one.

    Errors:
        TrtcError: the file is no model, or no decoder with past, or holds a node that cannot be imported.
    """
    file = next((f for name in NAMES if (f := path / name).is_file()), None) if path.is_dir() else path
    if file is None:
        raise TrtcError(f"{path} holds none of {', '.join(NAMES)}", "help: name the .onnx file itself")
    homes = (file.parent, file.parent.parent) if file.parent.name == "onnx" else (file.parent,)
    folder = next((home for home in homes if tokenizer_files(home)), file.parent)
    config = folder / "config.json"
    raw = read_json(config) if config.is_file() else {}
    source = OnnxSource(file)
    model = imported(file, source)
    return OnnxCheckpoint(folder, raw, _facts(model, raw, file), source, model)


def _facts(model: Graph, raw: dict[str, Any], file: Path) -> OnnxFacts:
    words: Size = model.outputs["logits"].shape[-1]
    if not isinstance(words, int):
        raise TrtcError(f"{file.name}: logits are {model.outputs['logits'].type}, but their words must be a number")
    stated = raw.get("architectures")
    name = stated[0] if isinstance(stated, list) and stated and isinstance(stated[0], str) else file.stem
    places = (raw.get(key) for key in ("max_position_embeddings", "n_positions", "n_ctx", "seq_length"))
    tables = _position_tables(model)
    positions = next((n for n in places if type(n) is int and n > 0), min(tables, default=LONGEST))
    return OnnxFacts(name, words, min([positions, *tables]), bool(tables))


def _position_tables(model: Graph) -> list[int]:
    """The rows of tables that positions, and not words, are looked up in."""
    looked_up = [op for op in model.ops if isinstance(op, Embedding) and op not in model.constants]
    positions = [op for op in looked_up if not any(isinstance(i, Input) and i.dtype == i32 for i in ordered([op.ids]))]
    return [rows for op in positions if isinstance(rows := op.table.shape[0], int)]


def _is_onnx(path: Path) -> bool:
    return path.is_file() if path.suffix == ".onnx" else any((path / name).is_file() for name in NAMES)


FORMAT = Format("decoder_with_past.onnx", _is_onnx, open_onnx)
