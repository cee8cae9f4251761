"""TOML in, values out, and every problem of a file reported at once in sentences that name the key."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from edgebuild.core.files import read_plain
from edgebuild.core.values import Value
from edgebuild.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

#: A configuration file of ours is a few kB; anything this large is another sort of file.
MAX_BYTES = 1 << 20

#: Tables and lists inside each other; ours have a few levels.
MAX_DEPTH = 20
_TOO_DEEP = f"tables or lists lie more than {MAX_DEPTH} deep in each other"

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

#: How far into a value a message quotes it.
_QUOTED_CHARACTERS = 60


class Table(Value):
    """One table of a TOML file; finite numbers only."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", allow_inf_nan=False)


def is_reference(text: str) -> bool:
    """Whether ``text`` has the form ``module:function``."""
    return _REFERENCE.fullmatch(text) is not None


def _reference(text: str) -> str:
    if is_reference(text):
        return text
    near = ":".join(text.rsplit(".", 1))
    hint = f' (did you mean "{near}"?)' if text.count(":") == 0 and is_reference(near) else ""
    raise ValueError(f'must be "module:function"{hint}')


Reference = Annotated[str, AfterValidator(_reference)]
T = TypeVar("T", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises ``ConfigError`` naming the file, and for a syntax error its line, when the file is missing, unreadable, no
    plain file, larger than 1 MiB, not UTF-8, not TOML, or holds what no key of ours can: numbers of more than 64 bits,
    control characters, tables within tables without end.
    """
    try:
        raw = read_plain(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise ConfigError(
            str(path), ("the file doesn't exist",), hint="`edgebuild init` writes a commented edgebuild.toml."
        ) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            str(path), (f"the file can't be read: {reason}",), hint="It must be a readable TOML file."
        ) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(str(path), ("the file is larger than 1 MiB",), hint="Is it really a TOML file?")
    try:
        tables = tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(str(path), (f"line {line}: not UTF-8",), hint="Save the file as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), (f"not valid TOML: {error}",), hint="See https://toml.io.") from error
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            str(path), ("not valid TOML: a number or a date is out of range",), hint="See https://toml.io."
        ) from error
    except RecursionError as error:
        raise ConfigError(str(path), (_TOO_DEEP,), hint="Is it really a configuration file?") from error
    problems = tuple(dict.fromkeys(_odd_values(tables)))
    if problems:
        raise ConfigError(str(path), problems, hint="Is it really a configuration file?")
    return tables


def _odd_values(tables: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each value that is TOML, or nearly, and can't be meant."""
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), tables)]
    while todo:
        loc, value = todo.pop()
        if len(loc) > MAX_DEPTH:
            yield _TOO_DEEP
        elif isinstance(value, dict):
            todo += [((*loc, key), inner) for key, inner in reversed(value.items())]
            yield from (f"{key_path(loc, tables)}: a key holds a control character" for key in value if _odd_text(key))
        elif isinstance(value, list):
            todo += [((*loc, index), inner) for index, inner in reversed(list(enumerate(value)))]
        elif isinstance(value, str) and _odd_text(value):
            yield f"{key_path(loc, tables)}: holds a control character"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield f"{key_path(loc, tables)}: a whole number has 64 bits at most"


def _odd_text(text: str) -> bool:
    return any((char < " " and char not in "\t\n\r") or char == "\x7f" for char in text)


def validate(model: type[T], data: Mapping[str, Any], source: str, *, hint: str = "") -> T:
    """Return ``data`` as a ``model``; raises ``ConfigError`` with every problem of it."""
    value, problems = collect(model, data)
    if value is None:
        raise ConfigError(source, problems, hint=hint)
    return value


def collect(model: type[T], data: Mapping[str, Any], where: str = "") -> tuple[T | None, tuple[str, ...]]:
    """Return the value and no problem, or no value and every problem, one sentence each, behind the table's path."""
    try:
        # Through JSON, because pydantic's strict mode takes lists for tuples and text for enumerations only there.
        return model.model_validate_json(json.dumps(data, default=str), strict=True), ()
    except ValidationError as error:
        errors = [details for details in error.errors(include_url=False) if not _is_echo(details)]
        return None, tuple(_sentence(model, data, details, where) for details in errors)


def _is_echo(details: ErrorDetails) -> bool:
    """Whether pydantic calls a list too short only because its entries, reported on their own, are wrong."""
    return details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]


def broken_keys(model: type[BaseModel], data: Mapping[str, Any]) -> frozenset[str]:
    """Return the top-level keys of ``data`` with a problem in them."""
    try:
        model.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        return frozenset(str(details["loc"][0]) for details in error.errors(include_url=False) if details["loc"])
    return frozenset()


