"""Mode predict: classifies image files with the network of a run."""

import keras
import tensorflow as tf

from keras_efficientnet import export
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.evaluation.predictions import Prediction, find_images, predict_files
from keras_efficientnet.evaluation.reports import write_csv
from keras_efficientnet.preflight import missing_network
from keras_efficientnet.preprocessing import make_reader
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.state import load_classifier, make_variant


def predict(config: TrainConfig) -> list[Prediction]:
    """Predicts the five most likely classes of each of `config.images`, and writes them to `predictions.csv`.

    Uses the averaged network of the latest checkpoint, or of the best one if `config` says so; without checkpoints,
    the `model.keras` of the run. Crops and resizes images as in evaluation.

    Example:
        >>> import tempfile, tensorflow as tf
        >>> from keras_efficientnet import recipes, training
        >>> options = {"width_coefficient": 0.25, "depth_coefficient": 0.2, "input_image_size": 32, "train_steps": 1}
        >>> run, image = tempfile.mkdtemp(), tempfile.mkdtemp() + "/black.png"
        >>> _ = training.run(recipes.make_config(mode="train", model_dir=run, **options))
        >>> tf.io.write_file(image, tf.io.encode_png(tf.zeros((8, 8, 3), tf.uint8)))
        >>> [prediction] = predict(recipes.make_config(mode="predict", model_dir=run, images=image))
        >>> len(prediction.top)
        5

    Raises:
        FileNotFoundError: there are no such images, or no network.
        OSError: the run folder cannot be written.
        ValueError: the checkpoint is of another network, or the number of class names is not that of its classes.
    """
    folder, files = RunFolder(config.directory), find_images(config.images or "")
    folder.check_writable()
    model = _load_network(config, folder)
    names = folder.class_names(model.output_shape[-1])
    read = make_reader(config, make_variant(config)._replace(resolution=model.input_shape[1]))
    classify = tf.function(lambda pixels: model(pixels, training=False), reduce_retracing=True)
    predictions = list(predict_files(files, read, classify, names, batch=config.eval_batch_size))
    rows = [
        [prediction.file, rank, name, f"{probability:.6f}"]
        for prediction in predictions
        for rank, (name, probability) in enumerate(prediction.top, start=1)
    ]
    write_csv(folder.predictions, [["file", "rank", "class", "probability"], *rows])
    return predictions


def _load_network(config: TrainConfig, folder: RunFolder) -> keras.Model:
    path = folder.find_checkpoint(best=config.prefers_best)
    if path:
        return load_classifier(config, path)
    if folder.model.is_file():
        return export.load_model(folder.path)
    raise missing_network(folder)
