"""Mode eval: the scores and reports of the last checkpoint, of the best one, or of each as it comes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets import Data
from keras_efficientnet.datasets.damage import in_words
from keras_efficientnet.evaluation import metrics
from keras_efficientnet.files import write_json
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.artifacts import write_evaluation
from keras_efficientnet.training.history import History, plot
from keras_efficientnet.training.state import Run


def evaluate_checkpoints(config: TrainConfig, training: Run, data: Data, evaluate) -> dict[str, Any]:
    """Evaluates what `config` asks for, and writes `evaluation.json` and `evaluation/` each time.

    Where it waits for checkpoints, another process may be training: the rows go to `evaluations.jsonl` and into
    `curve.png`, and the best checkpoint to `archive/`.

    Returns:
        The last content of `evaluation.json`.

    Raises:
        FileNotFoundError: no checkpoint is there, or none came in time.
        ValueError: the checkpoint is of another network.
    """
    folder, results = Path(config.directory), None
    history = History(folder, None, "evaluations.jsonl")
    for path in find_checkpoints(config):
        try:
            training.take(path)
        except tf.errors.NotFoundError:  # it was replaced by newer ones before it was read
            continue
        outcomes = outcomes_of(config, data, evaluate)
        scores = metrics.score(outcomes)._asdict()
        if config.eval_timeout is not None:
            history.write("validation", training.step, scores)
            RunFolder(folder).keep_best(training.step, scores, training.write)
            plot(folder)
        results = {"model": scores} | training.progress()
        write_json(folder / "evaluation.json", results)
        write_evaluation(folder, outcomes, data)
        if training.step >= config.train_steps:
            break
    if results is None:
        raise FileNotFoundError(f"There is no checkpoint in {folder} to evaluate. Train first, or check `model_dir`.")
    return results


def outcomes_of(config: TrainConfig, data: Data, evaluate) -> metrics.Outcomes:
    """What becomes of the images that are evaluated. Raises ValueError with the name of the first broken one."""
    with in_words(data.explain_valid):
        return evaluate(data.valid_shard, data.valid_images, config.eval_batch_size)


def find_checkpoints(config: TrainConfig) -> Iterable[str]:
    """The paths of the checkpoints to evaluate; with an `eval_timeout` each new one, until none comes for so long."""
    folder = RunFolder(config.directory)
    if config.eval_timeout is not None:
        return folder.wait_for_checkpoints(config.eval_timeout)
    if config.takes_best:
        return [folder.best_checkpoint()]
    last = folder.latest_checkpoint()
    return [last] if last else []
