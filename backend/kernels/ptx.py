"""The parameters of a kernel, as its PTX declares them: compared with what a launch passes, and put in another order.

PTX names its parameters, so that a kernel does the same whatever order they are declared in.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence

from trtc.backend.kernels.launch import Launch, Scalar
from trtc.errors import TrtcError

ENTRY = r"(\.entry\s+{}\s*\()([^)]*)(\))"
PARAMETER = re.compile(r"\.param\s.*?\.([subf]\d+)\b.*?(\w+)(\[\d+\])?\s*$", re.DOTALL)
TYPES: Mapping[str, tuple[str, ...]] = {
    "pointer": ("u64", "b64", "s64"), "i64": ("s64", "u64", "b64"), "i32": ("s32", "u32", "b32"), "f32": ("f32", "b32"),
}   # fmt: skip
"""The types of PTX that a launch's arguments may be declared by."""


def declared(ptx: str, entry: str) -> list[tuple[str, str]]:
    """Of each parameter of an entry, its type in PTX, such as ``u64``, and its name.

    Errors:
        TrtcError: there is no such entry, or one of its parameters is a struct.
    """
    found: list[tuple[str, str]] = []
    for line in filter(str.strip, _entry(ptx, entry)[2].split(",")):
        match = PARAMETER.search(line)
        if not match or match[3]:
            raise TrtcError(f"{entry} takes `{line.strip()}`, but must take pointers and numbers")
        found.append((match[1], match[2]))
    return found


def check(ptx: str, launch: Launch) -> None:
    """Compare what a launch passes with what the kernel takes: how many, in what order, of what types.

    Errors:
        TrtcError: they differ.
    """
    takes, passes = declared(ptx, launch.entry), launch.arguments
    if len(takes) != len(passes):
        said = f"the launch of {launch.entry} passes {len(passes)} arguments"
        raise TrtcError(f"{said}, but the kernel takes {len(takes)}")
    for number, ((kind, _), argument) in enumerate(zip(takes, passes, strict=True), 1):
        given = argument.dtype if isinstance(argument, Scalar) else "pointer"
        if kind not in TYPES[given]:
            said = f"argument {number} of {launch.entry} is {'a ' * (given == 'pointer')}{given} in its launch"
            raise TrtcError(f"{said}, but {kind} in the kernel")


def arranged(ptx: str, entry: str, order: Sequence[int], fixed: Mapping[int, float]) -> str:
    """The PTX with an entry's parameters in another order, but for those that become numbers.

    Args:
        order: of all other parameters, by the places that they have now.
        fixed: f32 parameters, and the numbers that take their places.
    Errors:
        TrtcError: the kernel does more with a fixed parameter than read it.
    """
    parameters = declared(ptx, entry)
    assert sorted([*order, *fixed]) == list(range(len(parameters)))
    before, head, inside, tail, after = _entry(ptx, entry)
    lines = [line.strip() for line in inside.split(",")]
    for place, number in fixed.items():
        after = _without(after, entry, parameters[place][1], number)
    return f"{before}{head}\n\t" + ",\n\t".join(lines[i] for i in order) + f"\n{tail}{after}"


def _entry(ptx: str, entry: str) -> tuple[str, str, str, str, str]:
    """The PTX before an entry, its head, its parameters, the parenthesis that ends them, and what follows."""
    match = re.search(ENTRY.format(re.escape(entry)), ptx)
    if not match:
        raise TrtcError(f"the kernel's source has no extern \"C\" __global__ function {entry}")
    return ptx[: match.start()], match[1], match[2], match[3], ptx[match.end() :]


def _without(ptx: str, entry: str, name: str, number: float) -> str:
    """PTX where a number is moved to wherever a parameter was read to."""
    bits = struct.pack(">f", number).hex().upper()

    def moved(match: re.Match[str]) -> str:
        return f"mov.{match[1]}{match[2]}{match[3]}, 0{'f' if match[1] == 'f32' else 'x'}{bits};"

    ptx = re.sub(rf"\bld\.param\.([fb]32)(\s+)(%\w+),\s*\[{name}\];", moved, ptx)
    if re.search(rf"\b{name}\b", ptx):
        raise TrtcError(f"{entry} does more with {name} than read it, but must only read what is fixed")
    return ptx
