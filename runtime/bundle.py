"""The engine bundle: a folder with ``engine.json``, the engine of each rank, and the tokenizer's files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.runtime.integrity import FileEntry, check_files

FORMAT_VERSION = 1
STEP_INPUTS = (("input_ids",), ("input_lengths", "query_starts"), ("past_lengths",))   # one of each


@dataclass(frozen=True)
class Target:
    """What the engine was built for, and that builder's exact version."""

    name: str
    version: str


@dataclass(frozen=True)
class Source:
    """The checkpoint that the engine was compiled from."""

    path: str
    format: str
    architecture: str


@dataclass(frozen=True)
class Limits:
    """The most sequences, prompt tokens of one sequence, and tokens of one sequence in all."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int


@dataclass(frozen=True)
class Cache:
    """The KV cache's layout: ``layers`` pairs of ``dtype[B, kv_heads, M, head_size]``, or of pools of pages instead.

    Args:
        page: tokens of a page, where pools ``dtype[P, kv_heads, page, head_size]`` and an input ``pages`` stand for it.
        value_head_size: of the values; ``head_size``, too, where engine.json does not state it.
    """

    layers: int
    kv_heads: int
    head_size: int
    value_head_size: int
    dtype: str
    bytes_per_token: int
    page: int | None = None


@dataclass(frozen=True)
class Tensor:
    """One input or output of the engine; a size is a number, a symbol of ``bounds``, or ``B + 1``.

    An output with an ``alias`` shares the buffer of the input so named; one that ``appends`` holds rows that follow
    those in the input so named; one that ``feeds`` is that input of the next step.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    alias: str | None = None
    appends: str | None = None
    feeds: str | None = None


@dataclass(frozen=True)
class Weights:
    """The safetensors file of what a plan is without.

    Args:
        use: ``inputs``: each of ``tensors`` is bound to the input of its name; ``refit``: the plan is refitted with it.
        tensors: by name, the tensor in the file.
    """

    file: str
    use: str
    tensors: dict[str, str]


@dataclass(frozen=True)
class Rank:
    """The part of the model that one device runs.

    Args:
        profiles: of a plan, in order: the least, likeliest and greatest value of each symbolic size.
        weights: of a plan without its own.
    """

    rank: int
    engine: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: tuple[dict[str, tuple[int, int, int]], ...] = ()
    weights: Weights | None = None


@dataclass(frozen=True)
class Generation:
    """The tokens that begin, end and fill sequences."""

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None


@dataclass(frozen=True)
class EngineBundle:
    """What ``engine.json`` says, checked; ``path`` is the folder, and all file names are relative to it."""

    path: Path
    trtc_version: str
    target: Target
    pipeline: str
    builder: dict[str, Any]
    source: Source
    model: dict[str, Any]
    dtype: str
    limits: Limits
    vocab_size: int
    cache: Cache
    bounds: dict[str, tuple[int, int]]
    ranks: tuple[Rank, ...]
    generation: Generation
    tokenizer: str | None
    files: dict[str, FileEntry]

    @staticmethod
    def open(path: str | PathLike[str], verify: bool = True) -> EngineBundle:
        """Read the bundle in the folder ``path``.

        Args:
            path: the folder.
            verify: also hash every file; presence and sizes are checked always.
        Errors:
            TrtcError: no bundle there, one of a newer format, or a damaged one.
        """
        folder = Path(path)
        bundle = _bundle(folder, _read(folder))
        _check_tensors(bundle)
        check_files(folder, bundle.files, verify)
        return bundle


def _read(folder: Path) -> dict[str, Any]:
    """Read ``engine.json`` and check it against the schema."""
    file = folder / "engine.json"
    if not folder.is_dir():
        raise TrtcError(f"{folder} is not a folder, but an engine is one", "help: trtc compile MODEL_DIR -o ENGINE_DIR")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TrtcError(
            f"{folder} has no engine.json, but an engine has one", "help: trtc compile MODEL_DIR -o ENGINE_DIR"
        ) from None
    except UnicodeDecodeError:
        raise TrtcError(f"{file} is not UTF-8, but must be JSON") from None
    try:
        spec = json.loads(text)
    except json.JSONDecodeError as error:
        raise TrtcError(
            f"{file} stops being JSON at line {error.lineno} column {error.colno}, but must be JSON"
        ) from None
    _check_version(file, spec)
    _check_schema(file, spec)
    return spec


