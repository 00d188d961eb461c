"""Versions of TensorRT and of TensorRT-RTX, and what the API of each has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

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
    "plugins compiled ahead of time": (10, 9),
    "attention layers": (10, 14),
    "rotary embedding layers": (10, 15),
    "KV cache update layers": (10, 15),
    "mixture-of-experts layers": (10, 16),
    "collective layers": (10, 16),
    "attention over lengths": (11, 0),
    "attention over packed tokens": (11, 0),
}
"""The version of TensorRT that each feature comes with."""

NOT_BUILT: Mapping[tuple[str, str], str] = {
    (RTX, "mixture-of-experts layers"): "its builder knows no kernel for them",
    (RTX, "attention over packed tokens"): "its builder knows no kernel for it",
    (RTX, "plugins compiled ahead of time"): "its plugins are Python code, which must be there when a plan is loaded",
}
"""What a product is without, whatever the version of TensorRT that has its API, and why."""

CAPABILITIES: Mapping[str, tuple[int, ...]] = {"mixture-of-experts layers": (100, 103, 110)}
"""The compute capabilities, as in sm_100, of the GPUs that alone have a feature; the others are on any."""
PROBES: Mapping[str, str] = {
    "strongly typed networks": "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "bf16": "DataType.BF16",
    "i64": "DataType.INT64",
    "GELU layers": "ActivationType.GELU_ERF",
    "plugins compiled ahead of time": "QuickPluginCreationRequest.STRICT_AOT",
    "attention layers": "INetworkDefinition.add_attention",
    "rotary embedding layers": "INetworkDefinition.add_rotary_embedding",
    "KV cache update layers": "INetworkDefinition.add_kv_cache_update",
    "mixture-of-experts layers": "INetworkDefinition.add_moe",
    "collective layers": "INetworkDefinition.add_dist_collective",
    "attention over lengths": "IAttention.key_value_lengths",
    "attention over packed tokens": "AttentionIOForm.PACKED_NHD",
}
"""The name that a module has if it has a feature: asked of versions that there is no record of."""
BF16_SINCE = 80   # the least compute capability that computes in bf16


@dataclass(frozen=True)
class Api:
    """What one version of a product can be told.

    Args:
        product: ``tensorrt`` or ``tensorrt-rtx``.
        version: (major, minor), one of `KNOWN`.
        capability: the GPU's compute capability, as in sm_89; 0 where nothing is said of it.
        found: the features whose names the installed module has; None where the version says it.
    """

    product: str
    version: Version
    capability: int = 0
    found: frozenset[str] | None = None

    @property
    def level(self) -> Version:
        """The version of TensorRT that has this API."""
        return SAME_API.get(self.version, self.version) if self.product == RTX else self.version

    def has(self, feature: str) -> bool:
        """Whether it has a feature of `FIRST`."""
        return self.lacks(feature) is None

    def lacks(self, feature: str) -> str | None:
        """Why it is without a feature; None if it has it."""
        reason = self.missing(feature)
        return f"{self} has no {feature}{reason}" if reason else self._not_on_this_gpu(feature)

    def missing(self, feature: str) -> str | None:
        """Why no GPU has a feature with it, as the end of "it has no ..."; None where some have it."""
        if self.found is not None and feature not in self.found:
            return f": its module has no {PROBES[feature]}"
        if self.found is None and self.level < FIRST[feature]:
            return f", which TensorRT has from {dotted(FIRST[feature])} on"
        refused = NOT_BUILT.get((self.product, feature))
        return f": {refused}" if refused else None

    def _not_on_this_gpu(self, feature: str) -> str | None:
        if feature == "bf16" and 0 < self.capability < BF16_SINCE:
            return f"GPUs of sm_{self.capability} do not compute in bf16, those from sm_{BF16_SINCE} on do"
        if self.capability not in (those := CAPABILITIES.get(feature, (self.capability,))):
            said = f"sm_{self.capability}" if self.capability else "the target names none"
            return f"{feature} need a GPU of {' or '.join(f'sm_{c}' for c in those)}, but {said}"
        return None

    @property
    def number(self) -> str:
        """The version as it is written."""
        return dotted(self.version)

    def __str__(self) -> str:
        return f"{PRODUCTS[self.product]} {self.number}"


def api_of(product: str, version: str, capability: str = "") -> Api:
    """The API of a version such as ``10.15`` or ``8.6.1.6``, for GPUs of a compute capability such as ``sm89``.

    Errors:
        IRError: it is no version, or older than every one that there is a record of, or no compute capability.
    """
    known = KNOWN[product]
    if capability and not re.fullmatch(r"sm_?\d{2,3}", capability):
        raise IRError(f"`{capability}` is no compute capability", f"help: {product}:{version}/sm90")
    try:
        asked = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        raise IRError(f"{product} has no version {version}", f"help: {product}:{dotted(known[-1])}") from None
    nearest = [v for v in known if v <= asked or v[:1] == asked]
    if not nearest:
        raise IRError(f"{product}:{version} is not supported", f"help: {dotted(known[0])} is the oldest that is")
    return Api(product, nearest[-1], int(capability.lstrip("sm_") or 0))


def probed(trt: Any) -> frozenset[str]:
    """The features that a module has, by its names."""

    def has(name: str) -> bool:
        kind, _, member = name.partition(".")
        return hasattr(getattr(trt, kind, None), member)

    return frozenset(feature for feature, name in PROBES.items() if has(name))


def dotted(version: Version) -> str:
    """A version as it is written.

    >>> dotted((10, 15))
    '10.15'
    """
    return ".".join(map(str, version))
