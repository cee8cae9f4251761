"""Where a fact is known from, and whether anyone looked."""

from __future__ import annotations

from datetime import date as calendar_date
from typing import Annotated

from pydantic import AfterValidator, Field

from edgebuild.catalogue.project_tables import Text
from edgebuild.catalogue.tables import Table

#: For a fact that nobody has looked up at its source.
BELIEVED = "believed"


def _is_date(text: str) -> bool:
    try:
        calendar_date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _date(text: str) -> str:
    if _is_date(text):
        return text
    raise ValueError('must be a date such as "2026-11-22"')


def _verified(text: str) -> str:
    if text == BELIEVED or _is_date(text):
        return text
    raise ValueError(f'must be "{BELIEVED}", or the date when the source was read')


class Sourced(Table):
    """A fact about hardware or a runtime; the prose about it never enters a key."""

    source: Text = Field(description="The document, with its address where there is one.")
    date: Annotated[str, AfterValidator(_date)] = Field(description="When the fact was written down.")
    verified: Annotated[str, AfterValidator(_verified)] = Field(
        description='The date when the source was read, or "believed" where it was not.'
    )
    note: Text | None = Field(default=None, description="What to mind about it.")
