"""What a training run is: each option, its default and its help, written once. Standard library only.

Defaults are the official recipe (tensorflow/tpu, models/official/efficientnet/main.py); `recipes.RECIPES` names others.
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
    num_label_classes: int | None = option(
        None,
        "Classes of the labels; as the data say by default, else 1000. 1001: records whose label 0 is a class.",
        least=2,
    )
    dropout_rate: float | None = option(None, "Dropout before the classifier; the network's own by default.", least=0)
    survival_prob: float = option(0.8, "Chance that the last block survives in stochastic depth.", least=0.01)
    width_coefficient: float | None = option(None, "Width of the network in place of its own.", least=0.01)
    depth_coefficient: float | None = option(None, "Depth of the network in place of its own.", least=0.01)
    batch_norm_momentum: float = option(0.99, "Decay of the batch norms' moving statistics.", least=0)
    batch_norm_epsilon: float | None = option(
        None, "Epsilon of the batch norms; the network's own by default.", least=0
    )
    weights: str | None = option(
        None,
        "Weights to start from: a name such as imagenet or noisy-student, or a file of any origin in README.md; a "
        "classifier of other classes stays fresh.",
    )
    frozen_layers: str | None = option(
        None, "What is not trained: backbone, batch_norm, or a pattern of layer names, (stem|block[1-4]).* for example."
    )

    # on what
    dataset: str | None = option(
        None,
        "Kind of data: sample, the embedded digits; records, TFRecords in the official ImageNet layout; folder, of "
        "class folders; or a name in TensorFlow Datasets. By default records with --data_dir, else sample.",
    )
    data_dir: str | None = option(None, "Where the data are, local or gs://.")
    holdout_shards: int | None = option(
        None,
        "Training files, the first ones, that are never trained on but evaluated in place of validation-*.",
        least=1,
    )
    eval_name: str | None = option(
        None, 'Name of the evaluation; with "test" in it validation-* are evaluated also where files are held out.'
    )
    skip_broken_records: bool = option(
        False,
        "Read all data once before the run, and leave out, count and report what is broken; else the run stops at it.",
    )
    use_cache: bool = option(False, "Keep the records in memory, not yet decoded, after they were read once.")
    tf_data_service: str | None = option(
        None, "Services that decode in place of this machine, one worker each: grpc://host:port,grpc://host2:port."
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
        "Train and evaluate in turn, only train, evaluate checkpoints, name what is in --images, or draw what the "
        "network will see to preview.png. In eval and predict the options that are not given are those of the run, "
        "from its config.json.",
        choices=("train_and_eval", "train", "eval", "predict", "preview"),
    )
    model_dir: str | None = option(
        None, "Folder for checkpoints, logs and exports; runs/MODEL_NAME by default. A run goes on where it stopped."
    )
    images: str | None = option(
        None, "For mode predict: image files, folders of them, and patterns as dir/*.jpg, separated by commas."
    )
    recipe: str | None = option(
        None,
        "Set of defaults (README.md, Recipes): official by default; sample is for the embedded digits, and taken with "
        "them.",
        choices=("official", "sample", "mosaicml", "nvidia", "finetune"),
    )
    train_batch_size: int = option(2048, "Images per step, over all replicas together.", least=1)
    eval_batch_size: int = option(64, "Images per evaluation step, over all replicas together.", least=1)
    accumulate_steps: int = option(1, "Parts in which a batch goes through the device, its gradients summed.", least=1)
    train_steps: int = option(218_949, "Steps in all; 350 epochs of ImageNet at the default batch.", least=1)
    train_epochs: float | None = option(None, "Epochs in all, in place of train_steps.", least=0.001)
    steps_per_eval: int = option(6_255, "Training steps between evaluations.", least=1)
    checkpoint_steps: int = option(1_251, "Training steps between checkpoints.", least=1)
    iterations_per_loop: int = option(16, "Training steps per call of the device; TPUs like 1251.", least=1)
    keep_checkpoints: int = option(3, "Checkpoints to keep; the best one is in archive/ besides.", least=1)
    early_stopping_evaluations: int | None = option(
        None, "Stop when top-1 has not risen for so many evaluations, and take the best checkpoint.", least=1
    )
    use_best: bool = option(
        False, "Report, export, evaluate and predict with the best checkpoint in archive/ in place of the last one."
    )
    eval_timeout: float | None = option(
        None,
        "For mode eval: wait so many seconds for each new checkpoint, and evaluate it, until the last step; by default "
        "one checkpoint is evaluated.",
        least=0,
    )
    optimizer: str = option(
        "rmsprop",
        "Optimizer; rmsprop and momentum are TensorFlow 1's, rmsprop_torch is PyTorch's.",
        choices=("rmsprop", "rmsprop_torch", "sgd", "momentum", "lars", "lamb", "adamw"),
    )
    optimizer_epsilon: float | None = option(None, "Epsilon of the optimizer; its own by default.", least=0)
    lars_weight_decay: float = option(1e-5, "Weight decay within the ratio of LARS.", least=0)
    lars_epsilon: float = option(0.0, "Epsilon of the ratio of LARS.", least=0)
    gradient_clip_norm: float | None = option(None, "Most that the norm of all gradients together may be.", least=0)
    base_learning_rate: float = option(0.016, "Learning rate for a batch of 256; scales with the batch.", least=0)
    lr_schedule: str = option(
        "exponential",
        "Learning rate over time; the official cosine counts the steps of the warm-up too.",
        choices=("exponential", "cosine", "cosine_after_warmup", "poly", "constant"),
    )
    lr_decay_factor: float = option(0.97, "Factor of the exponential schedule.", least=0)
    lr_decay_epoch: float = option(2.4, "Epochs between two steps of the exponential schedule.", least=0.001)
    lr_warmup_epochs: float = option(5.0, "Epochs over which the learning rate rises from 0.", least=0)
    moving_average_decay: float = option(0.9999, "Decay of the averaged weights; 0 turns them off.", least=0)
    weight_decay: float = option(
        1e-5, "L2 factor in the loss, on all but batch norms; AdamW's and LAMB's own.", least=0
    )
    decay_batch_norm: bool = option(False, "Decay the weights of batch norms too.")
    label_smoothing: float = option(0.1, "Share of the label spread over all classes.", least=0)
    seed: int = option(0, "Of weights, order, augmentation and dropout.", least=0)

    # where
    tpu: str | None = option(None, "Name or grpc:// address of a TPU, or local; by default GPUs, else the CPU.")
    tpu_zone: str | None = option(None, "Zone of the TPU, where its name does not say it.")
    gcp_project: str | None = option(None, "Project of the TPU, where it is not that of this machine.")
    num_replicas: int | None = option(None, "Devices to train on; every GPU by default.", least=1)
    precision: str | None = option(
        None,
        "Type of the computation: bfloat16 on a TPU, float32 elsewhere by default. float16 scales the loss.",
        choices=("float32", "bfloat16", "float16"),
    )
    batch_norm_sync: str = option(
        "all",
        "Whose images a batch norm looks at: of all replicas, of groups of them as the official code has, or of one.",
        choices=("all", "groups", "none"),
    )
    export: bool = option(True, "Write model.keras, saved_model/ and model.tflite after train_and_eval.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.model_dir and "://" in self.model_dir:
            raise ValueError(f"`model_dir` must be a folder of this machine. Received: model_dir={self.model_dir}")
        self._check_mode()
        for name in ("survival_prob", "crop_fraction", "random_erasing"):
            _check_most(name, getattr(self, name), 1.0, "at most")
        for name in ("dropout_rate", "moving_average_decay", "label_smoothing", "batch_norm_momentum"):
            _check_most(name, getattr(self, name), 1.0, "below")

    def _check_mode(self) -> None:
        if (self.mode == "predict") != (self.images is not None):
            raise ValueError(f"`images` goes with mode=predict. Received: mode={self.mode}, images={self.images}")
        if self.recipe == "finetune" and not self.weights and self.mode in ("train", "train_and_eval"):
            raise ValueError("`recipe=finetune` needs `weights` to start from: it has the learning rate for them.")
        if self.mode == "train" and self.takes_best:
            raise ValueError(
                "`early_stopping_evaluations` and `use_best` need evaluations. Choose mode=train_and_eval."
            )

    @property
    def directory(self) -> str:
        """Where the run lives."""
        return self.model_dir or f"runs/{self.model_name}"

    @property
    def takes_best(self) -> bool:
        """Whether the best checkpoint is what counts, and not the last."""
        return self.use_best or self.early_stopping_evaluations is not None


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