def collect_one(model: type[BaseModel], key: str, value: Any) -> Any:
    """Return the value of one top-level key that is known to be right."""
    annotation: Any = model.model_fields[key].rebuild_annotation()
    return TypeAdapter(annotation).validate_json(json.dumps(value, default=str), strict=True)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``unknown <kind> "<name>"`` with the nearest known name, or all of them."""
    return f'unknown {kind} "{name}"; {suggestion(name, known)}'


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean "x"?`` for a near miss, else the list of what is known."""
    names = sorted(set(known))
    if not names:
        return "there are none"
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f'did you mean "{near[0]}"?'
    return "known: " + ", ".join(names)


def quote(value: Any) -> str:
    """Return a value as TOML would write it, shortened."""
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _QUOTED_CHARACTERS else text[: _QUOTED_CHARACTERS - 1] + "…"


def key_path(loc: Sequence[int | str], data: Any) -> str:
    """Return where in the file a key lies: ``name``, ``[budget].points``, ``[[inputs]]#2.shape#1`` (counted from 1)."""
    text = ""
    here = data
    for depth, part in enumerate(loc):
        below = _get(here, part)
        if isinstance(part, int):
            text += f"#{part + 1}"
        elif depth == 0 and len(loc) > 1 and _is_tables(below):
            text = f"[[{part}]]"
        elif isinstance(below, dict) and (depth == 0 or text.endswith("]")):
            text = f"[{text.strip('[]') + '.' if text else ''}{toml_key(str(part))}]"
        else:
            text += f".{toml_key(str(part))}" if text else toml_key(str(part))
        here = below
    return text


def toml_text(value: str) -> str:
    """Return a basic TOML string: as JSON's, but DEL is escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(name: str) -> str:
    """Return a key as TOML writes it: bare where it can be."""
    plain = name.replace("_", "").replace("-", "")
    return name if plain.isascii() and plain.isalnum() else toml_text(name)


def _get(data: Any, part: int | str) -> Any:
    if isinstance(data, dict) and isinstance(part, str):
        return data.get(part)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


#: pydantic's error types → what the value must be.
_MUST_BE = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a table",
    "string_type": "text",
    "tuple_type": "a list",
}


def _sentence(model: type[BaseModel], data: Mapping[str, Any], details: ErrorDetails, where: str) -> str:
    loc, kind, given = details["loc"], details["type"], details["input"]
    path = ".".join(filter(None, (where, key_path(loc, data))))
    if kind == "extra_forbidden":
        known = _table_at(model, loc[:-1])
        return f"{path}: unknown key; {suggestion(str(loc[-1]), known.model_fields if known else ())}"
    if kind == "missing":
        return f"{_missing_path(model, loc, path)}: is missing"
    if kind in _MUST_BE:
        return f"{path}: must be {_MUST_BE[kind]}, got {quote(given)}"
    what = _constraint(kind, details.get("ctx", {}), details["msg"])
    if isinstance(given, dict | list):
        return f"{path}: {what}" if path else what
    near = difflib.get_close_matches(given, _choices(details), n=1) if isinstance(given, str) else []
    return f"{path}: {what}, got {quote(given)}" + (f'; did you mean "{near[0]}"?' if near else "")


def _choices(details: ErrorDetails) -> list[str]:
    """Return what a literal may be; empty for any other kind of error."""
    return re.findall(r"'([^']*)'", details["ctx"]["expected"]) if details["type"] == "literal_error" else []


def _constraint(kind: str, ctx: Mapping[str, Any], message: str) -> str:
    match kind:
        case "literal_error":
            return f"must be {str(ctx['expected']).replace(chr(39), chr(34))}"
        case "greater_than":
            return f"must be greater than {ctx['gt']:g}"
        case "greater_than_equal":
            return f"must be at least {ctx['ge']:g}"
        case "less_than":
            return f"must be less than {ctx['lt']:g}"
        case "less_than_equal":
            return f"must be at most {ctx['le']:g}"
        case "too_short":
            return f"needs at least {ctx['min_length']} entries" if ctx["min_length"] > 1 else "must not be empty"
        case "too_long":
            return f"takes at most {ctx['max_length']} entries"
        case "string_too_short":
            return "must not be empty"
        case "finite_number":
            return "must be a finite number"
        case "value_error":
            return message.removeprefix("Value error, ")
        case _:
            return message


def _missing_path(model: type[BaseModel], loc: Sequence[int | str], path: str) -> str:
    """Show a missing table as ``[table]``, a missing key as a key."""
    table = _table_at(model, loc[:-1])
    field = table.model_fields.get(str(loc[-1])) if table else None
    if field is not None and len(loc) == 1 and _table_in(field.annotation) is not None:
        return f"[{path}]"
    return path


def _table_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel] | None:
    """Return the model that describes the table at ``loc``."""
    found: type[BaseModel] | None = model
    for part in loc:
        if found is None:
            return None
        if isinstance(part, str) and part in found.model_fields:
            found = _table_in(found.model_fields[part].annotation)
    return found


def _table_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _table_in(inner))), None)
