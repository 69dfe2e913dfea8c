"""What a training run is: each option, its default and its help, written once. Standard library only.

Defaults are the official recipe (tensorflow/tpu, models/official/efficientnet/main.py); `RECIPES` names others.
"""

import dataclasses
from typing import Any, TypeVar

Value = TypeVar("Value")


def option(default: Value, help: str, *, choices: tuple[str, ...] | None = None, least: float | None = None) -> Value:
    """A field of `TrainConfig`: its default, its help, and the values it may have."""
    metadata = {"help": help, "choices": choices, "least": least}
    return dataclasses.field(default=default, metadata=metadata)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. The flags of main.py are made from these fields.

    Raises:
        ValueError: an option is out of its range; the message says which, and what it may be.
    """

    # what is trained
    model_name: str = option("efficientnet-b0", "Network, one of list_models().")
    input_image_size: int | None = option(None, "Side of the images in pixels; the network's own by default.", least=32)
    num_label_classes: int = option(1000, "Classes of the labels.", least=2)
    dropout_rate: float | None = option(None, "Dropout before the classifier; the network's own by default.", least=0)
    survival_prob: float = option(0.8, "Chance that the last block survives in stochastic depth.", least=0.01)
    width_coefficient: float | None = option(None, "Width of the network in place of its own.", least=0.01)
    depth_coefficient: float | None = option(None, "Depth of the network in place of its own.", least=0.01)

    # on what
    data_dir: str | None = option(
        None, "Folder of TFRecords train-* and validation-* in the official layout; by default the embedded digits."
    )
    num_train_images: int | None = option(None, "Training images; counted by default.", least=1)
    num_eval_images: int | None = option(None, "Validation images; counted by default.", least=1)
    crop_fraction: float | None = option(
        None, "Share of the shorter side that evaluation keeps; the network's own by default, as official.", least=0.01
    )
    interpolation: str | None = option(
        None, "How images are resized; the network's own way by default.", choices=("bicubic", "bilinear")
    )
    half_pixel_centers: bool = option(
        False, "Resize on the grid of PIL, timm and tf.image.resize, not on that of the official checkpoints."
    )
    random_resized_crop: bool = option(True, "Train on random parts of the images, not on evaluation's crop.")
    random_flip: bool = option(True, "Mirror every second training image.")
    augment_name: str | None = option(
        None,
        "Further augmentation: AutoAugment (v0), RandAugment, or affine, which turns, scales and shifts a little.",
        choices=("affine", "autoaugment", "randaugment"),
    )
    augment_version: str = option(
        "pil",
        "AutoAugment's and RandAugment's operations as Pillow has them, or as the code of the published checkpoints.",
        choices=("pil", "official"),
    )
    randaug_num_layers: int = option(2, "Operations of RandAugment on an image.", least=1)
    randaug_magnitude: float = option(10.0, "Level of RandAugment's operations; 17 for B5, 28 for B7 and B8.", least=0)
    random_erasing: float = option(0.0, "Chance that a rectangle of a training image becomes noise.", least=0)
    mixup_alpha: float = option(0.0, "Mixup: each image blended with another, shares from Beta(alpha, alpha).", least=0)
    cutmix_alpha: float = option(
        0.0, "CutMix: a box of another image, area from Beta(alpha, alpha); with Mixup, half of the batches.", least=0
    )

    # how
    mode: str = option(
        "train_and_eval",
        "Train and evaluate in turn, only train, or evaluate the last checkpoint once.",
        choices=("train_and_eval", "train", "eval"),
    )
    model_dir: str | None = option(
        None, "Folder for checkpoints, logs and exports; runs/MODEL_NAME by default. A run goes on where it stopped."
    )
    recipe: str | None = option(
        None,
        "Set of defaults: sample is for the embedded digits, and taken when there is no --data_dir.",
        choices=("official", "sample"),
    )
    train_batch_size: int = option(2048, "Images per step, over all replicas together.", least=1)
    eval_batch_size: int = option(64, "Images per evaluation step, over all replicas together.", least=1)
    train_steps: int = option(218_949, "Steps in all; 350 epochs of ImageNet at the default batch.", least=1)
    steps_per_eval: int = option(6_255, "Training steps between evaluations.", least=1)
    checkpoint_steps: int = option(1_251, "Training steps between checkpoints.", least=1)
    iterations_per_loop: int = option(16, "Training steps per call of the device; TPUs like 1251.", least=1)
    keep_checkpoints: int = option(3, "Checkpoints to keep.", least=1)
    optimizer: str = option("rmsprop", "Optimizer; rmsprop is TensorFlow 1's.", choices=("rmsprop", "sgd"))
    base_learning_rate: float = option(0.016, "Learning rate for a batch of 256; scales with the batch.", least=0)
    lr_schedule: str = option("exponential", "Learning rate over time.", choices=("exponential", "cosine", "constant"))
    lr_decay_factor: float = option(0.97, "Factor of the exponential schedule.", least=0)
    lr_decay_epoch: float = option(2.4, "Epochs between two steps of the exponential schedule.", least=0.001)
    lr_warmup_epochs: float = option(5.0, "Epochs over which the learning rate rises from 0.", least=0)
    moving_average_decay: float = option(0.9999, "Decay of the averaged weights; 0 turns them off.", least=0)
    weight_decay: float = option(1e-5, "L2 factor in the loss, on everything but batch norms.", least=0)
    label_smoothing: float = option(0.1, "Share of the label spread over all classes.", least=0)
    seed: int = option(0, "Of weights, order, augmentation and dropout.", least=0)

    # where
    tpu: str | None = option(None, "Name or grpc:// address of a TPU, or local; by default GPUs, else the CPU.")
    num_replicas: int | None = option(None, "Devices to train on; every GPU by default.", least=1)
    export: bool = option(True, "Write model.keras, saved_model/ and model.tflite after train_and_eval.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.model_dir and "://" in self.model_dir:
            raise ValueError(f"`model_dir` must be a folder of this machine. Received: model_dir={self.model_dir}")
        for name in ("survival_prob", "crop_fraction", "random_erasing"):
            _check_most(name, getattr(self, name), 1.0, "at most")
        for name in ("dropout_rate", "moving_average_decay", "label_smoothing"):
            _check_most(name, getattr(self, name), 1.0, "below")

    @property
    def directory(self) -> str:
        """Where the run lives."""
        return self.model_dir or f"runs/{self.model_name}"


# Differences from the defaults. The digits are 8 x 8 pixels and have an up and a down, so no crop and no mirroring.
RECIPES: dict[str, dict[str, Any]] = {
    "official": {},
    "sample": {
        "input_image_size": 64,
        "num_label_classes": 10,
        "crop_fraction": 1.0,
        "half_pixel_centers": True,
        "random_resized_crop": False,
        "random_flip": False,
        "augment_name": "affine",
        "train_batch_size": 32,
        "train_steps": 810,
        "steps_per_eval": 270,
        "checkpoint_steps": 270,
        "iterations_per_loop": 9,
        "lr_schedule": "cosine",
        "lr_warmup_epochs": 2.0,
        "moving_average_decay": 0.99,
    },
}


def make_config(**given: Any) -> TrainConfig:
    """A configuration from the options a user gave; the others come from the recipe.

    Raises:
        ValueError: an option is unknown or out of its range.
    """
    recipe = given.get("recipe") or ("official" if given.get("data_dir") else "sample")
    if recipe not in RECIPES:
        raise ValueError(f"`recipe` must be one of {', '.join(RECIPES)}. Received: recipe={recipe!r}")
    unknown = set(given) - {field.name for field in dataclasses.fields(TrainConfig)}
    if unknown:
        raise ValueError(f"Unknown options: {', '.join(sorted(unknown))}. See TrainConfig.")
    return TrainConfig(**RECIPES[recipe] | given | {"recipe": recipe})


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    choices, least = field.metadata["choices"], field.metadata["least"]
    if value is None:
        return
    if choices and value not in choices:
        raise ValueError(f"`{field.name}` must be one of {', '.join(choices)}. Received: {field.name}={value!r}")
    if least is not None and not value >= least:
        raise ValueError(f"`{field.name}` must be at least {least}. Received: {field.name}={value}")


def _check_most(name: str, value: float | None, most: float, word: str) -> None:
    if value is not None and (value > most or (word == "below" and value == most)):
        raise ValueError(f"`{name}` must be {word} {most:g}. Received: {name}={value}")
