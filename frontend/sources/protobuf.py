"""Protocol Buffers on the wire: the fields of a message, found without copying what they hold.

Source: protobuf.dev, Encoding. A message is fields one after another, each a number, a wire type and a payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import TypeAlias

Bytes: TypeAlias = "bytes | mmap"
Edit: TypeAlias = Callable[[int, int], "bytes | None"]
"""What stands for a sub-message at these bytes; None drops the field."""
VARINT, FIXED64, PAYLOAD, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Field:
    """One field: its number and wire type, where it begins, and where its payload lies (a varint's value besides)."""

    number: int
    wire: int
    first: int
    start: int
    stop: int
    value: int


def fields(data: Bytes, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message at these bytes.

    Errors:
        ValueError: the bytes are no message.
    """
    at = start
    while at < stop:
        first = at
        tag, at = varint(data, at, stop)
        value, begin, wire = 0, at, tag & 7
        if wire == VARINT:
            value, at = varint(data, at, stop)
        elif wire in (FIXED64, FIXED32):
            at += 8 if wire == FIXED64 else 4
        elif wire == PAYLOAD:
            length, begin = varint(data, at, stop)
            at = begin + length
        else:
            raise ValueError(f"wire type {wire} at byte {first}")
        if at > stop:
            raise ValueError(f"the field at byte {first} ends beyond its message")
        yield Field(tag >> 3, wire, first, begin, at, value)


def varint(data: Bytes, at: int, stop: int) -> tuple[int, int]:
    """The number at a byte, seven bits a byte, and the byte after it."""
    value = shift = 0
    while at < stop and shift < 64:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise ValueError(f"the number at byte {at} does not end")


def varints(data: Bytes, field: Field) -> list[int]:
    """The numbers of a repeated field's part: one, or several packed into a payload."""
    if field.wire == VARINT:
        return [field.value]
    found: list[int] = []
    at = field.start
    while at < field.stop:
        number, at = varint(data, at, field.stop)
        found.append(number)
    return found


def edited(data: Bytes, start: int, stop: int, edits: Mapping[int, Edit]) -> bytes:
    """A copy of the message at these bytes, with what the edits make of the sub-messages in the fields they name."""
    parts: list[bytes] = []
    for field in fields(data, start, stop):
        if field.wire != PAYLOAD or field.number not in edits:
            parts.append(data[field.first : field.stop])
        elif (made := edits[field.number](field.start, field.stop)) is not None:
            parts += [_varint_of(field.number << 3 | PAYLOAD), _varint_of(len(made)), made]
    return b"".join(parts)


def _varint_of(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
