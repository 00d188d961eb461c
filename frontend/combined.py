"""Parameters that model-parallel ranks have parts of, or each all of, as one."""

from __future__ import annotations

from trtc.errors import TrtcError
from trtc.frontend.sources.deepspeed_rules import Join, Parts
from trtc.frontend.weights import mismatch
from trtc.ir.op import Value
from trtc.ir.ops import Add, Cast, Concat, Mul, Slice, scalar
from trtc.ir.types import TensorType, f32


def combined(name: str, parts: list[Value], join: Join, shape: tuple[int, ...], *, padded: bool = False) -> Value:
    """A parameter of this shape, of what the ranks have.

    Args:
        name: for messages.
        padded: there may be more rows, at the end.
    Errors:
        TrtcError: the parts do not fit together, or make up another shape.
    """
    axis = join.axis if isinstance(join, Parts) else int(join == "columns")
    axis = min(axis, max(0, len(parts[0].shape) - 1))
    if len({(part.dtype, part.shape[:axis], part.shape[axis + 1 :]) for part in parts}) > 1:
        raise TrtcError(f"the parts of {name} are {', '.join(str(p.type) for p in parts)}, but must fit together")
    made = _joined(parts, join, axis)
    if padded and made.shape and made.shape[1:] == shape[1:] and _size(made, 0) > shape[0]:
        made = Slice(made, 0, 0, shape[0])
    if made.shape != shape:
        raise mismatch(name, TensorType(made.dtype, made.shape), shape)
    return made


def _joined(parts: list[Value], join: Join, axis: int) -> Value:
    if join == "first":
        return parts[0]
    if join == "mean":
        total: Value = Cast(parts[0], f32)
        for part in parts[1:]:
            total = Add(total, Cast(part, f32))
        return Mul(total, scalar(1 / len(parts), f32))
    if join == "halves":
        join = Parts(0, (tuple(_size(part, 0) // 2 for part in parts),) * 2)
    if isinstance(join, Parts):
        return _by_part(parts, join, axis)
    return Concat(tuple(parts), axis)


def _by_part(parts: list[Value], join: Parts, axis: int) -> Value:
    """All ranks' shares of the first projection, then of the next."""
    ranks = len(parts)
    if any(isinstance(width, tuple) and len(width) != ranks for width in join.widths):
        raise TrtcError(f"sub_param_shard_widths must have a size for each of the {ranks} ranks")
    shares: list[list[Value]] = [[] for _ in join.widths]
    for rank, part in enumerate(parts):
        at, widths = 0, join.of_rank(rank, ranks)
        if sum(widths) != _size(part, axis):
            have = f"rank {rank} has {_size(part, axis)} along axis {axis}"
            raise TrtcError(f"parameter_with_sub_params says {sum(widths)}, but {have}")
        for share, width in zip(shares, widths, strict=True):
            share.append(Slice(part, axis, at, width))
            at += width
    return Concat(tuple(value for share in shares for value in share), axis)


def _size(value: Value, axis: int) -> int:
    size = value.shape[axis]
    assert isinstance(size, int)
    return size
