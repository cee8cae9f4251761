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
    "mean_iou",
    "cer",
    "wer",
    "box_f1",
    "coco_map",
    "coco_map50",
)


def metric_names() -> tuple[str, ...]:
    """Return the built-in metrics, then those of installed packages."""
    return (*METRIC_NAMES, *sorted(metadata.entry_points(group=GROUP).names))


def package_of(name: str) -> str:
    """Return which package brings a metric, and in which version; empty where nobody says."""
    owners = [entry.dist for entry in metadata.entry_points(group=GROUP, name=name) if entry.dist is not None]
    return " ".join(f"{owner.name} {owner.version}" for owner in owners)
