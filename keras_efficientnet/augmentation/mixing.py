"""Batches -> batches of mixed images: Mixup and CutMix. The targets are mixed as the images are.

Image i of a batch meets image batch - 1 - i, and each image has its own share, as in the official code
(github.com/tensorflow/tpu, models/official/efficientnet/imagenet_input.py).
"""

from collections.abc import Callable

import tensorflow as tf


def targets_of(labels, classes: int, smoothing: float = 0.0):
    """What cross-entropy compares with.

    Args:
        labels: whole numbers [batch], or targets float32 [batch, classes], which are mixed already.
        classes: how many.
        smoothing: share in [0, 1) that is spread over all classes.

    Returns:
        float32 [batch, classes], rows of sum 1.
    """
    targets = tf.one_hot(labels, classes) if labels.shape.rank == 1 else labels
    return targets * (1 - smoothing) + smoothing / classes


def mixup(images, targets, seed, *, alpha: float):
    """Blends each image with another, pixel by pixel.

    Args:
        images: float32 [batch, height, width, 3].
        targets: float32 [batch, classes].
        seed: int32 [2]; the same seed gives the same batch.
        alpha: above 0; the image's own share is the greater of x and 1 - x, x ~ Beta(alpha, alpha), as official.

    Returns:
        Images and targets of the same shapes.

    Source: Zhang et al. 2017, arxiv.org/abs/1710.09412.
    """
    share = _beta(alpha, (tf.shape(images)[0],), seed)
    share = tf.maximum(share, 1 - share)
    return _blend(images, share[:, tf.newaxis, tf.newaxis, tf.newaxis]), _blend(targets, share[:, tf.newaxis])


def cutmix(images, targets, seed, *, alpha: float):
    """Puts a box of another image into each one; targets are weighed by the pixels of each.

    Args:
        images: float32 [batch, height, width, 3].
        targets: float32 [batch, classes].
        seed: int32 [2]; the same seed gives the same batch.
        alpha: above 0; the box has the area 1 - x, x ~ Beta(alpha, alpha), before the edges of the image cut it off.

    Returns:
        Images and targets of the same shapes.

    Source: Yun et al. 2019, arxiv.org/abs/1905.04899, and github.com/clovaai/CutMix-PyTorch, `rand_bbox`.
    """
    share_seed, place_seed = tf.unstack(tf.random.split(seed, 2))
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    side = tf.sqrt(1 - _beta(alpha, (batch,), share_seed))
    places = tf.unstack(tf.random.stateless_uniform((2, batch), place_seed))
    down, across = (_interval(length, side, place) for length, place in zip((height, width), places, strict=True))
    own = ~(down[:, :, tf.newaxis] & across[:, tf.newaxis])
    share = tf.reduce_mean(tf.cast(own, tf.float32), axis=(1, 2))
    return tf.where(own[..., tf.newaxis], images, images[::-1]), _blend(targets, share[:, tf.newaxis])


def make_mixing(mixup_alpha: float, cutmix_alpha: float, classes: int) -> Callable | None:
    """A function (images, labels [batch], seed) -> (images, targets [batch, classes]), or None where both are 0.

    Where both are above 0, one of the two is tossed for each batch, as in timm.
    """
    kinds = [(mixup, mixup_alpha), (cutmix, cutmix_alpha)]
    kinds = [(function, alpha) for function, alpha in kinds if alpha > 0]

    def mix(images, labels, seed):
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


def mix_batches(batches: tf.data.Dataset, mix: Callable | None, seed, first: int) -> tf.data.Dataset:
    """Mixes each batch by its number alone, so that a run which goes on mixes as one that never stopped.

    Args:
        batches: (images, labels).
        mix: of `make_mixing`; None leaves the batches as they are.
        seed: int32 [2].
        first: number of the first batch, counted from the start of the run.

    Raises:
        ValueError: a batch has one image, which could only be mixed with itself.
    """
    if mix is None:
        return batches
    if batches.element_spec[0].shape[0] == 1:
        raise ValueError("Mixup and CutMix need 2 images at least on each replica. Raise `train_batch_size`.")
    return batches.enumerate(first).map(
        lambda number, batch: mix(*batch, tf.random.fold_in(seed, number)), num_parallel_calls=tf.data.AUTOTUNE
    )


def _blend(values, share):
    return values * share + values[::-1] * (1 - share)


def _beta(alpha, shape, seed):
    """Beta(alpha, alpha), from the logarithms of gamma variates, which small alphas would round to 0 / 0."""
    gamma_seed, power_seed = tf.unstack(tf.random.split(seed, 2))
    gammas = tf.random.stateless_gamma((2, *shape), gamma_seed, alpha + 1)
    powers = tf.math.log(1 - tf.random.stateless_uniform((2, *shape), power_seed)) / alpha
    first, second = tf.unstack(tf.math.log(gammas) + powers)  # gamma(a) is gamma(a + 1) times uniform ** (1 / a)
    return tf.sigmoid(first - second)


def _interval(length, share, place):
    """Which of `length` pixels lie in an interval of that share about that place: bool [batch, length]."""
    extent, pixels = tf.cast(length, tf.float32), tf.range(length)
    half = tf.cast(extent * share, tf.int32) // 2
    centre = tf.cast(extent * place, tf.int32)
    return (pixels >= (centre - half)[:, tf.newaxis]) & (pixels < (centre + half)[:, tf.newaxis])
