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
    """CUDA kernels for GPUs of one architecture, such as ``cuda:90`` for compute capability 9.0.

    Where none is stated, it is that of this machine's first GPU, or 90.
    """
    chosen = wanted or str(installed() or USUAL)
    known = ", ".join(map(str, ARCHITECTURES))
    if chosen not in map(str, ARCHITECTURES):
        raise IRError(f"the architecture of target cuda is {chosen}, but must be one of {known}")
    return Target(
        name="cuda",
        version=chosen,
        summary="CUDA kernels and cuBLASLt in one launch plan: built on any machine, run on NVIDIA GPUs.",
        native=native(int(chosen)),
        plugins=STAGES,
        prepare=(f"choose-next{{count={CANDIDATES}}}", f"pad-caches{{multiple=1 widest={LARGEST}}}"),
        paged=PageCaches.name,
        floats=(f32, f16, bf16),
    )


def native(architecture: int) -> Mapping[type[Op], Condition]:
    """What the plan has a way to do: by a kernel of the registry, by cuBLASLt, or by looking at bytes otherwise."""

    @stated("a kernel serves its types and sizes, which docs/kernels.md lists")
    def served(op: Op) -> str | None:
        found = find(op, architecture)
        return None if isinstance(found, Kernel) else found

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
