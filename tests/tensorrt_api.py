"""What the Python bindings of every TensorRT and TensorRT-RTX have: read out of the bindings themselves.

    python tests/tensorrt_api.py          writes tensorrt_api.json anew

Wheels of the bindings come from PyPI and are unpacked, not installed. A binding loads without the libraries that it
calls, once libraries of their names are there which have what it looks for by name: so it can be asked what it has, on
any machine. Needs Linux on x86-64, ``cc`` and the tools of binutils.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("tensorrt_api.json")

WHEELS = {
    "tensorrt-bindings": {"8.6": "8.6.1"},
    "tensorrt-cu12-bindings": {
        "10.0": "10.0.1", "10.1": "10.1.0", "10.2": "10.2.0", "10.3": "10.3.0", "10.4": "10.4.0", "10.5": "10.5.0",
        "10.6": "10.6.0", "10.7": "10.7.0", "10.8": "10.8.0.43", "10.9": "10.9.0.34", "10.10": "10.10.0.31",
        "10.11": "10.11.0.33", "10.12": "10.12.0.36", "10.13": "10.13.3.9", "10.14": "10.14.1.48.post1",
        "10.15": "10.15.1.29", "10.16": "10.16.1.11", "11.0": "11.0.0.114", "11.1": "11.1.0.106", "11.2": "11.2.1.2",
        "11.3": "11.3.0.99", "11.4": "11.4.0.106",
    },
    "tensorrt-rtx-cu13-bindings": {
        "rtx 1.4": "1.4.0.76", "rtx 1.5": "1.5.0.114", "rtx 1.6": "1.6.1.120", "rtx 1.7": "1.7.1.116",
    },
}   # fmt: skip
"""By distribution and version, the release that is read."""
VERSIONS = tuple(version for releases in WHEELS.values() for version in releases)

ROOTS = (
    "Builder", "Runtime", "Refitter", "EngineInspector", "Logger", "ILogger", "IErrorRecorder", "IProgressMonitor",
    "IStreamWriter", "IStreamReader", "IStreamReaderV2", "NetworkDefinitionCreationFlag", "BuilderFlag", "LayerType",
    "IUnaryLayer", "ISerializationConfig", "ComputeCapability", "MemoryPoolType", "GatherMode", "TacticSource",
    "IAttentionOutputLayer",
)   # fmt: skip
"""Classes that a back end or a runtime starts from; those that their signatures name follow."""
LEFT_OUT = re.compile(
    r"Plugin|Calibrat|Algorithm|Recurrence|TripLimit|Iterator|Loop|Conditional|Convolution|Deconvolution|Pooling|LRN"
    r"|RNN|Padding|RaggedSoftMax|FullyConnected|NMS|ReverseSequence|Resize|GridSample|ISymExpr|Dims(\w+)$|Onnx|Parser"
)
"""Classes that nothing here touches."""

PLATFORM = ("--python-version", f"3.{sys.version_info.minor}", "--abi", f"cp3{sys.version_info.minor}")
GLIBC = [f"manylinux_2_{n}_x86_64" for n in (17, 24, 28, 31)]


def load(binding: Path, scratch: Path) -> Any:
    """The module that a binding is, over libraries that do nothing."""
    said = subprocess.run(["objdump", "-p", binding], capture_output=True, text=True, check=True).stdout
    looked_up = subprocess.run(["nm", "-D", "--undefined-only", binding], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in looked_up.stdout.splitlines()]
    own = [n for n in names if "@" not in n and not re.match(r"_?Py|_ITM|__gmon", n)]
    source = scratch / "nothing.c"
    source.write_text("".join(f"void *{n}(void) {{ return 0; }}\n" for n in own))
    for library in re.findall(r"NEEDED\s+(lib(?:nv|tensorrt)\S+)", said):
        made = scratch / library
        subprocess.run(["cc", "-shared", "-w", "-fPIC", f"-Wl,-soname,{library}", "-o", made, source], check=True)
        ctypes.CDLL(str(made), ctypes.RTLD_GLOBAL)
    loader = importlib.machinery.ExtensionFileLoader(binding.stem, str(binding))
    spec = importlib.util.spec_from_file_location(binding.stem, str(binding), loader=loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def described(trt: Any) -> dict[str, list[str]]:
    """Of each class that matters, a line for each overload of a method, property, member; of the module, constants."""
    classes = {n: c for n, c in inspect.getmembers(trt, inspect.isclass) if not LEFT_OUT.search(n)}
    found: dict[str, list[str]] = {}
    todo = [n for n in ROOTS if n in classes]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = sorted(lines(classes[name]))
            todo += [n for n in set(re.findall(r"\w+", " ".join(found[name]))) if n in classes]
    everything: dict[str, Any] = dict(inspect.getmembers(trt))
    kinds = {classes[name] for name in found if hasattr(classes[name], "__members__")}
    constants = [f"{n} = {type(v).__name__}.{v.name}" for n, v in everything.items() if type(v) in kinds]
    return {"": sorted(constants), **{name: said for name, said in sorted(found.items()) if said}}


def lines(kind: type) -> Iterator[str]:
    """The lines of one class."""
    bases = [b.__name__ for b in kind.__bases__ if b.__module__ != "pybind11_builtins" and b is not object]
    yield from (f"is {base}" for base in bases)
    members: Mapping[str, Any] = getattr(kind, "__members__", {})
    yield from (f"{name} = {int(member)}" for name, member in members.items())
    for name, value in vars(kind).items():
        if isinstance(value, property) and not members:
            yield f"{name}: {returned(value.fget)}{'' if value.fset else ' (read only)'}"
        elif not members and callable(value) and (name == "__init__" or not name.startswith("_")):
            yield from signatures(name, value)


def signatures(name: str, method: Any) -> Iterator[str]:
    """``name(argument: type = default, ...) -> type`` of each overload, without self."""
    for line in (getattr(method, "__doc__", "") or "").splitlines():
        if match := re.match(rf"(?:\d+\. )?{name}\((.*)\) -> (.*)$", line.strip()):
            arguments = re.sub(r"^self: [\w.]+(, )?", "", match[1])
            if not arguments.startswith("*args"):
                yield plain(f"{name}({arguments}) -> {match[2]}")


def returned(getter: Any) -> str:
    match = re.search(r"-> (.*)$", (getter.__doc__ or "").strip().splitlines()[0]) if getter.__doc__ else None
    return plain(match[1]) if match else "object"


def plain(text: str) -> str:
    """Types without their modules, spelt as one version of pybind11 spells them; addresses without numbers."""
    text = re.sub(r"\b(?:tensorrt\w*|typing|collections\.abc|numpy)\.(?:tensorrt\w*\.)?", "", text)
    text = re.sub(r"\bnvinfer1::(?:v_\d_\d::)?", "", text).replace("Sequence[", "List[")
    text = re.sub(r"\bSupports(?:Int|Float)\b", lambda m: m[0][8:].lower(), text)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def spans(versions: set[str]) -> str:
    """Versions as ``first..last``, by the order of `VERSIONS`; empty where it is all of them.

    >>> spans({"10.0", "10.1", "10.2", "rtx 1.7"})
    '10.0..10.2, rtx 1.7'
    """
    runs: list[list[str]] = []
    for n, version in enumerate(VERSIONS):
        if version in versions:
            if n and runs and runs[-1][-1] == VERSIONS[n - 1]:
                runs[-1].append(version)
            else:
                runs.append([version])
    said = ", ".join(run[0] if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
    return "" if versions == set(VERSIONS) else said


def spelt_out(text: str) -> set[str]:
    """The inverse of `spans`."""
    if not text:
        return set(VERSIONS)
    ends = [part.split("..") for part in text.split(", ")]
    return {v for e in ends for v in VERSIONS[VERSIONS.index(e[0]) : VERSIONS.index(e[-1]) + 1]}


def table(version: str) -> dict[str, list[str]]:
    """What `described` says of one version, from the table."""
    return {
        name: kept
        for name, members in json.loads(TABLE.read_text()).items()
        if (kept := [line for line, when in members.items() if version in spelt_out(when)])
    }


def joined(found: Mapping[str, Mapping[str, list[str]]]) -> dict[str, dict[str, str]]:
    """One table of all versions: for each class and line, the versions that have it."""
    when: dict[str, dict[str, set[str]]] = {}
    for version, classes in found.items():
        for name, members in classes.items():
            for line in members:
                when.setdefault(name, {}).setdefault(line, set()).add(version)
    return {name: {line: spans(when[name][line]) for line in sorted(when[name])} for name in sorted(when)}


def read(distribution: str, release: str) -> dict[str, list[str]]:
    """What the bindings of one release have; they are loaded by a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = [part for tag in GLIBC for part in ("--platform", tag)]
        fetch = ["pip", "download", "-q", "--no-deps", "--only-binary=:all:", *PLATFORM, *wanted, "-d", folder]
        subprocess.run([sys.executable, "-m", *fetch, f"{distribution}=={release}"], check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            wheel.extractall(folder)
        binding = next(Path(folder).rglob("tensorrt*.so"))
        done = subprocess.run([sys.executable, __file__, binding], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)


def main() -> None:
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(described(load(Path(sys.argv[1]).resolve(), Path(scratch)))))
        return
    found = {v: read(d, release) for d, releases in WHEELS.items() for v, release in releases.items()}
    TABLE.write_text(json.dumps(joined(found), indent=0) + "\n")


if __name__ == "__main__":
    main()
