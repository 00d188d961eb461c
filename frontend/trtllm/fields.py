"""Fields of dataclasses as JSON: what differs from the defaults, and back with every value checked by its type."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from trtc.frontend.config import Keys, RopeConfig
from trtc.frontend.rope import read_rope
from trtc.ir.errors import nearest

NO_ROPE = RopeConfig(theta=10000.0, dim=0)
POSITIONS = "max_position_embeddings"   # what rotary positions were trained on, if nothing else is said


def written(thing: Any, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults or have none, as JSON."""
    found = {f.name: getattr(thing, f.name) for f in fields(thing) if f.name not in leave}
    differ = [f.name for f in fields(thing) if f.name in found and found[f.name] != f.default]
    return {name: _json(found[name], getattr(thing, POSITIONS, 0)) for name in differ}


def _json(value: Any, positions: int) -> Any:
    if isinstance(value, RopeConfig):
        return _rope(value, positions)
    if isinstance(value, tuple):
        return [_json(each, positions) for each in cast("tuple[Any, ...]", value)]
    return written(value) if hasattr(value, "__dataclass_fields__") else value


def _rope(rope: RopeConfig, positions: int) -> dict[str, Any]:
    """Under Hugging Face's names, without what follows from the rest."""
    if not rope.dim:
        return {"dim": 0}
    parameters = {} if rope.kind == "default" else {"truncate": True, **(rope.parameters or {})}
    trained = parameters.pop("max_position", positions)
    if parameters.get("truncate"):
        del parameters["truncate"]
    return {
        "dim": rope.dim,
        **({"interleaved": True} if rope.interleaved else {}),
        **({"max_position": trained} if trained != positions else {}),
        "rope_parameters": {"rope_type": rope.kind, "rope_theta": rope.theta, **parameters},
    }


def read(kind: type[Any], keys: Keys, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass from an object that `written` made, over those that are known already.

    Errors:
        TrtcError: a key that is missing, that no field has, or whose value is of another type.
    """
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind) if f.name not in given}
    for key in keys.values:
        if key not in known:
            raise keys.unknown(key, *nearest(key, known))
    needed = {name: f for name, f in known.items() if name in keys.values or _is_mandatory(f)}
    positions = given.get(POSITIONS) or 1
    return {**given, **{name: _value(hints[name], keys, name, positions) for name in needed}}


def _is_mandatory(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _value(hint: Any, keys: Keys, key: str, positions: int) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return None if keys.values.get(key) is None else _value(options[0], keys, key, positions)
    if get_origin(hint) is Literal:
        return keys.choice(key, get_args(hint))
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint)[0], keys, key, positions)
    if hint is RopeConfig:
        return _read_rope(_section(keys, key), positions)
    if hasattr(hint, "__dataclass_fields__"):
        return hint(**read(hint, _section(keys, key), {}))
    return keys.get(hint, key)


def _tuple(kind: Any, keys: Keys, key: str, positions: int) -> tuple[Any, ...]:
    value: Any = keys.values.get(key)
    if not isinstance(value, list):
        raise keys.wrong(key, value, "a list")
    each = {f"{key}[{n}]": one for n, one in enumerate(cast("list[Any]", value))}
    return tuple(_value(kind, Keys(each, keys.file, keys.prefix), name, positions) for name in each)


def _section(keys: Keys, key: str) -> Keys:
    value: Any = keys.values.get(key)
    if not isinstance(value, Mapping):
        raise keys.wrong(key, value, "an object")
    return Keys(cast("Mapping[str, Any]", value), keys.file, f"{keys.prefix}{key}.")


def _read_rope(keys: Keys, positions: int) -> RopeConfig:
    if keys.get(int, "dim") == 0:
        return NO_ROPE
    turned, trained = keys.positive("dim"), keys.positive("max_position", default=positions)
    return read_rope(keys, turned, trained, interleaved=keys.get(bool, "interleaved", default=False))
