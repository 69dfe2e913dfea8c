"""The training loop: trains, evaluates and exports what a `TrainConfig` asks for.

The loop is our own: Keras 3's `fit` fails on several workers and with several steps per call
(github.com/keras-team/keras/issues/20585). Model and optimizer are plain Keras.
"""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from keras_efficientnet.augmentation.mixing import make_mixing, mix_batches
from keras_efficientnet.checkpoint_folder import CheckpointFolder
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets import Data, make_datasets
from keras_efficientnet.datasets.damage import report_broken
from keras_efficientnet.evaluation import metrics
from keras_efficientnet.files import write_json
from keras_efficientnet.preprocessing import make_reader
from keras_efficientnet.runs import Preempted, RunFolder
from keras_efficientnet.training.artifacts import export_all, write_evaluation, write_labels
from keras_efficientnet.training.devices import (
    broadcast_from_chief,
    check_equal,
    check_shared,
    failing_together,
    is_chief,
    make_strategy,
)
from keras_efficientnet.training.eval_mode import bind_evaluator, evaluate_checkpoints
from keras_efficientnet.training.history import History, evaluations_since_best, plot
from keras_efficientnet.training.preemption import watch
from keras_efficientnet.training.progress import log_evaluation, log_export, log_run, make_progress_bar, show_step
from keras_efficientnet.training.state import TrainState, divergence_message, make_variant
from keras_efficientnet.training.steps import make_steps


def run(config: TrainConfig) -> dict[str, Any]:
    """Trains, evaluates and exports as `config` asks, and writes all files to `config.directory`.

    Example:
        >>> import tempfile
        >>> from keras_efficientnet import recipes
        >>> options = {"width_coefficient": 0.25, "depth_coefficient": 0.2, "input_image_size": 32, "train_steps": 2}
        >>> config = recipes.make_config(mode="train", model_dir=tempfile.mkdtemp(), **options)
        >>> run(config)["steps"]
        2

    Returns:
        The content of `results.json`, or of `evaluation.json` in mode eval: scores and size of `model` and, if
        exported, of `saved_model` and `tflite`; `seconds` of training; `steps`.

    Raises:
        ValueError: an option, a data file or a checkpoint is invalid; the message says what to do.
        FileNotFoundError: there are no data, or nothing to evaluate.
        OSError: the run folder cannot be written.
        RuntimeError: another process trains in the run folder.
        Preempted: the run was stopped, or lost a host. The same call resumes it.
    """
    strategy = make_strategy(config)  # before anything else uses a device
    folder = RunFolder(config.directory)
    if config.mode == "eval":  # beside a training
        folder.check_writable()
        return _run(config, strategy)
    with _locking(folder, strategy):
        return _run(config, strategy)


