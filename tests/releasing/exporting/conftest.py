"""Releases that answer on this machine, as the tests of the board's script have them."""

from tests.releasing.board.conftest import parrot, real

__all__ = ["parrot", "real"]
