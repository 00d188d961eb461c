"""A session: the model ready to run, whatever runs it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.options import SessionOptions
from trtc.runtime.sampling import Best

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class DecodeStep(Protocol):
    """One decode step of the batch under way, over buffers that the caller fills in place.

    Args:
        input_ids: ``int[B, 1]``, the new token of each sequence.
        past_lengths: ``int[B]``, tokens in each sequence's cache; the longest is below the capacity.
    """

    input_ids: Ints
    past_lengths: Ints

    def run(self) -> Floats:
        """Run the model once and append to the caches: ``float[B, V]``, logits, valid until the next run."""
        ...


class Session(Protocol):
    """Runs the model over one batch at a time, and keeps the batch's KV caches."""

    def start(self, batch: int, capacity: int) -> None:
        """Begin a batch of ``batch`` sequences of at most ``capacity`` tokens each; caches are empty."""
        ...

    def forward(self, input_ids: Ints, input_lengths: Ints, past_lengths: Ints) -> Floats:
        """Run the model once and append to the caches.

        Args:
            input_ids: ``int[B, S]``, new tokens, padded on the right; the longest past and S fit the capacity.
            input_lengths: ``int[B]``, how many of them are real, 1..S.
            past_lengths: ``int[B]``, tokens in each sequence's cache.
        Result:
            ``float[B, V]``, the logits of each sequence's last real token; valid until the next call.
        """
        ...

    def decode_step(self) -> DecodeStep:
        """The step by one token a sequence, which nothing is copied for; valid until the next `forward` or `start`."""
        ...


class Outcome(Protocol):
    """What one run gave; valid until the run after the next, and all of its logits until the next."""

    def best(self, row: int) -> Best:
        """The greatest logits of one sequence; waits for the run."""
        ...


@runtime_checkable
class ChoosingSession(Session, Protocol):
    """A session whose engine finds the likeliest tokens itself, so that a run can follow another at once."""

    def prefill(self, input_ids: Ints, input_lengths: Ints) -> Outcome:
        """Run prompts over empty caches.

        Args: as of `forward`.
        """
        ...

    def advance(self, past_lengths: Ints, input_ids: Ints | None) -> Outcome:
        """Run one token of each sequence.

        Args:
            past_lengths: ``int[B]``, tokens in each sequence's cache.
            input_ids: ``int[B]``, the tokens; None: those that were likeliest in the run before, which must be a step
                by one token.
        """
        ...


def open_session(bundle: EngineBundle, options: SessionOptions | None = None) -> Session:
    """Load the engine that is in ``bundle``.

    Errors:
        TrtcError: this trtc or this machine cannot run the bundle's target.
    """
    options = options or SessionOptions()
    if len(bundle.ranks) > 1:
        raise TrtcError(f"{bundle.path} has {len(bundle.ranks)} ranks, but this trtc runs engines of one rank")
    if options.kv_cache_tokens and not bundle.cache.page:
        message = f"kv_cache_tokens is {options.kv_cache_tokens}, but the caches of {bundle.path} have no pages"
        raise TrtcError(message, "help: trtc compile --target cuda --paged-kv-cache")
    if bundle.target.name == "onnx":
        from trtc.runtime.onnx import OnnxSession

        return OnnxSession(bundle, options.threads)
    if bundle.target.name in ("tensorrt", "tensorrt-rtx"):
        from trtc.runtime.tensorrt.session import open_plan

        return open_plan(bundle, options)
    if bundle.target.name == "cuda":
        from trtc.runtime.cuda.session import open_plan as open_launch_plan

        return open_launch_plan(bundle, options)
    target = f"{bundle.target.name} {bundle.target.version}"
    raise TrtcError(
        f"{bundle.path} was built for {target}, but this trtc runs onnx, tensorrt, tensorrt-rtx and cuda engines",
        "help: trtc compile MODEL_DIR -o ENGINE_DIR --target onnx",
    )
