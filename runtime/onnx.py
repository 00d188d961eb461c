"""ONNX Runtime: sessions with bound buffers, KV caches updated in place."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from trtc.errors import MissingPackage, TrtcError
from trtc.runtime.bundle import EngineBundle, Tensor
from trtc.runtime.dtypes import NUMPY
from trtc.runtime.session import Floats, Ints
from trtc.runtime.threads import usable_cores

Array = npt.NDArray[Any]

NUMBERS = {   # onnx.TensorProto.DataType, of each dtype
    "f32": 1, "u8": 2, "i8": 3, "i32": 6, "i64": 7, "bool": 9, "f16": 10, "bf16": 16, "f8e4m3": 17,
}   # fmt: skip


@dataclass
class OnnxStep:
    """One binding for one number of new tokens, and the buffers that it reads and writes."""

    session: Any
    binding: Any
    input_ids: Array
    input_lengths: Array
    past_lengths: Array
    logits: Array

    def run(self) -> Floats:
        self.session.run_with_iobinding(self.binding)
        logits = self.logits
        if logits.ndim == 3:   # of every token
            logits = logits[np.arange(len(logits)), self.input_lengths - 1]
        return logits if logits.dtype == np.float32 else logits.astype(np.float32)


class OnnxSession:
    """Runs an ONNX engine on the CPU.

    Every input and output is a NumPy buffer that stays where it is for the whole batch, so a step copies the new
    token ids and nothing else; an aliased output, such as an updated cache, is bound to its input's own buffer.

    Args:
        bundle: an engine bundle of target ``onnx``.
        threads: CPU threads; None takes one for each core that this process may use.
    """

    def __init__(self, bundle: EngineBundle, threads: int | None) -> None:
        self._rank = bundle.ranks[0]
        self._session = _load(bundle, threads or usable_cores())
        self._sizes = (0, 0)
        self._buffers: dict[str, Array] = {}
        self._steps: dict[int, OnnxStep] = {}

    def start(self, batch: int, capacity: int) -> None:
        if self._sizes == (batch, capacity):
            return   # what the caches hold is beyond every past length, so it is never seen
        self._sizes, self._steps = (batch, capacity), {}
        symbols = {"B": batch, "M": capacity}
        inputs = [t for t in self._rank.inputs if t.name != "input_ids"]
        outputs = [t for t in self._rank.outputs if t.alias is None and "S" not in t.shape]
        self._buffers = {t.name: _allocate(t, symbols) for t in [*inputs, *outputs]}
        for output in self._rank.outputs:
            if output.alias is not None:
                self._buffers[output.name] = self._buffers[output.alias]

    def forward(self, input_ids: Ints, input_lengths: Ints, past_lengths: Ints) -> Floats:
        step = self._step(input_ids.shape[1])
        step.input_ids[...], step.input_lengths[...], step.past_lengths[...] = input_ids, input_lengths, past_lengths
        return step.run()

    def decode_step(self) -> OnnxStep:
        step = self._step(1)
        step.input_lengths[...] = 1
        return step

    def _step(self, length: int) -> OnnxStep:
        return self._steps.get(length) or self._bind(length)

    def _bind(self, length: int) -> OnnxStep:
        """Bind every tensor for ``length`` new tokens."""
        batch, capacity = self._sizes
        symbols = {"B": batch, "M": capacity, "S": length}
        binding = self._session.io_binding()
        ids = next(t for t in self._rank.inputs if t.name == "input_ids")
        per_token = [t for t in (ids, *self._rank.outputs) if "S" in t.shape]   # logits of every token, if asked for
        buffers = {**self._buffers, **{t.name: _allocate(t, symbols) for t in per_token}}
        for tensor in self._rank.inputs:
            binding.bind_input(*_place(tensor, buffers[tensor.name]))
        for tensor in self._rank.outputs:
            binding.bind_output(*_place(tensor, buffers[tensor.name]))
        own = {name: buffers[name] for name in ("input_ids", "input_lengths", "past_lengths", "logits")}
        step = OnnxStep(self._session, binding, **own)
        self._steps = {n: s for n, s in self._steps.items() if n == 1} | {length: step}   # decode, and the last prefill
        return step


def _load(bundle: EngineBundle, threads: int) -> Any:
    try:
        ort: Any = import_module("onnxruntime")
    except ImportError:
        raise MissingPackage("onnxruntime", "onnx", "run onnx engines") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3   # errors
    engine = bundle.path / bundle.ranks[0].engine
    try:
        return ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
    except Exception as error:   # ONNX Runtime's exceptions share no other base
        reason = str(error).strip().splitlines()[0]
        raise TrtcError(
            f"ONNX Runtime {ort.__version__} cannot load {engine}, built for {bundle.target.version}: {reason}"
        ) from error


def _allocate(tensor: Tensor, symbols: dict[str, int]) -> Array:
    shape = [symbols[size] if isinstance(size, str) else size for size in tensor.shape]
    return np.zeros(shape, NUMPY[tensor.dtype])


def _place(tensor: Tensor, buffer: Array) -> tuple[str, str, int, int, tuple[int, ...], int]:
    """Return the arguments that bind ``buffer``: name, device, device number, element type, shape, address."""
    return tensor.name, "cpu", 0, NUMBERS[tensor.dtype], buffer.shape, buffer.ctypes.data
