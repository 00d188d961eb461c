"""What TensorRT's faults are told as on this machine's GPU: each is one sentence, and leaves nothing behind.

    python benchmarks/gpu/tensorrt_faults.py MODEL_DIR [--work FOLDER] [--target TARGET] [--only NAME,NAME]
        [--large ENGINE_DIR]

Printed of each: the exit code, the files that it leaves, what is said. The faults of memory take all of the GPU's
memory for some seconds, so nothing else should run on it then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import trtc
from trtc.errors import TrtcError
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.memory import megabytes

files: Any = import_module("safetensors.numpy")

INTERRUPT = 6   # seconds after the start of a build
ROOM = 1200 << 20   # more than the activations of an engine for 8,192 tokens, less than those and its caches
LEFT = (0, 2 << 20, 16 << 20, 64 << 20)   # bytes of the GPU's memory


class Faults:
    """Each method is a fault.

    Args:
        model: a checkpoint.
        work: what is written goes here; an engine that an earlier call has left there is taken.
        large: an engine with weights in its plan.
    """

    def __init__(self, model: Path, work: Path, target: str, large: Path) -> None:
        self.model, self.work, self.large = model, work, large
        self.common = ("--target", target, "--dtype", "float16", "--optimization-level", "0", "--max-batch-size", "4")

    @cached_property
    def engine(self) -> Path:
        """An engine without weights of its own."""
        out = self.work / "engine"
        if not out.exists():
            self.tell("a build that succeeds", "compile", self.model, *self.common, "--weightless", "-o", out)
        return out

    def wrong_version(self) -> None:
        """The version that engine.json states."""
        copy = self.copy("version", (self.engine / "rank0/model.plan").read_bytes())
        said = json.loads((copy / "engine.json").read_text())
        said["target"]["version"] = "8.5.3"
        (copy / "engine.json").write_text(json.dumps(said))
        self.run("a plan of another version, as engine.json says", copy)

    def truncated(self) -> None:
        """Less of a plan than there was, or another byte in its header."""
        whole = (self.engine / "rank0/model.plan").read_bytes()
        cut = self.copy("cut", whole)
        (cut / "rank0/model.plan").write_bytes(whole[: len(whole) // 2])
        self.run("half of a plan", cut)
        other = whole[:8] + bytes([whole[8] ^ 1]) + whole[9:]
        for name, plan in (("half", whole[: len(whole) // 2]), ("empty", b""), ("byte", other)):
            self.run(f"the same as engine.json says: {name}", self.copy(name, plan))

    def interrupted(self) -> None:
        """Ctrl-C, and the end that a job's manager sends."""
        for number in (signal.SIGINT, signal.SIGTERM):
            out = self.work / "interrupted"
            arguments = ("compile", self.model, *self.common, "-o", out)
            self.tell(f"{number.name} after {INTERRUPT} s of a build", *arguments, interrupt=number)

    def not_a_number(self) -> None:
        """A checkpoint with a NaN, in the same engine."""
        bad, out = self.work / "nan", self.work / "nan-engine"
        shutil.copytree(self.model, bad, dirs_exist_ok=True)
        tensors = files.load_file(bad / "model.safetensors")
        name = next(n for n in tensors if "norm" in n)
        tensors[name] = np.full_like(tensors[name], np.nan)
        files.save_file(tensors, bad / "model.safetensors", {"format": "pt"})
        self.tell("a refit with a NaN", "refit", self.engine, bad, "-o", out)
        self.run("NaN in logits, not asked for", out, "--max-new-tokens", 4)
        self.run("NaN in logits, asked for", out, "--max-new-tokens", 4, "--check-numerics")

    def small_workspace(self) -> None:
        """Less scratch memory than any kernel takes."""
        out = self.work / "small"
        arguments = ("compile", self.model, *self.common, "--workspace", "1KiB", "-o", out)
        self.tell("a build with 1 KiB of workspace", *arguments)

    def huge_limits(self) -> None:
        """Limits that no GPU has the memory for, at build; the last has a model of long contexts."""
        for limits in (("--max-batch-size", 65536), ("--max-batch-size", 2**20, "--max-seq-len", 512)):
            arguments = ("compile", self.model, *self.common, *limits, "-o", self.work / "huge")
            self.tell(f"a build for {' '.join(map(str, limits))}", *arguments)

    def full_load(self) -> None:
        """The GPU is full, or nearly, as an engine is loaded: by another process, then by this one."""
        engine, device = self.engine, open_device()
        with Full(device, 0):
            self.run("trtc run beside a process that fills the GPU", engine)
        for left in LEFT:
            with Full(device, left):
                self.here(f"a load and a run with {megabytes(left)} left", lambda: answer(trtc.load(engine)))
        self.here("the same, now that it is free", lambda: answer(trtc.load(engine)))

    def full_run(self) -> None:
        """The GPU fills up before the first run of an engine that is loaded, and between two runs."""
        device = open_device()
        for left in LEFT:
            engine = trtc.load(self.engine)
            with Full(device, left):
                self.here(f"a first run with {megabytes(left)} left", lambda engine=engine: answer(engine))
            self.here("the same, now that it is free", lambda engine=engine: answer(engine))
            with Full(device, left):
                self.here(f"a longer run with {megabytes(left)} left", lambda engine=engine: answer(engine, 300))

    def caches(self) -> None:
        """Caches that do not fit, by an engine that has weights of its own: ``--large``."""
        engine = trtc.load(self.large)
        with Full(open_device(), ROOM):
            for new in (7000, 8):
                self.here(f"{new} tokens with {megabytes(ROOM)} left", lambda new=new: answer(engine, 1, new))
            self.here(f"a load of it with {megabytes(ROOM)} left", lambda: trtc.load(self.large))

    def full_build(self) -> None:
        """The GPU is full, or nearly, as an engine is built: by another process, then by this one."""
        device, options = open_device(), trtc.TensorRTOptions(optimization_level=0)
        build: Any = {"dtype": "float16", "tensorrt": options}
        with Full(device, 0):
            self.tell("trtc compile beside a process that fills the GPU",
                      "compile", self.model, *self.common, "-o", self.work / "full")   # fmt: skip
        for left in (0, 8 << 20):
            with Full(device, left):
                self.here(f"a build with {megabytes(left)} left",
                          lambda: trtc.compile(self.model, self.work / "full", **build))   # fmt: skip
            self.nothing_left(set())

    def copy(self, name: str, plan: bytes) -> Path:
        """The engine with another plan, which engine.json agrees with."""
        out = self.work / name
        shutil.copytree(self.engine, out, dirs_exist_ok=True)
        file = out / "rank0/model.plan"
        file.write_bytes(plan)
        said = json.loads((out / "engine.json").read_text())
        said["files"]["rank0/model.plan"] = {"sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)}
        (out / "engine.json").write_text(json.dumps(said))
        return out

    def run(self, what: str, engine: Path, *more: Any) -> None:
        self.tell(what, "run", engine, "--prompt-ids", "1,2,3", *(more or ("--max-new-tokens", "4")))

    def here(self, what: str, call: Callable[[], Any]) -> None:
        """A fault in this process."""
        start = time.perf_counter()
        try:
            said = f"no error: {str(call())[:80]}"
        except TrtcError as error:
            said = str(error)
        except BaseException as error:   # which would be a bug of ours
            said = f"NOT A SENTENCE: {error!r}"
        print(f"{what} ({time.perf_counter() - start:.1f} s): {said}", flush=True)

    def tell(self, what: str, *arguments: Any, interrupt: int = 0) -> None:
        """A fault of a command."""
        before, start = set(os.listdir(self.work)), time.perf_counter()
        command = [sys.executable, "-m", "trtc", *map(str, arguments)]
        pipe: Any = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, errors="replace") as process:
            if interrupt:
                time.sleep(INTERRUPT)
                process.send_signal(interrupt)
            out, said = process.communicate()
        took = time.perf_counter() - start
        print(f"{what} (exit {process.returncode}, {took:.1f} s): {said.strip() or 'nothing'}", flush=True)
        if process.returncode == 0 and out.strip():
            print(f"  it prints {out.strip()[:80]!r}", flush=True)
        if process.returncode:
            self.nothing_left(before)

    def nothing_left(self, before: set[str]) -> None:
        """Print the files that a fault has left."""
        left = {name for name in set(os.listdir(self.work)) - before if before or name.startswith((".", "full"))}
        if left:
            print(f"  LEFT BEHIND: {', '.join(sorted(left))}", flush=True)


