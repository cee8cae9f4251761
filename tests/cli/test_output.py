"""Nothing that is printed steers the terminal, is taken for markup, or shows a password."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.cli import progress
from edgebuild.cli.console import say_error
from edgebuild.cli.output import harmless, make_console, plain, say
from edgebuild.errors import DeviceError, StoreError
from edgebuild.execution.store import Store
from tests.mutants import ODD

if TYPE_CHECKING:
    from collections.abc import Callable

EVIL = "[red]a\x1b[2J\x1b]0;title\x07\u202eb\x9b[/red] :smile:"
KEPT = "[red]a"


def printed(print_it: Callable[[Any], None], *, terminal: bool = False) -> str:
    """Return what a console writes."""
    console = make_console()
    out = io.StringIO()
    console.file = out
    console._force_terminal = terminal
    print_it(console)
    return out.getvalue()


def as_text(console: Any) -> None:
    from rich.text import Text

    console.print(Text(EVIL, style="bold"))


def as_table(console: Any) -> None:
    from rich.table import Table

    table = Table(EVIL, "x", title=EVIL)
    table.add_row(EVIL, "y")
    console.print(table)


@pytest.mark.parametrize("print_it", [lambda console: console.print(EVIL), as_text, as_table])
def test_a_console_prints_text_as_text(print_it: Callable[[Any], None]) -> None:
    shown = printed(print_it)
    assert KEPT in shown
    assert ":smile:" in shown
    assert all(c.isprintable() or c == "\n" for c in shown)


def test_on_a_terminal_only_styles_of_our_own_are_there() -> None:
    shown = printed(as_text, terminal=True)
    assert "\x1b[2J" not in shown
    assert set(re.findall(r"\x1b[^m]*m", shown)) <= {"\x1b[1m", "\x1b[0m"}


def test_plain_lines_errors_and_progress_are_clean(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(progress, "QUIET_BELOW_S", -1.0)
    say(EVIL)
    say_error(EVIL, EVIL)
    with progress.LogProgress().task(EVIL) as task:
        monkeypatch.setattr(task, "EVERY_S", -1.0)
        task.advance(1.0, note=EVIL)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert KEPT in text
        assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("odd", [odd for odd in ODD if isinstance(odd, str)], ids=lambda odd: repr(odd)[:20])
def test_any_text_can_be_printed(odd: str) -> None:
    assert all(c.isprintable() or c in "\n\t" for c in harmless(odd))
    harmless(odd).encode("utf-8")


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@bucket/store",
        "s3://AKIA:hun/ter2hunter2@bucket/store",
        "https://user:hunter2@host/x",
        "https://hunter2@host/x",
        "git+ssh://git:hunter2@host:22/x",
    ],
)
def test_a_password_in_a_url_is_never_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = DeviceError(f"can't open {url}: no", hint=f"see {url}")
    say(f"store {url}")
    say_error(error.message, error.hint)
    printed_there = printed(lambda console: console.print(f"store {url}", soft_wrap=True))
    for text in (error.message, error.hint, str(error), printed_there, *capsys.readouterr()):
        assert "hunter2" not in text
        assert "://…@" in text


def test_what_is_no_password_stays() -> None:
    for text in ("https://host:80/a", "pi@board", "s3://bucket/file@2", "a://b and c@d", "http://h/a:b c@d"):
        assert harmless(text) == text


def test_a_store_that_can_not_be_opened_keeps_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(StoreError) as caught, Store.open("nosuch://me:hunter2@host/store"):
        pass
    assert "hunter2" not in caught.value.message + caught.value.hint
    assert not [path for path in tmp_path.rglob("*") if "hunter2" in path.name]


def test_nothing_prints_beside_it() -> None:
    """Only these modules write to the terminal: the rest hands them text."""
    allowed = {"console.py", "output.py", "app.py"}
    package = Path(harmless.__code__.co_filename).parent
    for path in package.glob("*.py"):
        found = re.findall(r"(?<![\w.])print\(|\bConsole\(", path.read_text(encoding="utf-8"))
        assert path.name in allowed or found in ([], ["print("] if path.name == "benching.py" else []), path.name


def test_a_field_of_somebody_elses_is_one_short_line() -> None:
    assert plain("1.0\n  signed: by the boss\x1b[31m") == "1.0\ufffd  signed: by the boss\ufffd[31m"
    assert len(plain("x" * 10_000)) == 200
    assert plain("1.0, prod") == "1.0, prod"
