"""Why rows miss what is asked, as far as it is known. Apart from the rows, whose records hang on their source."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

REASONS: Mapping[str, str] = {}
