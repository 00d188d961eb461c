"""The schema of config.json: what it checks, in messages that name the key; what it says of defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.config import Keys

KINDS = {
    "integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a string",
    "object": "an object", "array": "a list", "null": "null",
}   # fmt: skip


@cache
def schema() -> dict[str, Any]:
    return json.loads(files("trtc.frontend.trtllm").joinpath("checkpoint.schema.json").read_text(encoding="utf-8"))


def defaults(section: str = "") -> dict[str, Any]:
    """What each key of config.json, or of a section of it, is where it is not there; of those that say it."""
    properties = schema()["properties"]
    properties = properties[section]["properties"] if section else properties
    return {key: value["default"] for key, value in properties.items() if "default" in value}


def check(raw: dict[str, Any], file: str) -> None:
    """Raise an error that names the first key, in the schema's order, whose value the schema refuses."""
    jsonschema: Any = import_module("jsonschema")
    errors = sorted(jsonschema.Draft202012Validator(schema()).iter_errors(raw), key=lambda e: list(map(str, e.path)))
    for error in errors:
        raise _in_words(error, file)
    for keys, known in _sections(raw, file):
        _check_spelling(keys, known)


def _sections(raw: dict[str, Any], file: str) -> Iterator[tuple[Keys, list[str]]]:
    properties = schema()["properties"]
    yield Keys(raw, file), list(properties)
    for name in ("mapping", "quantization"):
        if isinstance(inner := raw.get(name), dict):
            yield Keys(cast("dict[str, Any]", inner), file, f"{name}."), list(properties[name]["properties"])


def _check_spelling(keys: Keys, known: list[str]) -> None:
    """Models have keys of their own; one that is nearly another that is not there is a slip."""
    for key in keys.values:
        near = [] if key in known else get_close_matches(key, known, 1, cutoff=0.9)
        if near and near[0] not in keys.values:
            raise keys.unknown(key, f"help: did you mean `{near[0]}`?")


def _in_words(error: Any, file: str) -> TrtcError:
    path = [str(part) for part in error.path]
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return _missing(Keys(error.instance, file, "".join(f"{part}." for part in path)), missing)
    keys = Keys({}, file, "".join(f"{part}." for part in path[:-1]))
    return keys.wrong(path[-1], error.instance, _wanted(error.validator, error.validator_value))


def _missing(keys: Keys, key: str) -> TrtcError:
    try:
        keys.get(str, key)
    except TrtcError as error:
        return error
    raise AssertionError(key)


def _wanted(rule: str, value: Any) -> str:
    if rule == "type":
        return " or ".join(KINDS[kind] for kind in ([value] if isinstance(value, str) else value))
    if rule == "enum":
        return f"one of {', '.join(map(str, value))}"
    return {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "greater than"}[rule] + f" {value}"
