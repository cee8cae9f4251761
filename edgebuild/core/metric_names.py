"""The names of the built-in metrics: configuration refuses others without loading what computes them."""

from __future__ import annotations

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
