"""Rows by one of their columns. To make a statement costs more than the database needs for it: each is made once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, insert, select, update

if TYPE_CHECKING:
    from sqlalchemy import Column, Connection, Insert, Row, Select, Table, Update


def find(db: Connection, column: Column[Any], value: object) -> Row[Any] | None:
    """Return the whole row in which a column has a value, if any."""
    return db.execute(_select(column), {"of_key": value}).one_or_none()


def change(db: Connection, column: Column[Any], value: object, **values: Any) -> None:
    """Change the rows in which a column has a value."""
    db.execute(_update(column), {"of_key": value, **values})


def add(db: Connection, table: Table, **values: Any) -> None:
    """Add a row."""
    db.execute(_insert(table), values)


@functools.cache
def _select(column: Column[Any]) -> Select[Any]:
    return select(column.table).where(column == bindparam("of_key"))


@functools.cache
def _update(column: Column[Any]) -> Update:
    return update(column.table).where(column == bindparam("of_key"))


@functools.cache
def _insert(table: Table) -> Insert:
    return insert(table)
