"""Recipes: named sets of default options, and the `TrainConfig` made from a recipe and the given options."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from keras_efficientnet.architectures import Variant, find_variant
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.runs import RunFolder

# Differences from the defaults of TrainConfig
RECIPES: dict[str, dict[str, Any]] = {
    "official": {},
    # The digits are 8 x 8 pixels and not symmetric: no cropping, no flipping
    "sample": {
        "input_image_size": 64,
        "num_label_classes": 10,
        "crop_fraction": 1.0,
        "half_pixel_centers": True,
        "random_resized_crop": False,
        "random_flip": False,
        "augment_name": "affine",
        "train_batch_size": 32,
        "train_steps": 900,
        "steps_per_eval": 300,
        "checkpoint_steps": 300,
        "iterations_per_loop": 10,
        "lr_schedule": "cosine",
        "lr_warmup_epochs": 2.0,
        "moving_average_decay": 0.99,
    },
    # MosaicML's model card and Composer's B0 yaml: optimizer and batch normalization of PyTorch, weight decay on all
    "mosaicml": {
        "model_name": "efficientnet-b0-torch",
        "half_pixel_centers": True,
        "train_batch_size": 4096,
        "train_epochs": 400.0,
        "optimizer": "rmsprop_torch",
        "base_learning_rate": 0.005,
        "lr_schedule": "cosine_after_warmup",
        "lr_warmup_epochs": 16.0,
        "moving_average_decay": 0.0,
        "batch_norm_momentum": 0.9,
        "batch_norm_epsilon": 1e-5,
        "decay_batch_norm": True,
        "precision": "float16",
    },
    # NVIDIA DeepLearningExamples, TensorFlow2/Classification/ConvNets/efficientnet_v1, B0 on eight A100
    "nvidia": {
        "interpolation": "bilinear",
        "augment_name": "autoaugment",
        "train_batch_size": 8192,
        "train_epochs": 500.0,
        "base_learning_rate": 0.01,
        "lr_schedule": "cosine_after_warmup",
        "weight_decay": 5e-6,
        "precision": "float16",
    },
    # google/automl, efficientnetv2, ImagenetFt; needs --weights
    "finetune": {
        "dropout_rate": 0.0,
        "train_batch_size": 512,
        "train_steps": 10_000,
        "steps_per_eval": 1_000,
        "checkpoint_steps": 1_000,
        "base_learning_rate": 0.00025,
        "lr_schedule": "constant",
        "lr_warmup_epochs": 1.0,
        "moving_average_decay": 0.9996,
    },
}

MEANINGS = {  # recipe -> what --help says of it
    "official": "that of the authors: RMSprop, 350 epochs of ImageNet at batch 2048",
    "sample": "for the embedded digits: B0 at 64 pixels, 20 epochs at batch 32",
    "mosaicml": "PyTorch's RMSprop and batch normalization, 400 epochs at batch 4096, float16",
    "nvidia": "AutoAugment, 500 epochs at batch 8192, float16",
    "finetune": "starts from --weights: 10,000 steps at batch 512, small constant learning rate",
}

# Options of the call rather than of the run: config.json does not pass them on to modes eval and predict
ONE_CALL_OPTIONS = (
    "mode",
    "model_dir",
    "images",
    "eval_timeout",
    "tpu",
    "tpu_zone",
    "gcp_project",
    "num_replicas",
    "precision",
    "weights",
    "tf_data_service",
)


def make_config(**given: Any) -> TrainConfig:
    """Returns the options of a run: those given, and for the others the defaults of the recipe.

    In modes eval and predict, options that are not given come from the `config.json` of the run.

    Example:
        >>> config = make_config(data_dir="imagenet", recipe="nvidia", train_batch_size=512)
        >>> config.train_batch_size, config.train_epochs, config.precision
        (512, 500.0, 'float16')

    Raises:
        ValueError: an option is unknown or out of its range.
    """
    run_options = _read_run_options(given)
    sample = not given.get("data_dir") and given.get("dataset") in (None, "sample")
    recipe = given.get("recipe") or run_options.pop("recipe", None) or ("sample" if sample else "official")
    if recipe not in RECIPES:
        raise ValueError(f"`recipe` must be one of {', '.join(RECIPES)}. Received: recipe={recipe!r}")
    unknown = set(given) - _option_names()
    if unknown:
        raise ValueError(f"Unknown options: {', '.join(sorted(unknown))}. See TrainConfig.")
    options = RECIPES[recipe] | run_options | given | {"recipe": recipe}
    if "train_steps" in given and given.get("train_epochs") is not None:
        raise ValueError("`train_steps` and `train_epochs` both set the length of the run. Give one of them.")
    if "train_steps" in given:
        options["train_epochs"] = None
    return TrainConfig(**options)


def _read_run_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of the run to evaluate or predict with; empty in other modes, or if there is no run."""
    if given.get("mode") not in ("eval", "predict"):
        return {}
    recipe = RECIPES.get(given.get("recipe") or "official", {})
    name = given.get("model_name") or recipe.get("model_name", TrainConfig.model_name)
    run = RunFolder(given.get("model_dir") or f"runs/{name}")
    options = run.read_options(timeout=given.get("eval_timeout") or 0) or {}
    _check_types(options, run)
    if options and "data_dir" in given:
        options |= {"num_train_images": None, "num_eval_images": None}
    names = _option_names() - set(ONE_CALL_OPTIONS)
    return {name: value for name, value in options.items() if name in names}


def _check_types(options: Mapping[str, Any], run: RunFolder) -> None:
    """Raises ValueError if an option of a run has a value of another type."""
    hints = typing.get_type_hints(TrainConfig)
    for name in hints.keys() & options.keys():
        value, kind = options[name], hints[name]
        if not isinstance(float(value) if type(value) is int and kind in (float, float | None) else value, kind):
            raise ValueError(f"{run.config} is incomplete: {name} is {value!r}. {run.how_to_get_options()}")


def _option_names() -> set[str]:
    return {field.name for field in dataclasses.fields(TrainConfig)}


def find_variant_of(config: TrainConfig) -> Variant:
    """Returns the row of the network that the options name, with the changes that they make to it.

    Raises:
        ValueError: the network is unknown.
    """
    changes = {
        "width": config.width_coefficient,
        "depth": config.depth_coefficient,
        "resolution": config.input_image_size,
        "dropout": config.dropout_rate,
        "epsilon": config.batch_norm_epsilon,
    }
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    return find_variant(config.model_name)._replace(**given)
