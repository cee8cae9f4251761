"""Boards, made once for the run and tidied after every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .rig import Board, missing, rig

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def all_boards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Board]]:
    if reason := missing():
        pytest.skip(reason)
    with rig(tmp_path_factory.mktemp("boards")) as made:
        yield made


@pytest.fixture
def boards(all_boards: list[Board]) -> Iterator[list[Board]]:
    """Three boards; the last has Python 3.8."""
    yield all_boards
    for board in all_boards:
        board.tidy()


@pytest.fixture
def board(boards: list[Board]) -> Board:
    return boards[0]
