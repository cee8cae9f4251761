"""What the tables of a project may not say together: pure checks, each run as soon as its tables are right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from edgebuild.catalogue.contract_table import meaning_problems
from edgebuild.catalogue.tables import is_reference, suggestion, unknown
from edgebuild.core.artifact import BATCH_AXIS
from edgebuild.core.metric_names import metric_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgebuild.catalogue.project_tables import (
        BudgetTable,
        BuildTable,
        DataTable,
        InputTable,
        MetricTable,
        ModelTable,
        Number,
    )

#: Names that an `.npz` file gives a meaning of its own.
RESERVED_ARRAYS = ("target", "group", "slice")

_INTEGER_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64, "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}


def cross_problems(parts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for every contradiction between the tables in ``parts``; absent tables are skipped."""
    for check in _CHECKS:
        if all(name in parts for name in check.needs):
            yield from check.run(*(parts[name] for name in check.needs))


def _inputs_are_distinct(inputs: tuple[InputTable, ...]) -> Iterator[str]:
    names = [table.name for table in inputs]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'[[inputs]]: two inputs are called "{name}"'


def _axes_are_settled(inputs: tuple[InputTable, ...], freeze: dict[str, int], build: BuildTable) -> Iterator[str]:
    axes = {axis: table.name for table in reversed(inputs) for axis in table.shape if isinstance(axis, str)}
    for axis, name in sorted(axes.items()):
        if axis in freeze and axis in build.keep_dynamic:
            yield f'[freeze].{axis}: "{axis}" is in [build].keep_dynamic too; remove it from one of them'
        elif axis not in freeze and axis not in build.keep_dynamic:
            yield (
                f'[freeze]: the axis "{axis}" of input "{name}" has no size; add {axis} = … '
                f'(or put "{axis}" into [build].keep_dynamic)'
            )
    for axis in freeze:
        if axis not in axes:
            yield f'[freeze].{axis}: no input has an axis "{axis}"; {suggestion(axis, axes)}'
    for axis in build.keep_dynamic:
        if axis not in axes:
            yield f'[build].keep_dynamic: no input has an axis "{axis}"; {suggestion(axis, axes)}'


def _batch_leads(inputs: tuple[InputTable, ...], model: ModelTable) -> Iterator[str]:
    for number, table in enumerate(inputs, start=1):
        if table.value is None and table.name not in model.state and BATCH_AXIS in table.shape[1:]:
            yield f'[[inputs]]#{number}.shape: "{BATCH_AXIS}" must be the first axis'


def _constants_fit(inputs: tuple[InputTable, ...], freeze: dict[str, int]) -> Iterator[str]:
    for number, table in enumerate(inputs, start=1):
        if table.value is None:
            continue
        where = f"[[inputs]]#{number}.value"
        yield from _count_fits(table, freeze, where)
        for value in table.value if isinstance(table.value, tuple) else (table.value,):
            reason = _dtype_problem(value, table.dtype)
            if reason:
                yield f"{where}: {reason}"
                break
    if all(table.value is not None for table in inputs):
        yield "[[inputs]]: every input is a constant; at least one must come from the samples"


def _count_fits(table: InputTable, freeze: dict[str, int], where: str) -> Iterator[str]:
    sizes = [freeze.get(axis) if isinstance(axis, str) else axis for axis in table.shape]
    if None in sizes:
        yield f"{where}: a constant needs sizes for all its axes; write them into its shape"
    elif isinstance(table.value, tuple):
        wanted = math.prod(size for size in sizes if size is not None)
        if len(table.value) != wanted:
            yield f"{where}: has {len(table.value)} numbers, its shape {list(table.shape)} takes {wanted}"


