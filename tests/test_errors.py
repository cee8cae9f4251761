"""The error tree is as its docstring draws it, and every code is documented."""

from __future__ import annotations

import re

from edgebuild import errors


def test_the_docstring_draws_every_error_with_its_exit_code() -> None:
    drawn = dict(re.findall(r"(\w+) \.{2,}\s+(\d+)", errors.__doc__ or ""))
    found = {
        name: str(value.exit_code)
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.EdgebuildError)
    }
    assert drawn == found


def test_a_config_error_lists_all_its_problems() -> None:
    error = errors.ConfigError("edgebuild.toml", ("one", "two"), hint="fix them")
    assert str(error) == "edgebuild.toml: 2 problems\n  - one\n  - two"
    assert error.problems == ("one", "two")
    assert error.hint == "fix them"
