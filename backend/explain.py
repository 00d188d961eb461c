"""What targets take, in words: from their records, for every version that there is one of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from trtc.backend.kernels import ARCHITECTURES
from trtc.backend.targets import target
from trtc.backend.tensorrt.api import KNOWN, PRODUCTS, dotted
from trtc.backend.tensorrt.target import api
from trtc.backend.tensorrt.workarounds import WORKAROUNDS, Workaround
from trtc.ir.op import OPS, Op
from trtc.ir.ops import Collective, Constant, Input, Weight
from trtc.ir.target import Target

LEAVES = (Constant, Input, Weight)
INSTALL: Mapping[str, str] = {
    "cuda": "pip install 'trtc[cuda]'",
    "onnx": "pip install 'trtc[onnx]'",
    "tensorrt": "pip install tensorrt==VERSION (8.6 comes with JetPack 6, too; it needs Python 3.10 at most)",
    "tensorrt-rtx": "pip install 'trtc[rtx]'",
}
"""How what builds for a target is installed."""


def versions(name: str) -> list[str]:
    """The versions of a target that there is a record of, oldest first; the one it has if it keeps none.

    Those of target cuda are architectures.
    """
    if name == "cuda":
        return [str(architecture) for architecture in ARCHITECTURES]
    return [dotted(v) for v in KNOWN[name]] if name in KNOWN else [target(name).version]


def answer(to: Target, kind: type[Op]) -> str:
    """When a target takes an op, and what becomes of it elsewhere."""
    simpler = "refused" if kind.decompose is Op.decompose else "decomposes"
    if issubclass(kind, Collective):
        simpler = "refused for several ranks"
    if kind in LEAVES:
        return "native always"
    if kind not in to.native:
        return f"{simpler}: it has no such layer"
    words = (to.native[kind].__doc__ or "always").strip().partition("\n")[0]
    if words.startswith("never"):
        return f"{simpler}: {words.partition(': ')[2]}"
    return f"native if {words}; else {simpler}" if words != "always" else "native always"


def explained(kind: type[Op], names: Iterable[str]) -> list[tuple[str, str]]:
    """For each target and range of versions, when an op is native, or why it is not."""
    rows: list[tuple[str, str]] = []
    for name in names:
        said = [(v, answer(target(f"{name}:{v}"), kind)) for v in versions(name)]
        for words, those in groupby(said, key=lambda pair: pair[1]):
            rows.append((f"{name} {spanned([v for v, _ in those])}", words))
    return rows


def spanned(of: list[str]) -> str:
    """Versions in a row, by the first and the last.

    >>> spanned(["10.0", "10.1", "10.2"])
    '10.0 to 10.2'
    """
    return of[0] if len(of) == 1 else f"{of[0]} to {of[-1]}"


def answers(to: Target) -> dict[str, list[str]]:
    """Of each answer of a target, the ops that get it."""
    found: dict[str, list[str]] = {}
    for name, kind in sorted(OPS.items()):
        if kind not in LEAVES and name != "result" and "." not in name:
            found.setdefault(answer(to, kind), []).append(name)
    return found


def workarounds(to: Target) -> list[Workaround]:
    """What is done for the sake of a target."""
    return [w for w in WORKAROUNDS.values() if w.applies(api(to))] if to.name in PRODUCTS else []


def page(to: Target) -> str:
    """All about one target."""
    floats = ", ".join(map(str, to.floats)) or "f32" + "".join(f", {n} computed in {w}" for n, w in to.widened.items())
    lines = [str(to), "", to.summary, "", f"install   {INSTALL.get(to.name, '')}", f"computes  {floats}"]
    if to.prepare:
        lines.append(f"passes    {', '.join(to.prepare)}")
    by_answer = sorted(answers(to).items(), key=lambda pair: (not pair[0].startswith("native"), pair[0]))
    for words, ops in by_answer:
        lines += ["", words, *wrapped(ops)]
    for w in workarounds(to):
        lines += ["", f"{w.name}: {w.reason}", f"  so {w.done}"]
    return "\n".join(lines)


def wrapped(words: list[str], width: int = 110) -> list[str]:
    """Words in lines of about this width."""
    lines = ["  "]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("  ")
        lines[-1] += f"{word} "
    return [line.rstrip() for line in lines]
