"""Evaluation of a classifier: scores, reports and predictions."""

from keras_efficientnet.evaluation.metrics import (
    Outcomes,
    Scores,
    calibration,
    confusion_matrix,
    make_evaluator,
    outcomes_from_probabilities,
    score,
)

__all__ = [
    "Outcomes",
    "Scores",
    "calibration",
    "confusion_matrix",
    "make_evaluator",
    "outcomes_from_probabilities",
    "score",
]