def _dtype_problem(value: Number, dtype: str) -> str | None:
    if dtype == "bool":
        return None if isinstance(value, bool) else f"must be true or false for dtype bool, got {value}"
    if isinstance(value, bool):
        return f"true and false go with dtype bool, not {dtype}"
    bits = _INTEGER_BITS.get(dtype)
    if bits is None:
        return None
    if isinstance(value, float):
        return f"must be whole for dtype {dtype}, got {value}"
    low, high = (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return None if low <= value <= high else f"{value} doesn't fit into {dtype}"


def _state_is_fed(
    model: ModelTable, inputs: tuple[InputTable, ...], freeze: dict[str, int], build: BuildTable
) -> Iterator[str]:
    if not model.state:
        return
    tables = {table.name: table for table in inputs}
    for name in model.state:
        if name not in tables:
            yield f'[model.state].{name}: there is no input "{name}" under [[inputs]]; {suggestion(name, tables)}'
        elif tables[name].value is not None:
            yield f'[model.state].{name}: "{name}" is a constant input, so it can carry no state'
    outputs = list(model.state.values())
    for output in sorted({o for o in outputs if outputs.count(o) > 1}):
        yield f'[model.state]: the output "{output}" feeds two inputs'
    if all(name in model.state or table.value is not None for name, table in tables.items()):
        yield "[model.state]: every input is a state or a constant; at least one must come from the samples"
    if freeze.get(BATCH_AXIS, 1) != 1 or BATCH_AXIS in build.keep_dynamic:
        yield f"[freeze].{BATCH_AXIS}: must be 1 for a model with state, whose samples are sequences"


def _splits_differ(data: DataTable) -> Iterator[str]:
    first_use: dict[str, str] = {}
    for split in ("calibration", "validation", "test"):
        source = getattr(data, split)
        if source in first_use:
            yield f"[data].{split}: is the same as {first_use[source]}; a split must hold samples of its own"
        first_use.setdefault(source, split)
    if data.train is not None and data.train in (data.validation, data.test):
        yield "[data].train: is the same as validation or test; what is learnt from can't judge"


def _arrays_have_names(data: DataTable, inputs: tuple[InputTable, ...]) -> Iterator[str]:
    if all(is_reference(source) for source in (data.calibration, data.validation, data.test)):
        return
    for table in inputs:
        if table.value is None and table.name in RESERVED_ARRAYS:
            yield (
                f'[data]: an .npz file gives the name "{table.name}" a meaning of its own, and an input is called so; '
                "use a callable"
            )


def _budget_fits_metric(budget: BudgetTable, metric: MetricTable | None) -> Iterator[str]:
    if budget.agreement is not None:
        if metric is not None:
            yield "[metric]: a budget of `agreement` compares with the original and uses no metric; remove the table"
        if budget.per_slice_points is not None:
            yield "[budget].per_slice_points: needs a metric, so it doesn't go with `agreement`"
        return
    if metric is None:
        yield "[metric]: is missing; only a budget of `agreement` needs none"
    elif metric.name is None and metric.scale is None:
        for kind in ("points", "per_slice_points"):
            if getattr(budget, kind) is not None:
                yield f"[metric].scale: is missing; [budget].{kind} are hundredths of it (or use `relative` or `floor`)"
                break


def _metric_is_known(metric: MetricTable | None) -> Iterator[str]:
    if metric is not None and metric.name is not None and metric.name not in metric_names():
        yield f"[metric].name: {unknown('metric', metric.name, metric_names())}"


class _Check(NamedTuple):
    needs: tuple[str, ...]
    run: Callable[..., Iterator[str]]


_CHECKS = (
    _Check(("inputs",), _inputs_are_distinct),
    _Check(("inputs", "freeze", "build"), _axes_are_settled),
    _Check(("inputs", "model"), _batch_leads),
    _Check(("inputs", "freeze"), _constants_fit),
    _Check(("model", "inputs", "freeze", "build"), _state_is_fed),
    _Check(("contract", "inputs", "freeze"), meaning_problems),
    _Check(("data",), _splits_differ),
    _Check(("data", "inputs"), _arrays_have_names),
    _Check(("metric",), _metric_is_known),
    _Check(("budget", "metric"), _budget_fits_metric),
)