@contextlib.contextmanager
def _locking(folder: RunFolder, strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Locks the run folder on the chief. Raises on all hosts if it cannot."""
    with contextlib.ExitStack() as stack:
        with failing_together(strategy):
            if is_chief(strategy):
                stack.enter_context(folder.lock())
        yield


def _run(config: TrainConfig, strategy: tf.distribute.Strategy) -> dict[str, Any]:
    keras.utils.set_random_seed(config.seed)
    with failing_together(strategy):
        variant = make_variant(config)
        data = make_datasets(config, variant)
        RunFolder(config.directory).check_data(data.class_names, config.data_dir)
    facts = {
        "training images": data.train_images,
        "validation images": data.valid_images,
        "classes": data.display_names,
    }
    check_equal(strategy, facts, "Give all hosts the same data.")
    config = complete_config(config, data)
    with strategy.scope():
        state = TrainState(config, variant, data.train_images, strategy)
    return evaluate_checkpoints(state, data) if config.mode == "eval" else Trainer(state, data).run()


def complete_config(config: TrainConfig, data: Data) -> TrainConfig:
    """Returns the options with what depends on the data: the classes, the images, and the steps of `train_epochs`."""
    steps = config.train_steps
    if config.train_epochs is not None and data.train_images:
        steps = math.ceil(config.train_epochs * data.train_images / config.train_batch_size)
    images = data.train_images or config.num_train_images
    if data.train_images and config.train_batch_size > data.train_images:
        logging.warning(
            f"A batch of {config.train_batch_size} images is larger than the training set of {data.train_images}: "
            f"{steps} steps are {steps * config.train_batch_size / data.train_images:.0f} epochs. Give "
            "`train_batch_size` and `train_epochs`."
        )
    return dataclasses.replace(config, num_label_classes=data.classes, num_train_images=images, train_steps=steps)


def make_batches(
    config: TrainConfig, strategy: tf.distribute.Strategy, data: Data, taken: int = 0
) -> Iterable[tuple[Any, Any]]:
    """Returns the batches that follow the first `taken` ones; they are equal for any number of hosts and replicas.

    Mixup and CutMix are the exception: they mix images within the part of a batch that one replica gets.
    """
    parts = strategy.num_replicas_in_sync * config.accumulate_steps
    mix = make_mixing(config.mixup_alpha, config.cutmix_alpha, data.classes)

    def pipeline(context):
        host, hosts = (context.input_pipeline_id, context.num_input_pipelines) if context else (0, 1)
        examples = data.train(taken * config.train_batch_size, host, hosts)
        batches = examples.batch(config.train_batch_size // parts, drop_remainder=True)
        seed = tf.random.fold_in(tf.constant([config.seed, 1]), host)
        return mix_batches(batches, mix, seed, first=taken * parts // hosts).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(pipeline)


class Trainer:
    """Trains, evaluates and exports one run, and resumes it from its latest checkpoint.

    Args:
        state: the network and the optimizer; restored when the trainer is created.
        data: the training and validation images.
    """

    def __init__(self, state: TrainState, data: Data):
        self.config, self.state, self.data = state.config, state, data
        self.folder = RunFolder(state.config.directory)
        self._is_chief = is_chief(state.strategy)
        self._evaluate_average = bind_evaluator(state, data)
        with failing_together(state.strategy):
            if self._is_chief:
                CheckpointFolder(self.folder.checkpoints).remove_incomplete()
        check_shared(state.strategy, self.folder.path)  # other hosts wait here until the chief has cleaned up
        with failing_together(state.strategy):
            step = state.restore(self.folder)
            self.history = History(self.folder, step, writes=self._is_chief)
            if self._is_chief:
                self.folder.forget_best_after(step)
                if self.config.prefers_best and self.folder.find_best():
                    self.folder.best_checkpoint()  # raises now, not after the last step

    def run(self) -> dict[str, Any]:
        """Runs the remaining steps, then evaluates and exports, unless the mode is train; returns the results.

        Raises:
            Preempted: the run was stopped, or lost a host.
            ValueError: an image is broken, or the network has diverged.
        """
        if self._is_chief:
            log_run(self.state, self.data)
        with watch(self.state.strategy) as should_stop:
            self.train(should_stop)
            return self.state.progress() if self.config.mode == "train" else self.finish()

    def train(self, should_stop: Callable[[], bool]) -> None:
        """Runs the remaining steps, with evaluations and checkpoints, until `should_stop()`.

        Raises:
            Preempted: `should_stop()` was true; a checkpoint is saved.
            ValueError: an image is broken, or the network has diverged; the latest checkpoint is from before.
        """
        config, state = self.config, self.state
        run_steps, taken = make_steps(state), int(state.batches_taken.numpy())
        batches = iter(make_batches(config, state.strategy, self.data, taken))
        self._keep_best()  # in case an earlier process was killed between an evaluation and this
        with make_progress_bar(state, shows=self._is_chief) as bar:
            while state.step < config.train_steps and not self._stops_early():
                step = state.step
                self._run_steps(run_steps, batches, bar)
                if state.step > step:
                    self._evaluate_and_save()
                state.check_loss_scale()
                if state.step < config.train_steps and should_stop():
                    state.save()
                    raise Preempted(f"Stopped at step {state.step}. A checkpoint is saved.")

    def finish(self) -> dict[str, Any]:
        """Evaluates the latest network, or loads and evaluates the best one; exports it; returns the results."""
        progress, outcomes = self.state.progress(), self._evaluate()
        self._keep_best()
        best = self.folder.find_best()
        best_step = broadcast_from_chief(self.state.strategy, best["step"] if best else self.state.step)
        if self.config.prefers_best and best_step != self.state.step:
            self.state.load_checkpoint(self.folder.best_checkpoint())
            outcomes = self._evaluate_average()
        results: dict[str, Any] = {"model": metrics.score(outcomes)._asdict(), "best": best} | progress
        results["classes"] = self.data.classes
        if self.config.skip_broken_records:
            results["broken_records"] = self.data.broken_examples
        if self._is_chief:
            self._write_results(outcomes, results)
        return results

    def _write_results(self, outcomes: metrics.Outcomes, results: dict[str, Any]) -> None:
        """Writes curve, reports and exports, adds the scores of the exports to `results`, and writes these."""
        plot(self.folder)
        write_evaluation(self.folder, outcomes, self.data)
        if self.config.export:
            log_export(self.folder)
            read = make_reader(self.config, self.state.variant)
            for name, row in export_all(self.state.to_classifier(), self.data, self.folder, read).items():
                results[name] = results.get(name, {}) | row
        write_json(self.folder.results, results)

    def _run_steps(self, run_steps: Callable, batches: Iterator[Any], bar: tqdm) -> None:
        """Runs the steps of one call of the device, and reports them."""
        started, count = time.perf_counter(), self._count_steps()
        images = count * self.config.train_batch_size
        with report_broken(self._explain_broken_image):
            loss = float(run_steps(batches, tf.constant(count)))
        seconds = time.perf_counter() - started
        self.state.seconds.assign_add(seconds)
        self._report(bar, loss, images, seconds)

    def _explain_broken_image(self) -> str | None:
        return self.data.explain_train(int(self.state.batches_taken.numpy()) * self.config.train_batch_size)

    def _count_steps(self) -> int:
        """Returns the number of steps until the next evaluation, checkpoint or end, limited to one call."""
        config, step = self.config, self.state.step
        stops = (every - step % every for every in (config.steps_per_eval, config.checkpoint_steps))
        return min(config.iterations_per_loop, config.train_steps - step, *stops)

    def _report(self, bar: tqdm, loss: float, images: int, seconds: float) -> None:
        step = self.state.step
        if not math.isfinite(loss):
            raise ValueError(divergence_message(f"loss is {loss}", step))
        epoch, rate = step / self.state.steps_per_epoch, float(self.state.learning_rate(step))
        values = {"loss": loss, "learning_rate": rate, "epoch": epoch, "images_per_second": images / seconds}
        self.history.write("train", step, values)
        show_step(bar, images, step=step, epoch=f"{epoch:.1f}", loss=f"{loss:.3f}", lr=f"{rate:.2g}")

    def _evaluate_and_save(self) -> None:
        """Evaluates and writes a checkpoint if this step is due for it; `finish` evaluates the last step."""
        config, step = self.config, self.state.step
        is_last = step == config.train_steps
        evaluates = config.mode == "train_and_eval" and step % config.steps_per_eval == 0 and not is_last
        if evaluates:
            self._evaluate()
        if step % config.checkpoint_steps == 0 or is_last or evaluates:
            if self._is_chief:
                write_labels(self.folder, self.data)
            self.state.save()
            self._keep_best()

    def _evaluate(self) -> metrics.Outcomes:
        """Evaluates and logs the scores. Runs before the checkpoint is saved: a kill in between loses no evaluation."""
        self.state.synchronize_statistics()
        outcomes = self._evaluate_average()
        self.history.write("validation", self.state.step, metrics.score(outcomes)._asdict())
        if self._is_chief:
            log_evaluation(self.history.rows("validation"), self.data.classes)
        return outcomes

    def _keep_best(self) -> None:
        """Archives the checkpoint of this step if it was evaluated and is the best so far."""
        if not self._is_chief:
            return
        for row in self.history.rows("validation")[-1:]:
            if row["step"] == self.state.step:
                scores = {name: value for name, value in row.items() if name not in ("part", "step")}
                self.folder.keep_best(self.state.step, scores, self.state.write)

    def _stops_early(self) -> bool:
        patience = self.config.early_stopping_evaluations
        return patience is not None and evaluations_since_best(self.history.rows("validation")) >= patience
