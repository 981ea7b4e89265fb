"""Tables that people write: read, checked by pydantic, and what is wrong said in words.

The model of a table is a dataclass below `Row`. It is checked when a table is read, not when our own code makes one. A
validator that knows what to say raises a UserError without a place.
"""

import reprlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, StrictFloat, TypeAdapter, ValidationError, WrapValidator

from nnunetv2_clip.errors import UserError, suggestion

MAX_ALIASES = 20  # of YAML: a few lines of aliases of aliases can stand for millions of entries
MAX_DEPTH = 20
MAX_LISTED = 2  # further mistakes that a message names
MAX_CHARACTERS = 300  # of what a message quotes
ENTRIES = {"cases": "case", "classes": "row", "values": "label value"}  # what one is called
CONTAINERS = {"dict_type": "table", "dataclass_type": "table", "list_type": "list", "tuple_type": "list"}


def read_yaml(path: Path | str, expected: str, remedy: str = "") -> Any:
    """The content of a YAML file.

    Raises:
        UserError: it cannot be read, is not YAML in UTF-8, or is not a table but a trap.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        depth = aliases = 0
        for event in yaml.parse(text):
            aliases += isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or aliases > MAX_ALIASES:
                raise ValueError(f"deeper than {MAX_DEPTH} levels, or more than {MAX_ALIASES} aliases")
        return yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(path, f"cannot be read as YAML ({_shortened(str(error))})", expected, remedy) from None


def checked(model: Any, content: object, where: object, remedy: str = "", context: object = None) -> Any:
    """The content of a table as `model`.

    Args:
        context: what validators look at, mostly the taxonomy.

    Raises:
        UserError: what is wrong; of many mistakes the first few.
    """
    try:
        return _adapter(model).validate_python(content, context=context)
    except ValidationError as error:
        keys = _keys(_adapter(model).json_schema())
        first, *others = (_mistake(details, keys) for details in error.errors(include_url=False))
    also = "; ".join(": ".join(filter(None, (each.where, each.found))) for each in others[:MAX_LISTED])
    more = f"; and {len(others) - MAX_LISTED} more" if len(others) > MAX_LISTED else ""
    found = f"{first.found} (also: {also}{more})" if others else first.found
    place = f"{where}, {first.where}" if first.where else where
    raise UserError(place, found, first.expected, first.remedy or remedy)


@cache
def _adapter(model: Any) -> TypeAdapter:
    return TypeAdapter(model)


def _mistake(details: Any, keys: dict[str, str]) -> UserError:
    """An error of pydantic in words, with its place in the table."""
    kind, place, value = details["type"], details["loc"], quoted(details["input"])
    if kind == "missing":
        return UserError(_place(place[:-1]), f"lacks {place[-1]!r}", keys.get(place[-1], ""))
    if kind in ("unexpected_keyword_argument", "invalid_key"):
        near = suggestion(str(place[-1]), keys)
        return UserError(_place(place[:-1]), f"unknown key {quoted(place[-1])}.{near}", f"keys out of {list(keys)}")
    said = details.get("ctx", {}).get("error")
    if not isinstance(said, UserError):
        container = CONTAINERS.get(kind)
        found = f"holds no {container} but {value}" if container else value
        otherwise = f"a {container}" if container else details["msg"].removeprefix("Input should be ")
        said = UserError("", found, next((keys[key] for key in reversed(place) if keys.get(key)), otherwise))
    return UserError(_place(place), _shortened(said.found), said.expected, said.remedy)


def _keys(schema: dict) -> dict[str, str]:
    """The keys of all tables of a JSON schema, and what is expected there."""
    parts = (schema, *schema.get("$defs", {}).values())
    tables = [part["properties"] for part in parts if part.get("additionalProperties") is False]
    return {key: value.get("description", "") for table in tables for key, value in table.items()}


def _place(keys: Iterable[Any]) -> str:
    words = [""]
    for key in keys:
        if words[-1] in ENTRIES:
            number = isinstance(key, int) and words[-1] == "classes"
            words[-1] = f"{ENTRIES[words[-1]]} {key + 1 if number else quoted(key)}"
        elif isinstance(key, str) and key != "[key]":  # neither a place in a list nor pydantic's word for a wrong key
            words.append(_shortened(key))
    return ", ".join(words[1:])


def quoted(value: object) -> str:
    """A value as messages show it: whole if it is small."""
    try:
        return _shortened(reprlib.repr(value) if isinstance(value, list | dict) else repr(value))
    except ValueError:  # Python does not write out integers of thousands of digits
        return "a huge number"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


class Row:
    """A table with fixed keys: the fields of the dataclass. Their `description` is what messages expect."""

    __pydantic_config__ = ConfigDict(extra="forbid")


NoneIsEmpty = BeforeValidator(lambda value: () if value is None else value)  # YAML: a key without a value
AsWritten = WrapValidator(lambda value, check: (check(value), value)[1])  # 80 stays 80, not 80.0
Finite = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], NoneIsEmpty, Field(description="a list of names")]
Text = Annotated[str, Field(coerce_numbers_to_str=True), BeforeValidator(lambda text: "" if text is None else text)]