def _check_version(file: Path, spec: Any) -> None:
    """Refuse what a newer trtc wrote before looking at anything else in it."""
    version = cast("dict[str, Any]", spec).get("version") if isinstance(spec, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise TrtcError(
            f"{file} is format version {version}, but this trtc reads up to {FORMAT_VERSION}",
            "help: upgrade trtc, or compile the engine again with this one",
        )


def _check_schema(file: Path, spec: Any) -> None:
    jsonschema: Any = import_module("jsonschema")
    schema = json.loads(files("trtc.runtime").joinpath("engine.schema.json").read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(spec))
    if error is not None:
        raise TrtcError(f"{file} breaks its schema at {error.json_path}: {error.message}")


def _bundle(folder: Path, spec: dict[str, Any]) -> EngineBundle:
    generation = spec["generation"]
    return EngineBundle(
        path=folder,
        trtc_version=spec["trtc_version"],
        target=Target(**spec["target"]),
        pipeline=spec["pipeline"],
        builder=spec.get("builder", {}),
        source=Source(**spec["source"]),
        model=spec["model"],
        dtype=spec["dtype"],
        limits=Limits(**spec["limits"]),
        vocab_size=spec["vocab_size"],
        cache=Cache(**{"value_head_size": spec["cache"]["head_size"], **spec["cache"]}),
        bounds={symbol: (low, high) for symbol, (low, high) in spec["bounds"].items()},
        ranks=tuple(map(_rank, spec["ranks"])),
        generation=Generation(
            generation["bos_token_id"], tuple(generation["eos_token_ids"]), generation["pad_token_id"]
        ),
        tokenizer=spec["tokenizer"],
        files={name: FileEntry(**entry) for name, entry in spec["files"].items()},
    )


def _rank(spec: dict[str, Any]) -> Rank:
    def tensor(entry: dict[str, Any]) -> Tensor:
        said = (entry.get(key) for key in ("alias", "appends", "feeds"))
        return Tensor(entry["name"], entry["dtype"], tuple(entry["shape"]), *said)

    inputs, outputs = (tuple(map(tensor, spec[key])) for key in ("inputs", "outputs"))
    profiles = tuple({size: tuple(values) for size, values in p.items()} for p in spec.get("profiles", ()))
    weights = Weights(**spec["weights"]) if "weights" in spec else None
    return Rank(spec["rank"], spec["engine"], inputs, outputs, profiles, weights)


def _check_tensors(bundle: EngineBundle) -> None:
    """Check what the schema cannot say: which tensors there are, and that aliases fit."""
    file = bundle.path / "engine.json"
    for rank in bundle.ranks:
        inputs = {t.name: t for t in rank.inputs}
        for names in STEP_INPUTS:
            if not inputs.keys() & set(names):
                wanted = " or ".join(names)
                raise TrtcError(f"{file}: rank {rank.rank} has no input {wanted}, but every engine has one")
        if bool(bundle.cache.page) != ("pages" in inputs):
            said = "pages, but no input" if bundle.cache.page else "no pages, but an input"
            raise TrtcError(f"{file}: the cache of rank {rank.rank} has {said} that says which")
        if not any(t.name == "logits" for t in rank.outputs):
            raise TrtcError(f"{file}: rank {rank.rank} has no output logits, but every engine has one")
        for output in rank.outputs:
            same = inputs.get(output.alias or "")
            if output.alias and (same is None or (same.dtype, same.shape) != (output.dtype, output.shape)):
                raise TrtcError(
                    f"{file}: output {output.name} is an alias of {output.alias}, "
                    "but there is no such input of its dtype and shape"
                )
        if rank.weights and rank.weights.file not in bundle.files:
            want = f"but files does not list {rank.weights.file}"
            raise TrtcError(f"{file}: the weights of rank {rank.rank} lie in a file of their own, {want}")
        if rank.engine not in bundle.files:
            raise TrtcError(f"{file}: the engine of rank {rank.rank} is {rank.engine}, but files does not list it")
