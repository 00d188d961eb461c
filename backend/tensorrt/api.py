"""Versions of TensorRT and of TensorRT-RTX, and what the API of each has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from trtc.ir.errors import IRError

Version: TypeAlias = tuple[int, ...]

TENSORRT, RTX = "tensorrt", "tensorrt-rtx"
PRODUCTS: Mapping[str, str] = {TENSORRT: "TensorRT", RTX: "TensorRT-RTX"}

KNOWN: Mapping[str, tuple[Version, ...]] = {
    TENSORRT: ((8, 6), *((10, minor) for minor in range(17)), *((11, minor) for minor in range(5))),
    RTX: ((1, 4), (1, 5), (1, 6), (1, 7)),
}
"""The versions that there is a record of, oldest first; any other is taken as the nearest before it."""

SAME_API: Mapping[Version, Version] = {(1, 4): (10, 16), (1, 5): (11, 0), (1, 6): (11, 2), (1, 7): (11, 4)}
"""The version of TensorRT whose API each TensorRT-RTX has."""

FIRST: Mapping[str, Version] = {
    "strongly typed networks": (10, 0),
    "bf16": (10, 0),
    "i64": (10, 0),
    "GELU layers": (10, 0),
    "attention layers": (10, 14),
    "rotary embedding layers": (10, 15),
    "KV cache update layers": (10, 15),
    "mixture-of-experts layers": (10, 16),
    "attention over lengths": (11, 0),
}
"""The version of TensorRT that each feature comes with."""


@dataclass(frozen=True)
class Api:
    """What one version of a product can be told.

    Args:
        product: ``tensorrt`` or ``tensorrt-rtx``.
        version: (major, minor), one of `KNOWN`.
    """

    product: str
    version: Version

    @property
    def level(self) -> Version:
        """The version of TensorRT that has this API."""
        return SAME_API.get(self.version, self.version) if self.product == RTX else self.version

    def has(self, feature: str) -> bool:
        """Whether it has a feature of `FIRST`."""
        return self.level >= FIRST[feature]

    def lacks(self, feature: str) -> str | None:
        """Why it is without a feature; None if it has it."""
        since = f"which come{'' if feature.endswith('s') else 's'} with TensorRT {dotted(FIRST[feature])}"
        return None if self.has(feature) else f"{self} has no {feature}, {since}"

    def __str__(self) -> str:
        return f"{PRODUCTS[self.product]} {dotted(self.version)}"


def api_of(product: str, version: str) -> Api:
    """The API of a version such as ``10.15`` or ``8.6.1.6``.

    Errors:
        IRError: it is no version, or older than every one that there is a record of.
    """
    known = KNOWN[product]
    try:
        asked = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        raise IRError(f"{product} has no version {version}", f"help: {product}:{dotted(known[-1])}") from None
    nearest = [v for v in known if v <= asked] if len(asked) > 1 else [v for v in known if v[:1] == asked]
    if not nearest:
        raise IRError(f"{product}:{version} is not supported", f"help: {dotted(known[0])} is the oldest that is")
    return Api(product, nearest[-1])


def dotted(version: Version) -> str:
    """A version as it is written.

    >>> dotted((10, 15))
    '10.15'
    """
    return ".".join(map(str, version))
