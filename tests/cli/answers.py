"""Commands run in this process, and what they print with ``--json`` held against the schema of their answer."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import jsonschema

from edgebuild.cli import console, schemas
from edgebuild.cli.app import app

if TYPE_CHECKING:
    from pathlib import Path


class Printed(NamedTuple):
    """How a command ended in this process."""

    code: int
    out: str
    err: str


@functools.cache
def validator(command: str) -> Any:
    return jsonschema.Draft202012Validator(schemas.schema_of(command))


def valid(command: str, text: str) -> Any:
    """Return the one JSON document that a command printed; fails where it isn't what the schema says."""
    found = json.loads(text)
    validator(command).validate(found)
    return found


def command_of(words: tuple[str, ...]) -> str:
    """Return the name of the command that a command line calls."""
    return next(name for end in (3, 2, 1) if (name := " ".join(words[:end])) in schemas.ANSWERS)


def typed(*words: str, cwd: Path) -> Printed:
    """Type a command; it runs in this process, since one of its own takes a second to start."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = console.run(app, words)
    return Printed(code, out.getvalue(), err.getvalue())


def answered(*words: str, cwd: Path, code: int = 0) -> Any:
    """Return what a command answers in JSON, whose exit code must be ``code``."""
    printed = typed(*words, "--json", cwd=cwd)
    assert printed.code == code, printed
    return valid(command_of(words), printed.out)


def failed(*words: str, cwd: Path) -> Any:
    """Return the error of a command that fails, as it says it in JSON; standard error says it to people."""
    printed = typed(*words, "--json", cwd=cwd)
    error = valid(schemas.ERROR, printed.out)["error"]
    assert error["exit_code"] == printed.code != 0, printed
    assert error["message"] in printed.err
    return error
