"""A command does its work and returns an answer; this is the one place where that is printed, as text or as JSON.

With ``--json`` standard output holds one JSON document and nothing else. Whatever is printed by the work itself (notes,
questions, the project's own code) goes to standard error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.cli.output import say_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgebuild.core.values import Value

FLAG = "--json"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command came to: its value, how people are told of it, and the exit code.

    ``schemas.ANSWERS`` says which value it is for each command.
    """

    value: Value | tuple[Value, ...]
    text: Callable[[], None]
    code: int = 0


def answer(work: Callable[[], Answer], *, as_json: bool) -> None:
    """Do a command's work and print the answer; raises ``typer.Exit`` with its exit code where that isn't 0."""
    if as_json:
        from edgebuild.cli.streams import output_to_stderr

        with output_to_stderr():
            made = work()
    else:
        made = work()
    tell(made, as_json=as_json)
    if made.code:
        import typer

        raise typer.Exit(made.code)


def tell(made: Answer, *, as_json: bool = False) -> None:
    """Print an answer."""
    if as_json:
        say_json(plain_data(made.value))
    else:
        made.text()


def plain_data(value: Value | tuple[Value, ...]) -> Any:
    """Return a value, or several, as what JSON can say."""
    return [plain_data(each) for each in value] if isinstance(value, tuple) else value.model_dump(mode="json")


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON: known before it is read, for what can't be read fails in JSON, too."""
    given = list(arguments)
    return FLAG in given[: given.index("--") if "--" in given else len(given)]
