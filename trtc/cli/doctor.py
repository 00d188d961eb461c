"""``trtc doctor``: what this machine can do."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import packages_distributions, version
from typing import Any

from trtc import __version__
from trtc.cli import _options as options
from trtc.cli._table import amount, table


def doctor(as_json: options.Json = False) -> None:
    """Show what this machine can do, and how to mend what it cannot."""
    found = _findings()
    print(json.dumps(found, indent=1) if as_json else _text(found))


def _findings() -> dict[str, Any]:
    from trtc.backend.backends import BACKENDS, best
    from trtc.cli._support import support

    targets, gpus = support()
    extras = dict.fromkeys(s.extra for s in targets if s.lacks)
    modules = {m: None for b in BACKENDS.values() for m in (*b.builds_with, *(b.runs_with or ()))}
    return {
        "trtc": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "gpus": [vars(gpu) for gpu in gpus],
        "packages": _versions(list(modules)),
        "targets": {s.name: {"builds": s.builds, "runs": s.runs} for s in targets},
        "default": best(gpus),
        "install": f"pip install 'trtc[{','.join(extras)}]'" if extras else None,
    }


def _versions(modules: list[str]) -> dict[str, str | None]:
    """The version of the package that brings each module; None where it is missing."""
    providers = packages_distributions()
    return {m: version(providers[m][0]) if m in providers else None for m in modules}


def _text(found: dict[str, Any]) -> str:
    machine = f"trtc {found['trtc']}, Python {found['python']}, {found['platform']}, {found['cpus']} CPUs"
    gpus = [f"GPU {g['name']}, compute capability {g['capability']}, {amount(g['memory'])}" for g in found["gpus"]]
    packages = [(name, number or "missing") for name, number in found["packages"].items()]
    targets = [(name, can["builds"], can["runs"]) for name, can in found["targets"].items()]
    return "\n".join([
        machine, *(gpus or ["no GPU"]), "",
        table([("package", "version"), *packages]), "",
        table([("target", "builds here", "runs here"), *targets]), "",
        f"without --target: {found['default'] or 'none'}", "",
        found["install"] or "nothing is missing",
    ])   # fmt: skip
