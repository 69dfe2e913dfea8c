"""Mixup and CutMix: mix the images of a batch, and their targets in the same shares.

Image i of a batch is mixed with image batch - 1 - i, and each image has a share of its own, as in the official code
(github.com/tensorflow/tpu, models/official/efficientnet/imagenet_input.py).
"""

from collections.abc import Callable

import tensorflow as tf

Mix = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]  # (images, labels, seed) -> mixed


def targets_of(labels: tf.Tensor, classes: int, smoothing: float = 0.0) -> tf.Tensor:
    """Returns the targets of cross-entropy.

    Args:
        labels: integer class numbers [batch], or the float32 targets [batch, classes] of mixed images.
        classes: number of classes.
        smoothing: share in [0, 1) to spread over all classes.

    Returns:
        float32 [batch, classes]; each row sums to 1.
    """
    targets = tf.one_hot(labels, classes) if labels.shape.rank == 1 else labels
    return targets * (1 - smoothing) + smoothing / classes


def mixup(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, *, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends each image with another, pixel by pixel.

    Args:
        images: float32 [batch, height, width, 3].
        targets: float32 [batch, classes].
        seed: int32 [2]; the same seed gives the same batch.
        alpha: above 0; each image keeps the share max(x, 1 - x), x ~ Beta(alpha, alpha), as in the official code.

    Returns:
        Images and targets of the same shapes.

    Source: Zhang et al. 2017, arxiv.org/abs/1710.09412.
    """
    share = _beta(alpha, (tf.shape(images)[0],), seed)
    share = tf.maximum(share, 1 - share)
    return _blend(images, share[:, tf.newaxis, tf.newaxis, tf.newaxis]), _blend(targets, share[:, tf.newaxis])


def cutmix(images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, *, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Replaces a box of each image by the same box of another image; the targets follow the number of pixels.

    Args:
        images: float32 [batch, height, width, 3].
        targets: float32 [batch, classes].
        seed: int32 [2]; the same seed gives the same batch.
        alpha: above 0; the box has the area 1 - x, x ~ Beta(alpha, alpha), before it is clipped to the image.

    Returns:
        Images and targets of the same shapes.

    Source: Yun et al. 2019, arxiv.org/abs/1905.04899, and github.com/clovaai/CutMix-PyTorch, `rand_bbox`.
    """
    share_seed, center_seed = tf.unstack(tf.random.split(seed, 2))
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    side = tf.sqrt(1 - _beta(alpha, (batch,), share_seed))
    centers = tf.unstack(tf.random.stateless_uniform((2, batch), center_seed))
    rows, columns = (_interval(length, side, center) for length, center in zip((height, width), centers, strict=True))
    own = ~(rows[:, :, tf.newaxis] & columns[:, tf.newaxis])
    share = tf.reduce_mean(tf.cast(own, tf.float32), axis=(1, 2))
    return tf.where(own[..., tf.newaxis], images, images[::-1]), _blend(targets, share[:, tf.newaxis])


def make_mixing(mixup_alpha: float, cutmix_alpha: float, classes: int) -> Mix | None:
    """Returns a function (images, labels [batch], seed) -> (images, targets [batch, classes]).

    If both alphas are above 0, each batch gets Mixup or CutMix with equal chance, as in timm. If both are 0, returns
    None.
    """
    kinds = [(mixup, mixup_alpha), (cutmix, cutmix_alpha)]
    kinds = [(function, alpha) for function, alpha in kinds if alpha > 0]

    def mix(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        kind_seed, pixels_seed = tf.unstack(tf.random.split(seed, 2))
        targets = targets_of(labels, classes)
        branches = [
            lambda function=function, alpha=alpha: function(images, targets, pixels_seed, alpha=alpha)
            for function, alpha in kinds
        ]
        if len(branches) == 1:
            return branches[0]()
        return tf.cond(tf.random.stateless_uniform((), kind_seed) < 0.5, *branches)

    return mix if kinds else None


def mix_batches(batches: tf.data.Dataset, mix: Mix | None, seed: tf.Tensor, first: int) -> tf.data.Dataset:
    """Mixes each batch. Only the number of the batch decides how, so a resumed run mixes as an uninterrupted one.

    Args:
        batches: (images, labels).
        mix: result of `make_mixing`; None leaves the batches unchanged.
        seed: int32 [2].
        first: number of the first batch, counted from the start of the run.

    Raises:
        ValueError: a batch has only one image.
    """
    if mix is None:
        return batches
    if batches.element_spec[0].shape[0] == 1:
        raise ValueError(
            "Mixup and CutMix need at least 2 images on each replica. Received: 1. Raise `train_batch_size`."
        )

    def mix_batch(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = batch
        return mix(images, labels, tf.random.fold_in(seed, number))

    return batches.enumerate(first).map(mix_batch, num_parallel_calls=tf.data.AUTOTUNE)


def _blend(values: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    return values * share + values[::-1] * (1 - share)


def _beta(alpha: float, shape: tuple, seed: tf.Tensor) -> tf.Tensor:
    """Draws from Beta(alpha, alpha) by logarithms of gamma variates: for a small alpha the variates round to 0."""
    gamma_seed, power_seed = tf.unstack(tf.random.split(seed, 2))
    gammas = tf.random.stateless_gamma((2, *shape), gamma_seed, alpha + 1)
    powers = tf.math.log(1 - tf.random.stateless_uniform((2, *shape), power_seed)) / alpha
    first, second = tf.unstack(tf.math.log(gammas) + powers)  # gamma(a) is gamma(a + 1) times uniform ** (1 / a)
    return tf.sigmoid(first - second)


def _interval(length: tf.Tensor, share: tf.Tensor, center: tf.Tensor) -> tf.Tensor:
    """Returns which of `length` pixels lie in an interval; share and center are fractions: bool [batch, length]."""
    extent, pixels = tf.cast(length, tf.float32), tf.range(length)
    half = tf.cast(extent * share, tf.int32) // 2
    middle = tf.cast(extent * center, tf.int32)
    return (pixels >= (middle - half)[:, tf.newaxis]) & (pixels < (middle + half)[:, tf.newaxis])
