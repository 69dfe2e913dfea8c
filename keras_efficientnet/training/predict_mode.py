"""Mode predict: what a trained run sees in image files."""

import keras
import tensorflow as tf

from keras_efficientnet import export
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.evaluation.predictions import Prediction, find_images, predict_files
from keras_efficientnet.evaluation.reports import write_csv
from keras_efficientnet.preprocessing import make_reader
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.state import load_classifier, make_variant


def predict(config: TrainConfig) -> list[Prediction]:
    """Names the likeliest five classes of each of `config.images`, and writes them to `predictions.csv`.

    The network is the average of the last checkpoint, or of the best where `config` says so; in a folder without
    checkpoints its `model.keras`. Images are cropped and resized as in evaluation.

    Raises:
        FileNotFoundError: there are no such images, or no network.
        ValueError: the checkpoint is of another network, or `labels.txt` does not fit it.
    """
    folder, files = RunFolder(config.directory), find_images(config.images or "")
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


def _load_network(config, folder) -> keras.Model:
    path = folder.best_checkpoint() if config.takes_best else folder.latest_checkpoint()
    if path:
        return load_classifier(config, path)
    if folder.model.is_file():
        return export.load_model(folder.path)
    raise FileNotFoundError(f"There is neither a checkpoint nor a model.keras in {folder.path}. Check `model_dir`.")
