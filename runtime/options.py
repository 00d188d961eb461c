"""How an engine is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from trtc.errors import TrtcError


class LoadOptions(TypedDict, total=False):
    """The fields of `SessionOptions`, as keywords of `load`."""

    threads: int | None
    device: int
    prefill_chunk: int
    kv_cache_tokens: int
    cuda_graphs: bool


@dataclass(frozen=True)
class SessionOptions:
    """How an engine is run.

    Args:
        threads: CPU threads of engines that run on the CPU; None: one for each core that this process may use.
        device: the GPU of engines that run on one.
        prefill_chunk: new tokens of a sequence in one call at most; 0: as many as the engine takes.
        kv_cache_tokens: tokens of all sequences that a paged KV cache holds; 0: as many as each batch may come to have.
        cuda_graphs: record a decode step once, and replay it.
    """

    threads: int | None = None
    device: int = 0
    prefill_chunk: int = 0
    kv_cache_tokens: int = 0
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        rules = (("threads", 1), ("device", 0), ("prefill_chunk", 0), ("kv_cache_tokens", 0))
        for name, least in rules:
            value = getattr(self, name)
            if value is not None and value < least:
                raise TrtcError(f"{name} is {value}, but must be at least {least}")
