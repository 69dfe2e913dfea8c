"""Options of a run: their defaults, ranges, recipes and help texts."""

import dataclasses
import json

import pytest

from keras_efficientnet.config import TrainConfig
from keras_efficientnet.recipes import RECIPES, make_config

# tensorflow/tpu 7dc921f, models/official/efficientnet/main.py: the defaults of its flags
OFFICIAL = {
    "model_name": "efficientnet-b0",
    "mode": "train_and_eval",
    "train_batch_size": 2048,
    "eval_batch_size": 64,
    "train_steps": 218949,
    "steps_per_eval": 6255,
    "base_learning_rate": 0.016,
    "lr_schedule": "exponential",
    "lr_decay_factor": 0.97,
    "lr_decay_epoch": 2.4,
    "lr_warmup_epochs": 5,
    "moving_average_decay": 0.9999,
    "weight_decay": 1e-5,
    "label_smoothing": 0.1,
    "dropout_rate": None,
    "input_image_size": None,
    "optimizer": "rmsprop",
    "survival_prob": 0.8,  # the builders' own
}


def test_defaults_are_those_of_the_official_flags():
    config = dataclasses.asdict(TrainConfig())
    assert {name: config[name] for name in OFFICIAL} == OFFICIAL


def test_recipe_follows_the_data_and_given_options_override_it():
    assert make_config().recipe == "sample"
    assert make_config().num_label_classes == 10
    assert make_config(data_dir="somewhere").recipe == "official"
    assert make_config(data_dir="somewhere").num_label_classes is None  # the data tell
    assert make_config(dataset="cifar10").recipe == "official"
    assert make_config(dataset="sample").recipe == "sample"
    assert make_config(data_dir="somewhere", recipe="sample", train_steps=3).train_steps == 3


def test_recipes_set_only_options_that_exist():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert all(set(recipe) <= names for recipe in RECIPES.values())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"train_batch_size": 0}, "`train_batch_size` must be at least 1. Received: train_batch_size=0"),
        ({"input_image_size": 31}, "`input_image_size` must be at least 32"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be below 1"),
        ({"survival_prob": 1.1}, "`survival_prob` must be at most 1"),
        (
            {"mode": "trane"},
            "`mode` must be one of train_and_eval, train, eval, predict, preview. Received: mode='trane'",
        ),
        ({"base_learning_rate": float("nan")}, "`base_learning_rate` must be at least 0"),
        ({"recipe": "mine"}, "`recipe` must be one of official, sample"),
        ({"learning_rate": 1}, "Unknown options: learning_rate"),
    ],
)
def test_an_invalid_option_is_named(options, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("(", r"\(")):
        make_config(**options)


def test_every_option_has_help_and_survives_json():
    assert all(len(field.metadata["help"]) > 10 for field in dataclasses.fields(TrainConfig))
    config = make_config(train_steps=7)
    assert TrainConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
