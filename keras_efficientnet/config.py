"""The options of a training run: each option, its default and its help text, written once. Standard library only.

Defaults are the official recipe (tensorflow/tpu, models/official/efficientnet/main.py); `recipes.RECIPES` has others.
"""

import dataclasses
import os
import re
from typing import Any, TypeVar

Value = TypeVar("Value")
TOP = 5  # classes of the top-5 accuracy, which is 100 % for up to five classes

GROUPS = {  # first option of a group -> name of the group
    "model_name": "The network",
    "dataset": "The data",
    "crop_fraction": "The images",
    "mode": "The run",
    "train_batch_size": "The training",
    "optimizer": "The optimizer",
    "tpu": "The devices",
}


def option(
    default: Value,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    least: float | None = None,
    is_path: bool = False,
) -> Value:
    """Returns a field of `TrainConfig`: default, help text and its valid values; `~` in a path is expanded."""
    metadata = {"help": help, "choices": choices, "least": least, "is_path": is_path}
    return dataclasses.field(default=default, metadata=metadata)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of a training run. main.py defines one flag for each field.

    Example:
        >>> TrainConfig(model_name="efficientnet-b3", train_steps=100).directory
        'runs/efficientnet-b3'

    Raises:
        ValueError: an option is out of its range; the message names the option and its range.
    """

    # the network
    model_name: str = option("efficientnet-b0", "Name of the network. --model_name=help lists them.")
    input_image_size: int | None = option(
        None, "Height and width of the images in pixels. Default: the network's own.", least=32
    )
    num_label_classes: int | None = option(
        None,
        "Number of classes. Default: that of the data, or 1000 if the data do not define it. 1001 is for records that "
        "use label 0 as a class.",
        least=2,
    )
    dropout_rate: float | None = option(
        None, "Dropout rate before the classifier. Default: the network's own.", least=0
    )
    survival_prob: float = option(
        0.8, "Probability that stochastic depth keeps the last block; earlier blocks have higher ones.", least=0.01
    )
    width_coefficient: float | None = option(None, "Width multiplier. Default: the network's own.", least=0.01)
    depth_coefficient: float | None = option(None, "Depth multiplier. Default: the network's own.", least=0.01)
    batch_norm_momentum: float = option(
        0.99, "Decay of the moving mean and variance in batch normalization layers.", least=0
    )
    batch_norm_epsilon: float | None = option(
        None, "Epsilon of batch normalization layers. Default: the network's own.", least=0
    )
    weights: str | None = option(
        None,
        "Weights to start from: a name such as imagenet or noisy-student, or a file in any format that load_weights "
        "reads. If the number of classes differs, the classifier starts from random values.",
        is_path=True,
    )
    frozen_layers: str | None = option(
        None,
        "Layers that are not trained: backbone, batch_norm, or a regular expression that matches complete layer names, "
        "for example (stem|block[1-4]).*",
    )

    # the data
    dataset: str | None = option(
        None,
        "Source of the images: sample (the embedded handwritten digits), records (TFRecord files in the official "
        "ImageNet layout), folder (one subfolder per class), or a name in TensorFlow Datasets. Default: records if "
        "--data_dir is given, otherwise sample.",
    )
    data_dir: str | None = option(None, "Folder of the data, local or gs://.", is_path=True)
    holdout_shards: int | None = option(
        None,
        "Number of training files, counted from the first, to hold out: the run evaluates on them in place of "
        "validation-* and never trains on them.",
        least=1,
    )
    eval_name: str | None = option(
        None,
        'Name of the evaluation. If it contains "test", the run evaluates on validation-* even with --holdout_shards.',
    )
    skip_broken_records: bool = option(
        False,
        "Read all data once before training, then skip, count and report broken records. By default the run stops at "
        "the first broken record.",
    )
    use_cache: bool = option(False, "Keep the encoded images in memory after they were read once.")
    tf_data_service: str | None = option(
        None,
        "tf.data services that decode the images in place of this machine, each with one worker: "
        "grpc://host:port,grpc://host2:port",
    )
    num_train_images: int | None = option(None, "Number of training images. Default: counted.", least=1)
    num_eval_images: int | None = option(None, "Number of validation images. Default: counted.", least=1)

    # the images
    crop_fraction: float | None = option(
        None,
        "Fraction of the shorter side that the evaluation crop keeps. Default: the network's own, as in the official "
        "code.",
        least=0.01,
    )
    interpolation: str | None = option(
        None, "Interpolation for resizing images. Default: the network's own.", choices=("bicubic", "bilinear")
    )
    half_pixel_centers: bool = option(
        False, "Resize with half-pixel centers, as PIL, timm and tf.image.resize do; the official code does not."
    )
    random_resized_crop: bool = option(
        True, "Train on random crops. --norandom_resized_crop trains on the evaluation crop."
    )
    random_flip: bool = option(True, "Flip training images left to right with probability 0.5.")
    augment_name: str | None = option(
        None,
        "Further augmentation: autoaugment (policy v0), randaugment, or affine (small rotations, scalings, shears and "
        "shifts).",
        choices=("affine", "autoaugment", "randaugment"),
    )
    augment_version: str = option(
        "pil",
        "Implementation of the AutoAugment and RandAugment operations: that of Pillow, or that of the official code "
        "that trained the published checkpoints.",
        choices=("pil", "official"),
    )
    randaug_num_layers: int = option(2, "Number of RandAugment operations per image.", least=1)
    randaug_magnitude: float = option(
        10.0, "Magnitude of the RandAugment operations; published values are 17 for B5, 28 for B7 and B8.", least=0
    )
    random_erasing: float = option(
        0.0, "Probability that random erasing replaces a rectangle of a training image with noise.", least=0
    )
    mixup_alpha: float = option(
        0.0, "Mixup: blends each image with another one; the weight is drawn from Beta(alpha, alpha).", least=0
    )
    cutmix_alpha: float = option(
        0.0,
        "CutMix: pastes a box of another image; its area is drawn from Beta(alpha, alpha). If Mixup is on too, each "
        "gets half of the batches.",
        least=0,
    )

    # the run
    mode: str = option(
        "train_and_eval",
        "train_and_eval (alternate), train, eval (score checkpoints), predict (classify --images), or preview (draw "
        "the augmented training images to preview.png). In eval and predict, options that are not given come from the "
        "config.json of the run.",
        choices=("train_and_eval", "train", "eval", "predict", "preview"),
    )
    model_dir: str | None = option(
        None,
        "Run folder for checkpoints, logs and exports. Default: runs/MODEL_NAME. The same command resumes from its "
        "latest checkpoint.",
        is_path=True,
    )
    images: str | None = option(
        None, "For --mode=predict: image files, folders and patterns such as dir/*.jpg, separated by commas."
    )
    recipe: str | None = option(
        None,
        "Set of defaults. Default: official; sample for the embedded digits.",
        choices=("official", "sample", "mosaicml", "nvidia", "finetune"),
    )

    # the training
    train_batch_size: int = option(2048, "Images per training step, summed over all replicas.", least=1)
    eval_batch_size: int = option(64, "Images per evaluation step, summed over all replicas.", least=1)
    accumulate_steps: int = option(
        1, "Number of parts that a batch is split into; their gradients are accumulated.", least=1
    )
    train_steps: int = option(
        218_949, "Number of training steps; the default is 350 epochs of ImageNet at batch 2048.", least=1
    )
    train_epochs: float | None = option(None, "Number of training epochs, in place of --train_steps.", least=0.001)
    steps_per_eval: int = option(6_255, "Training steps between evaluations.", least=1)
    checkpoint_steps: int = option(1_251, "Training steps between checkpoints.", least=1)
    iterations_per_loop: int = option(
        16, "Training steps per call of the device, and per line of the log; TPUs benefit from 1251.", least=1
    )
    keep_checkpoints: int = option(
        3, "Number of latest checkpoints to keep. The best checkpoint is kept as well, in archive/.", least=1
    )
    early_stopping_evaluations: int | None = option(
        None,
        "Stop if top-1 has not improved for this many evaluations, and report and export the best checkpoint.",
        least=1,
    )
    use_best: bool = option(
        False, "Report, export, evaluate and predict with the best checkpoint in place of the latest."
    )
    eval_timeout: float | None = option(
        None,
        "For --mode=eval: evaluate every new checkpoint until the last step, and wait at most this many seconds for "
        "each. By default one checkpoint is evaluated.",
        least=0,
    )
    seed: int = option(0, "Random seed of the weights, the shuffling, the augmentation and the dropout.", least=0)
    export: bool = option(True, "Write model.keras, saved_model/ and model.tflite at the end of train_and_eval.")

    # the optimizer
    optimizer: str = option(
        "rmsprop",
        "Optimizer. rmsprop and momentum are those of TensorFlow 1, rmsprop_torch is that of PyTorch.",
        choices=("rmsprop", "rmsprop_torch", "sgd", "momentum", "lars", "lamb", "adamw"),
    )
    optimizer_epsilon: float | None = option(None, "Epsilon of the optimizer. Default: the optimizer's own.", least=0)
    lars_weight_decay: float = option(1e-5, "Weight decay that LARS includes in its trust ratio.", least=0)
    lars_epsilon: float = option(0.0, "Epsilon in the trust ratio of LARS.", least=0)
    gradient_clip_norm: float | None = option(None, "Clip the global norm of the gradients to this value.", least=0)
    base_learning_rate: float = option(
        0.016, "Learning rate for batch size 256; it is scaled linearly with the batch size.", least=0
    )
    lr_schedule: str = option(
        "exponential",
        "Learning rate schedule. cosine is the official one, which includes the warm-up steps; cosine_after_warmup "
        "starts after them.",
        choices=("exponential", "cosine", "cosine_after_warmup", "poly", "constant"),
    )
    lr_decay_factor: float = option(0.97, "Decay factor of the exponential schedule.", least=0)
    lr_decay_epoch: float = option(2.4, "Epochs between two decays of the exponential schedule.", least=0.001)
    lr_warmup_epochs: float = option(5.0, "Epochs of linear warm-up from 0.", least=0)
    moving_average_decay: float = option(0.9999, "Decay of the averaged weights; 0 disables averaging.", least=0)
    weight_decay: float = option(
        1e-5,
        "L2 factor on all weights except those of batch normalization; for adamw and lamb, their decoupled weight "
        "decay.",
        least=0,
    )
    decay_batch_norm: bool = option(False, "Apply weight decay to batch normalization weights too.")
    label_smoothing: float = option(0.1, "Fraction of the label that is spread evenly over all classes.", least=0)

    # the devices
    tpu: str | None = option(
        None, "Name or grpc:// address of a TPU, or local. Default: GPUs if there are any, otherwise the CPU."
    )
    tpu_zone: str | None = option(None, "Zone of the TPU, if its name does not include it.")
    gcp_project: str | None = option(None, "Google Cloud project of the TPU, if it is not that of this machine.")
    num_replicas: int | None = option(None, "Number of devices to train on. Default: all GPUs.", least=1)
    precision: str | None = option(
        None,
        "Type of the computation. Default: bfloat16 on a TPU, otherwise float32. float16 includes loss scaling.",
        choices=("float32", "bfloat16", "float16"),
    )
    batch_norm_sync: str = option(
        "all",
        "Replicas that share the statistics of batch normalization: all, groups (as in the official code), or none.",
        choices=("all", "groups", "none"),
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.metadata["is_path"] and getattr(self, field.name):
                object.__setattr__(self, field.name, os.path.expanduser(getattr(self, field.name)))
            _check_field(field, getattr(self, field.name))
        if self.model_dir and "://" in self.model_dir:
            raise ValueError(f"`model_dir` must be a local folder. Received: model_dir={self.model_dir}")
        self._check_mode()
        _check_pattern("frozen_layers", self.frozen_layers)
        for name in ("survival_prob", "crop_fraction", "random_erasing"):
            _check_maximum(name, getattr(self, name), 1.0, "at most")
        for name in ("dropout_rate", "moving_average_decay", "label_smoothing", "batch_norm_momentum"):
            _check_maximum(name, getattr(self, name), 1.0, "below")

    def _check_mode(self) -> None:
        if (self.mode == "predict") != (self.images is not None):
            raise ValueError(
                f"`mode=predict` and `images` must be given together. Received: mode={self.mode}, images={self.images}"
            )
        if self.recipe == "finetune" and not self.weights and self.mode in ("train", "train_and_eval"):
            raise ValueError("`recipe=finetune` needs `weights` to start from. Give `weights`, or another `recipe`.")
        if self.mode == "train" and self.prefers_best:
            raise ValueError(
                "`early_stopping_evaluations` and `use_best` need evaluations. Choose mode=train_and_eval."
            )

    @property
    def directory(self) -> str:
        """The run folder."""
        return self.model_dir or f"runs/{self.model_name}"

    @property
    def prefers_best(self) -> bool:
        """Whether to report and export the best checkpoint in place of the latest."""
        return self.use_best or self.early_stopping_evaluations is not None


def _check_field(field: dataclasses.Field[Any], value: Any) -> None:
    choices, least = field.metadata["choices"], field.metadata["least"]
    if value is None:
        return
    if choices and value not in choices:
        raise ValueError(f"`{field.name}` must be one of {', '.join(choices)}. Received: {field.name}={value!r}")
    if least is not None and not value >= least:
        raise ValueError(f"`{field.name}` must be at least {least}. Received: {field.name}={value}")


def _check_pattern(name: str, value: str | None) -> None:
    try:
        re.compile(value or "")
    except re.error as error:
        raise ValueError(f"`{name}` must be a regular expression: {error}. Received: {name}={value}") from error


def _check_maximum(name: str, value: float | None, maximum: float, word: str) -> None:
    if value is not None and (value > maximum or (word == "below" and value == maximum)):
        raise ValueError(f"`{name}` must be {word} {maximum:g}. Received: {name}={value}")
