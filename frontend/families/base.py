"""Families: what turns a checkpoint's config and names into the generic decoder's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trtc.errors import TrtcError
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.weights import Entry
from trtc.ir.errors import nearest

FAMILIES: dict[str, Family] = {}
"""By architecture, as config.json names it."""


@dataclass(frozen=True)
class Family:
    """One family of models.

    Args:
        name: as people call it.
        architectures: what ``architectures`` of config.json says.
        features: what it needs of the decoder, for ``trtc models``.
        config: the decoder's config of a checkpoint's keys.
        names: for each role, the checkpoint's key, both less their last part; ``{n}`` stands for the layer. Where a
            weight is a part of a tensor, or made of several: what makes it (``frontend/merged.py``).
        prefix: what keys begin with, unless the checkpoint is of the model without its head.
    """

    name: str
    architectures: tuple[str, ...]
    features: str
    config: Callable[[Keys], DecoderConfig]
    names: Mapping[str, Entry]
    prefix: str = ""


def register(family: Family) -> None:
    """Make a family known by its architectures."""
    FAMILIES.update(dict.fromkeys(family.architectures, family))


def family_of(architecture: str, file: str) -> Family:
    """The family of an architecture; an error that names the nearest one known."""
    if architecture not in FAMILIES:
        known = nearest(architecture, FAMILIES) or ["help: `trtc models` lists what is known"]
        raise TrtcError(f"{file}: architecture {architecture} is unknown", *known)
    return FAMILIES[architecture]
