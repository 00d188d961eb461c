"""What is done for the sake of some versions, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from trtc.backend.tensorrt.api import RTX, TENSORRT, Api, Version


@dataclass(frozen=True)
class Workaround:
    """One thing that is done otherwise than the graph says it.

    Args:
        name: by which code and tests call it.
        since: by product, the first version that needs it; a product that is left out never does.
        until: by product, the first version that needs it no more.
        reason: what the version does, or does not.
        done: what is done instead.
    """

    name: str
    since: dict[str, Version]
    reason: str
    done: str
    until: dict[str, Version]

    def applies(self, api: Api) -> bool:
        """Whether a version needs it."""
        since, until = self.since.get(api.product), self.until.get(api.product)
        return since is not None and since <= api.version and (until is None or api.version < until)


def _of(name: str, reason: str, done: str, since: dict[str, Version], until: dict[str, Version] | None = None) -> None:
    WORKAROUNDS[name] = Workaround(name, since, reason, done, until or {})


WORKAROUNDS: dict[str, Workaround] = {}
EVERY: dict[str, Version] = {TENSORRT: (8, 6), RTX: (1, 4)}
ATTENTION: dict[str, Version] = {TENSORRT: (10, 14), RTX: (1, 4)}
LENGTHS: dict[str, Version] = {TENSORRT: (11, 0), RTX: (1, 5)}

_of(
    "weak-types",
    "networks are weakly typed: the builder may compute in f16 what the graph has in f32, and a network says of a "
    "tensor's element type only what it guesses",
    "each layer is told its precision and what it gives, the builder to obey, and the emitter keeps element types",
    {TENSORRT: (8, 6)}, {TENSORRT: (10, 0)},
)   # fmt: skip
_of(
    "unread-timing-caches",
    "a timing cache is not read where an earlier build has put its code generator's times in it, as every one does "
    "that compiles a network whole",
    "such a cache is left out with a line in the log, and the build measures anew",
    {TENSORRT: (8, 6)}, {TENSORRT: (10, 0)},
)   # fmt: skip
_of(
    "endless-builds",
    "a build tells no progress and is not stopped by anything",
    "it runs in a thread of its own, which Ctrl-C and SIGTERM leave to itself",
    {TENSORRT: (8, 6)}, {TENSORRT: (10, 0)},
)   # fmt: skip
_of(
    "whole-caches",
    "no layer updates a KV cache in place, so an engine would copy it whole at every step",
    "attention reads cache and new tokens apart (`split-attention`), and the new rows are returned to be appended; the "
    "attention layer of 10.14, which reads keys in one piece, serves attention without a cache",
    {TENSORRT: (8, 6)}, {TENSORRT: (10, 15)},
)   # fmt: skip
_of(
    "copied-caches",
    "attention takes a cache only in one head size, a multiple of 8 in 16 bits, and padding a cache would copy it at "
    "every step",
    "caches have heads of that size, and new rows are padded as they are written (`pad-caches`)",
    {TENSORRT: (10, 15), RTX: (1, 4)},
)   # fmt: skip
_of(
    "no-lengths",
    "the attention layer knows no lengths, and its causality ends at the cache's last key",
    "lengths, causality and windows become one mask over the cache's whole capacity, which a step's cost follows",
    ATTENTION, LENGTHS,
)   # fmt: skip
_of(
    "one-mask",
    "the attention layer takes a mask, or causality and lengths, but not both",
    "what is more than causality and lengths becomes one mask",
    LENGTHS,
)   # fmt: skip
_of(
    "one-head-size",
    "the attention layer takes q, k and v of one head size",
    "values of narrower heads are padded with zeros, which are cut off again",
    ATTENTION,
)   # fmt: skip
_of(
    "odd-heads",
    "there are fused kernels of 16-bit heads of multiples of 8 alone, and RTX 1.7 fails on masked heads of other sizes",
    "heads are padded with zeros, which are cut off again",
    ATTENTION,
)   # fmt: skip
_of(
    "no-scale",
    "the attention layer has no scale",
    "q is multiplied: in f32 where its own element type would round the scale, which would shift every score",
    ATTENTION,
)   # fmt: skip
_of(
    "no-less-or-equal",
    "there is no LESS_OR_EQUAL, and NOT(GREATER) is true of a NaN",
    "LESS or EQUAL",
    EVERY,
)   # fmt: skip
_of(
    "few-greatest",
    "the top-k layer finds 3840 elements at most",
    "more are refused before anything is built; engines return 64 candidates",
    EVERY,
)   # fmt: skip
_of(
    "equal-ranks",
    "layers broadcast operands of equal rank alone",
    "axes of size 1 are put in front",
    EVERY,
)   # fmt: skip
_of(
    "first-axis",
    "gathering and scattering collectives join and divide the first axis alone",
    "tensors are transposed around them",
    {TENSORRT: (10, 16), RTX: (1, 4)},
)   # fmt: skip
_of(
    "same-name",
    "a layer whose name is taken keeps a name of TensorRT's own, which no message could be traced by",
    "names are numbered where they repeat",
    EVERY,
)   # fmt: skip
_of(
    "silent-errors",
    "a refused layer or setting is a line of the log, and the build may go on to make a wrong engine",
    "an error recorder is asked after every call, and each setting is read back",
    EVERY,
)   # fmt: skip
_of(
    "swallowed-exceptions",
    "what a callback raises, Ctrl-C too, is printed and forgotten",
    "it is kept, the build stops at its next step, and it is raised then",
    EVERY,
)   # fmt: skip


def needs(api: Api, name: str) -> bool:
    """Whether a version needs a workaround."""
    return WORKAROUNDS[name].applies(api)
