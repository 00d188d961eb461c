"""The target `cuda`: what NVIDIA GPUs run by the kernels here and by cuBLASLt, without TensorRT."""

from __future__ import annotations

from collections.abc import Mapping

from trtc.backend.cuda.pages import PageCaches
from trtc.backend.cuda.rules import STAGES
from trtc.backend.gpu import gpus
from trtc.backend.kernels import ARCHITECTURES, KERNELS, Kernel, find
from trtc.backend.kernels.attention import LARGEST
from trtc.ir import ops as ir
from trtc.ir.errors import IRError
from trtc.ir.op import Op
from trtc.ir.target import TARGETS, Condition, Target, always, stated
from trtc.ir.types import bf16, f16, f32

USUAL = 90        # the architecture where this machine has no GPU
CANDIDATES = 64   # of the greatest logits that an engine returns, apart from all of them


def cuda(wanted: str) -> Target:
    """CUDA kernels for GPUs of one architecture, such as ``cuda:90`` for compute capability 9.0, or of several.

    Where none is stated, it is that of this machine's first GPU, or 90. Several are ``cuda:80,90``, in any order.
    """
    chosen = _stated(wanted) if wanted else (installed() or USUAL,)
    return Target(
        name="cuda",
        version=",".join(map(str, chosen)),
        summary="CUDA kernels and cuBLASLt in one launch plan: built on any machine, run on NVIDIA GPUs.",
        native=native(chosen),
        plugins=STAGES,
        prepare=(f"choose-next{{count={CANDIDATES}}}", f"pad-caches{{multiple=1 widest={LARGEST}}}"),
        paged=PageCaches.name,
        floats=(f32, f16, bf16),
    )


def _stated(wanted: str) -> tuple[int, ...]:
    """The architectures that a version such as ``80,90`` names, each once, the least first."""
    known = {str(each): each for each in ARCHITECTURES}
    names = wanted.split(",")
    if unknown := [name for name in names if name not in known]:
        said = f"the architecture of target cuda is {unknown[0] or 'empty'}, but must be one of {', '.join(known)}"
        raise IRError(said, "help: --target cuda:80,90 is for several")
    return tuple(sorted({known[name] for name in names}))


def architectures(to: Target) -> tuple[int, ...]:
    """Those that an engine of target cuda is for, the least first."""
    return tuple(map(int, to.version.split(",")))


def native(chosen: tuple[int, ...]) -> Mapping[type[Op], Condition]:
    """What the plan has a way to do: by a kernel of the registry, by cuBLASLt, or by looking at bytes otherwise.

    Args:
        chosen: the architectures, each of which must have the kernel.
    """

    @stated("a kernel serves its types and sizes, which docs/kernels.md lists")
    def served(op: Op) -> str | None:
        found = (find(op, each) for each in chosen)
        return next((why for why in found if not isinstance(why, Kernel)), None)

    return {**dict.fromkeys(KERNELS, served), ir.Reshape: always, ir.Linear: _product}


@stated("its weight is a constant")
def _product(op: ir.Linear) -> str | None:
    return None if op.weight.type.static else f"weight is {op.weight.type}, but must be known"


def installed() -> int | None:
    """The architecture to compile for this machine's first GPU; None where there is none that is served."""
    return next((architecture(gpu.capability) for gpu in gpus()), None)


def architecture(capability: str) -> int | None:
    """The one whose machine code runs on GPUs of a compute capability such as ``8.7``; None where none does."""
    major, minor = map(int, capability.split("."))
    fitting = [a for a in ARCHITECTURES if a // 10 == major and a % 10 <= minor]
    return max(fitting, default=None)


TARGETS["cuda"] = cuda
