"""Recipes: named sets of defaults, and the configuration that they make with what the user gave."""

import dataclasses
from typing import Any

from keras_efficientnet.config import TrainConfig
from keras_efficientnet.runs import RunFolder

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
        "train_steps": 900,
        "steps_per_eval": 300,
        "checkpoint_steps": 300,
        "iterations_per_loop": 10,
        "lr_schedule": "cosine",
        "lr_warmup_epochs": 2.0,
        "moving_average_decay": 0.99,
    },
    # MosaicML's model card and Composer's yaml of B0: PyTorch's optimizer and batch norms, decayed as everything else
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
    # google/automl, efficientnetv2, ImagenetFt: with --weights
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


# What a run's config.json does not hand on to mode eval and predict: where and how it happened to be called
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
    """A configuration from the options a user gave; others come from the recipe, or in eval and predict from the run.

    Raises:
        ValueError: an option is unknown or out of its range.
    """
    of_run = _options_of_run(given)
    sample = not given.get("data_dir") and given.get("dataset") in (None, "sample")
    recipe = given.get("recipe") or of_run.pop("recipe", None) or ("sample" if sample else "official")
    if recipe not in RECIPES:
        raise ValueError(f"`recipe` must be one of {', '.join(RECIPES)}. Received: recipe={recipe!r}")
    unknown = set(given) - {field.name for field in dataclasses.fields(TrainConfig)}
    if unknown:
        raise ValueError(f"Unknown options: {', '.join(sorted(unknown))}. See TrainConfig.")
    options = RECIPES[recipe] | of_run | given | {"recipe": recipe}
    if "train_steps" in given and given.get("train_epochs") is not None:
        raise ValueError("`train_steps` and `train_epochs` say the same. Give one of them.")
    if "train_steps" in given:
        options["train_epochs"] = None
    return TrainConfig(**options)


def _options_of_run(given: dict[str, Any]) -> dict[str, Any]:
    """The options of the run to evaluate or predict with, if there is one."""
    if given.get("mode") not in ("eval", "predict"):
        return {}
    recipe = RECIPES.get(given.get("recipe") or "official", {})
    name = given.get("model_name") or recipe.get("model_name", TrainConfig.model_name)
    run = RunFolder(given.get("model_dir") or f"runs/{name}")
    options = run.read_options(timeout=given.get("eval_timeout") or 0)
    if options is None:
        return {}
    if "data_dir" in given:
        options |= {"num_train_images": None, "num_eval_images": None}
    names = {field.name for field in dataclasses.fields(TrainConfig)} - set(ONE_CALL_OPTIONS)
    return {name: value for name, value in options.items() if name in names}