def answer(engine: Any, tokens: int = 3, new: int = 8) -> str:
    """How much text follows a prompt of so many tokens."""
    completion = engine.generate([[3] * tokens], max_new_tokens=new)[0]
    return f"{len(completion.token_ids)} tokens"


class Full:
    """A GPU with this many bytes left, while it is entered."""

    def __init__(self, device: Any, left: int) -> None:
        self.device, self.left, self.taken = device, left, list[int]()

    def __enter__(self) -> None:
        self.device.use()
        kept = self.take(self.left) if self.left else []
        piece = 1 << 36
        while piece >= 1 << 12:
            if found := self.take(piece):
                self.taken += found
            else:
                piece //= 2
        for address in kept:
            self.device.driver.call("cuMemFree", address)

    def take(self, size: int) -> list[int]:
        """One piece of memory, if there is one."""
        try:
            return [int(self.device.driver.call("cuMemAlloc", size))]
        except TrtcError:
            return []

    def __exit__(self, *error: object) -> None:
        self.device.use()
        for address in self.taken:
            self.device.driver.call("cuMemFree", address)


NAMES = ("wrong_version", "truncated", "interrupted", "not_a_number", "small_workspace", "huge_limits", "full_load",
         "full_run", "caches", "full_build")   # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/tensorrt_faults"))
    parser.add_argument("--target", default="tensorrt")
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--large", type=Path, default=Path("large"))
    asked = parser.parse_args(arguments)
    asked.work.mkdir(parents=True, exist_ok=True)
    faults = Faults(asked.model, asked.work, asked.target, asked.large)
    for name in asked.only.split(","):
        getattr(faults, name)()


if __name__ == "__main__":
    main()
