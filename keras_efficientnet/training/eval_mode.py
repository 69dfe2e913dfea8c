"""Mode eval: scores and reports of the latest checkpoint, of the best one, or of each new one."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import tensorflow as tf

from keras_efficientnet.checkpoint_folder import CheckpointFolder
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets import Data
from keras_efficientnet.datasets.damage import report_broken
from keras_efficientnet.evaluation import metrics
from keras_efficientnet.files import write_json
from keras_efficientnet.preflight import missing_checkpoint
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.artifacts import write_evaluation
from keras_efficientnet.training.history import History, plot
from keras_efficientnet.training.progress import log_evaluation, log_run
from keras_efficientnet.training.state import TrainState


def bind_evaluator(state: TrainState, data: Data) -> Callable[[], metrics.Outcomes]:
    """Returns a function that evaluates the averaged network on all validation images.

    The function raises ValueError with the name of the first broken image.
    """
    evaluate = metrics.make_evaluator(state.strategy, state.average)
    shard = cast(metrics.Shard, data.valid_shard)  # there is one in every mode that evaluates

    def evaluate_average():
        with report_broken(data.explain_valid):
            return evaluate(shard, data.valid_images, state.config.eval_batch_size)

    return evaluate_average


def evaluate_checkpoints(state: TrainState, data: Data) -> dict[str, Any]:
    """Evaluates the checkpoints that the options ask for, and writes `evaluation.json` and `evaluation/` for each.

    With `eval_timeout` another process may be training, so this one has a log of its own, `evaluations.jsonl`. It also
    draws `curve.png` and keeps the best checkpoint in `archive/`.

    Returns:
        The last content of `evaluation.json`.

    Raises:
        FileNotFoundError: there is no checkpoint, or none appeared in time.
        ValueError: the checkpoint is of another network, or of other classes than the data.
    """
    config, folder, results = state.config, RunFolder(state.config.directory), None
    evaluate, history = bind_evaluator(state, data), History(folder, None, log=folder.evaluations)
    log_run(state, data)
    for path in _find_checkpoints(config, folder):
        try:
            state.load_checkpoint(path)
        except tf.errors.NotFoundError:  # training has replaced it by newer ones
            continue
        folder.check_classes(data.class_names)  # each time: another process may write these checkpoints
        outcomes = evaluate()
        scores = metrics.score(outcomes)._asdict()
        if config.eval_timeout is not None:
            history.write("validation", state.step, scores)
            log_evaluation(history.rows("validation"), data.classes)
            folder.keep_best(state.step, scores, state.write)
            plot(folder)
        results = {"model": scores, "classes": data.classes} | state.progress()
        write_json(folder.evaluation, results)
        write_evaluation(folder, outcomes, data)
        if state.step >= config.train_steps:
            break
    if results is None:
        raise missing_checkpoint(folder)
    return results


def _find_checkpoints(config: TrainConfig, folder: RunFolder) -> Iterable[str]:
    """Returns the paths of the checkpoints to evaluate: one, or with `eval_timeout` each new one."""
    if config.eval_timeout is not None:
        return CheckpointFolder(folder.checkpoints).wait(config.eval_timeout)
    path = folder.find_checkpoint(best=config.prefers_best)
    return [path] if path else []
