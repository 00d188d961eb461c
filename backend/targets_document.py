"""docs/targets.md, from the records of all targets."""

from __future__ import annotations

from trtc.backend.explain import INSTALL, LEAVES, answers, explained, spanned, versions
from trtc.backend.tensorrt.api import KNOWN, PRODUCTS, Api, dotted
from trtc.backend.tensorrt.workarounds import WORKAROUNDS, Workaround
from trtc.ir.op import OPS
from trtc.ir.target import target

BEGIN, END = "<!-- executed: kept as it is by `trtc targets --write` -->", "<!-- end -->"
HEAD = """# Targets

This page is written by `trtc targets --write docs/targets.md`, from the records that `legalize` asks, but for the table
of what has been executed. `trtc targets NAME:VERSION` prints one target, `trtc targets --explain OP` one op. A version
that is not listed is taken as the nearest before it; of a TensorRT that is newer than all of them, the module that is
installed is asked what it has. `tensorrt:10.16/sm100` names the GPU, too, where that matters; with `+plugins` behind it
trtc's own kernels are taken where they help (docs/kernels.md). What is a version elsewhere is an architecture of target
cuda, or several: `cuda:90` is for GPUs of compute capability 9.0, `cuda:80,90` for those of 8.0, too.
"""

def document(executed: str) -> str:
    """The page.

    Args:
        executed: what stands between the marks of the table of what has been executed.
    """
    parts = [HEAD, "## How to install each\n", *_installs(), "\n## What each takes\n", *_ops(), *_rest(executed)]
    return "\n".join(parts) + "\n"


def kept(text: str) -> str:
    """What stands between the marks of a page; an empty table where there are none."""
    _, begin, rest = text.partition(BEGIN)
    kept, end, _ = rest.partition(END)
    empty = "\n| target | GPU or CPU | what | when |\n|---|---|---|---|\n"
    return kept if begin and end else empty


def _installs() -> list[str]:
    rows = ["| target | versions | install |", "|---|---|---|"]
    for name in sorted(INSTALL):
        those = spanned(versions(name)) if len(versions(name)) > 1 else f"{target(name).version.split('.')[0]}.x"
        rows.append(f"| `{name}` | {those} | {INSTALL[name]} |")
    return rows


def _ops() -> list[str]:
    """What becomes of each op, version by version; ops of which the same is said stand together."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, kind in sorted(OPS.items()):
        if kind not in LEAVES and name != "result" and "." not in name:
            groups.setdefault(tuple(explained(kind, PRODUCTS)), []).append(name)
    lines: list[str] = []
    for rows, names in groups.items():
        lines += [f"{', '.join(f'`{n}`' for n in names)}\n", *(f"* {which}: {words}" for which, words in rows), ""]
    for name in ("cuda:90", "onnx"):
        lines.append(f"On {name.partition(':')[0]}:\n")
        for words, names in sorted(answers(target(name)).items()):
            lines.append(f"* {words}: {', '.join(f'`{n}`' for n in names)}")
        lines.append("")
    return lines[:-1]


def _rest(executed: str) -> list[str]:
    table = ["| workaround | for | because | so |", "|---|---|---|---|"]
    table += [f"| {w.name} | {_versions(w)} | {w.reason} | {w.done} |" for w in WORKAROUNDS.values()]
    return ["\n## Workarounds\n", *table, "\n## What has been executed where\n", BEGIN + executed + END]


def _versions(w: Workaround) -> str:
    said: list[str] = []
    for product, label in PRODUCTS.items():
        those = [v for v in KNOWN[product] if w.applies(Api(product, v))]
        if those:
            last = "" if len(those) == 1 else " on" if those[-1] == KNOWN[product][-1] else f" to {dotted(those[-1])}"
            said.append(f"{label} {dotted(those[0])}{last}")
    return ", ".join(said)
