"""The names of metrics: configuration refuses others without loading what computes them."""

from __future__ import annotations

from importlib import metadata

#: The entry points of metrics that other packages bring.
GROUP = "edgebuild.metrics"
METRIC_NAMES: tuple[str, ...] = (
    "accuracy",
    "top5_accuracy",
    "f1_macro",
    "auroc",
    "average_precision",
    "mse",
    "mae",
    "rmse",
    "r2",
    "precision_macro",
    "recall_macro",
    "jaccard_macro",
    "matthews_corrcoef",
    "cohen_kappa",
    "mape",
    "pearson",
    "spearman",
)


def metric_names() -> tuple[str, ...]:
    """Return the built-in metrics, then those of installed packages."""
    return (*METRIC_NAMES, *sorted(metadata.entry_points(group=GROUP).names))
