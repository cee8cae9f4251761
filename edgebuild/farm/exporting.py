"""Records as tables for other programs: CSV that no spreadsheet takes for a program, and Parquet."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from edgebuild.errors import UsageError
from edgebuild.farm.memory import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

COLUMNS = tuple(Record.model_fields)
#: What makes a spreadsheet compute a cell (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_ROWS = 10_000


def csv_lines(records: Iterable[Record]) -> Iterator[str]:
    """Yield a table line by line. A text that a spreadsheet would compute has an apostrophe in front of it."""
    yield _line(COLUMNS)
    for record in records:
        yield _line([_cell(value) for value in record.model_dump(mode="json").values()])


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _line(cells: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def require_parquet() -> None:
    """Raise ``UsageError`` where what writes Parquet isn't installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "The farm's server can't write Parquet: pyarrow isn't installed there.",
            hint="Ask for CSV, or have `pip install 'edgebuild[parquet]'` run there.",
        ) from error


def write_parquet(records: Iterable[Record], path: Path) -> None:
    """Write a table, some thousand rows in memory at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    numbers = {"measured_at", "point_ms", "low_ms", "high_ms", "anchor_ms"}
    kinds = {"number": pa.int64(), **dict.fromkeys(numbers, pa.float64())}
    fields = [(name, kinds.get(name, pa.string())) for name in COLUMNS]
    schema = pa.schema(fields)
    with parquet.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for record in records:
            rows.append(record.model_dump(mode="json"))
            if len(rows) == _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
