"""Evaluation of a classifier: scores, reports and predictions."""

from keras_efficientnet.evaluation.metrics import (
    Outcomes,
    Scores,
    calibration,
    confusion_matrix,
    evaluate_function,
    make_evaluator,
    score,
)

__all__ = [
    "Outcomes",
    "Scores",
    "calibration",
    "confusion_matrix",
    "evaluate_function",
    "make_evaluator",
    "score",
]
