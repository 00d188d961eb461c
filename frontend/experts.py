"""Entries of name maps for the weights of experts, which checkpoints keep one by one, or stacked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtc.frontend.weights import Wanted
from trtc.ir.op import Value
from trtc.ir.ops import Concat, Reshape, Slice

PARTS = ("fc", "gate", "proj")
LAYER = "transformer.layers.{n}"


@dataclass(frozen=True)
class Block:
    """Where a feed-forward block's weights are; keys less their last part, ``{n}`` for the layer.

    Args:
        experts: of the experts; before their numbers, and before ``gate_up_proj`` and ``down_proj`` of all.
        names: an expert's weights fc, gate and proj.
        stacked: of all experts, where it differs from ``experts``.
        dense: of layers without experts; their weights have these names, too.
    """

    experts: str
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    stacked: str = ""
    dense: str = ""

    def entries(self) -> dict[str, Callable[[Wanted], Value]]:
        """The entries of fc, gate and proj."""
        return {f"{LAYER}.mlp.{part}": self._entry(i) for i, part in enumerate(PARTS)}

    def _entry(self, part: int) -> Callable[[Wanted], Value]:
        def entry(wanted: Wanted) -> Value:
            if len(wanted.shape) == 2:
                return wanted.fetch(f"{self.dense}.{self.names[part]}.weight", *wanted.shape)
            stacked = f"{self.stacked or self.experts}.{'down_proj' if part == 2 else 'gate_up_proj'}"
            return _stacked(wanted, stacked, part) if wanted.has(stacked) else self._joined(wanted, part)

        return entry

    def _joined(self, wanted: Wanted, part: int) -> Value:
        count, *sizes = wanted.shape
        each = (wanted.fetch(f"{self.experts}.{e}.{self.names[part]}.weight", *sizes) for e in range(count))
        return Concat(tuple(Reshape(weight, (1, *sizes)) for weight in each), 0)


def _stacked(wanted: Wanted, key: str, part: int) -> Value:
    """All experts' weights in one tensor, as transformers 5 keeps them; fc's rows, then gate's."""
    count, rows, columns = wanted.shape
    if part == 2:
        return wanted.fetch(key, count, rows, columns)
    return Slice(wanted.fetch(key, count, 2 * rows, columns), 1, part * rows, rows)
