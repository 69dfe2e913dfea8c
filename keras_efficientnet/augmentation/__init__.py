"""Image augmentation: policies and their operations, Mixup, CutMix and random erasing."""

from keras_efficientnet.augmentation.policies import autoaugment, make_augmentation, randaugment, random_affine

__all__ = ["autoaugment", "make_augmentation", "randaugment", "random_affine"]
