"""What this machine can build and run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtc.backend.gpu import GPU, gpus

if TYPE_CHECKING:
    from trtc.backend.backends import Backend


@dataclass(frozen=True)
class Support:
    """Whether one target builds and runs here: empty where it does, else why not.

    Args:
        lacks: the modules that are missing.
    """

    name: str
    extra: str
    why_no_build: str
    why_no_run: str
    lacks: tuple[str, ...]

    @property
    def builds(self) -> str:
        return f"no: {self.why_no_build}" if self.why_no_build else "yes"

    @property
    def runs(self) -> str:
        return f"no: {self.why_no_run}" if self.why_no_run else "yes"


def support() -> tuple[list[Support], list[GPU]]:
    """What each target can do here, and the GPUs there are."""
    from trtc.backend.backends import BACKENDS

    found = gpus()
    return [_support(b, found) for b in BACKENDS.values()], found


def _support(b: Backend, found: list[GPU]) -> Support:
    to_build, to_run = b.lacks_to_build, b.lacks_to_run
    why_no_build = f"{to_build[0]} is missing" if to_build else ""
    return Support(b.name, b.extra, why_no_build, b.why_not_run(found), (*to_build, *to_run))
