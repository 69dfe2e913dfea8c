"""The published files of weights: what exists for each network, where, and how each wants its images.

Needs neither TensorFlow nor Keras, and no network before `fetch`.
"""

import fnmatch
import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from keras_efficientnet.architectures import HALVED, MEAN_RGB, STDDEV_RGB, VARIANTS, Variant, official_name
from keras_efficientnet.weights.downloads import describe, download, sha256

IMAGENET, HALF = "imagenet", "half"
STATISTICS: dict[str, dict[str, Any]] = {IMAGENET: {"mean": MEAN_RGB, "deviation": STDDEV_RGB}, HALF: HALVED}

RELEASES = "https://github.com/huggingface/pytorch-image-models/releases/download/"
TIMM, TRESNET = f"{RELEASES}v0.1-weights/", f"{RELEASES}v0.1-tresnet/"
TORCHVISION = "https://download.pytorch.org/models/"
HUB_FILE = "model.safetensors"  # in each of timm's repositories on Hugging Face

# What people call them -> tags, of which a network's is the first that it has. "imagenet": trained on ImageNet alone,
# without AdvProp; the files behind the accuracies in `architectures.VARIANTS`, for B0 to B7 those of
# keras.applications; L2 has none.
NAMES = {
    "imagenet": ("aa_in1k", "ra_in1k", "ra2_in1k", "ft_in1k", "in1k", "IMAGENET1K_V1"),
    "autoaugment": ("aa_in1k",),
    "randaugment": ("ra_in1k", "ra2_in1k"),
    "advprop": ("ap_in1k",),
    "noisy-student": ("ns_jft_in1k",),
}


class Pretrained(NamedTuple):
    variant: str  # our name of the network
    tag: str  # timm's for the training; torchvision's own for its files
    statistics: str  # the row of STATISTICS that its images are normalised by
    resolution: int  # of the accuracies, in pixels; not always the variant's
    crop_fraction: float  # share of an image's shorter side in the central crop of the accuracies
    top_1: float  # on ImageNet, in percent
    top_5: float
    file: str | None  # in PyTorch's format; its name ends in the first digits of its SHA-256. None: there is none
    folder: str = TIMM  # of `file`; what timm has released is also on Hugging Face
    interpolation: str = "bicubic"  # that resizes its images

    @property
    def names(self) -> tuple[str, ...]:
        """What `weights` may be to get this file, besides `tag` and `key`."""
        return tuple(name for name in NAMES if _first(self.variant, name) == self)

    @property
    def key(self) -> str:
        """The name in timm, "tf_efficientnet_b0.aa_in1k"; with our name of a network that timm does not have."""
        return f"{VARIANTS[self.variant].timm or self.variant}.{self.tag}"

    @property
    def repository(self) -> str | None:
        """On Hugging Face."""
        return f"timm/{self.key}" if self.folder.startswith(RELEASES) else None

    @property
    def url(self) -> str | None:
        """Of `file`."""
        return self.file and self.folder + self.file

    @property
    def mean(self) -> tuple[float, ...]:
        """Of the pixels, red, green, blue, 0 to 255."""
        return STATISTICS[self.statistics]["mean"]

    @property
    def deviation(self) -> tuple[float, ...]:
        """Of the pixels, red, green, blue, 0 to 255."""
        return STATISTICS[self.statistics]["deviation"]

    def normalised(self, variant: Variant) -> Variant:
        """The row of a network with the mean and deviation of these weights' pixels."""
        return variant._replace(mean=self.mean, deviation=self.deviation)

    @property
    def licence(self) -> str | None:
        """That of the official TPU code for its weights; None where timm's and torchvision's code do not say."""
        return "Apache-2.0" if self.key.startswith("tf_") else None


# Files, accuracies, crops: timm/models/efficientnet.py and results/results-imagenet.csv, at the test size where that is
# not the training size; torchvision: torchvision/models/efficientnet.py. torchvision's IMAGENET1K_V1 of B0 to B4 are
# timm's ra, ft, ra, ra2 and ra2, by their hashes. Not here: timm's files for networks that are not in VARIANTS, among
# them its efficientnet_b5 (another epsilon than torchvision's) and those for other classes than ImageNet's 1000.
# fmt: off
PRETRAINED = (
    # variant, tag, statistics, resolution, crop_fraction, top_1, top_5, file
    Pretrained("efficientnet-b0", "ns_jft_in1k", IMAGENET, 224, 0.875, 78.680, 94.372,
        "tf_efficientnet_b0_ns-c0e6a31c.pth"),
    Pretrained("efficientnet-b0", "ap_in1k",     HALF,     224, 0.875, 77.100, 93.258,
        "tf_efficientnet_b0_ap-f262efe1.pth"),
    Pretrained("efficientnet-b0", "aa_in1k",     IMAGENET, 224, 0.875, 76.882, 93.270,
        "tf_efficientnet_b0_aa-827b6e33.pth"),
    Pretrained("efficientnet-b0", "in1k",        IMAGENET, 224, 0.875, 76.542, 93.008,
        "tf_efficientnet_b0-0af12548.pth"),
    Pretrained("efficientnet-b1", "ns_jft_in1k", IMAGENET, 240, 0.882, 81.388, 95.756,
        "tf_efficientnet_b1_ns-99dd0c41.pth"),
    Pretrained("efficientnet-b1", "ap_in1k",     HALF,     240, 0.882, 79.288, 94.316,
        "tf_efficientnet_b1_ap-44ef0a3d.pth"),
    Pretrained("efficientnet-b1", "aa_in1k",     IMAGENET, 240, 0.882, 78.840, 94.202,
        "tf_efficientnet_b1_aa-ea7a6ee0.pth"),
    Pretrained("efficientnet-b1", "in1k",        IMAGENET, 240, 0.882, 78.546, 94.096,
        "tf_efficientnet_b1-5c1377c4.pth"),
    Pretrained("efficientnet-b2", "ns_jft_in1k", IMAGENET, 260, 0.890, 82.412, 96.238,
        "tf_efficientnet_b2_ns-00306e48.pth"),
    Pretrained("efficientnet-b2", "ap_in1k",     HALF,     260, 0.890, 80.300, 95.032,
        "tf_efficientnet_b2_ap-2f8e7636.pth"),
    Pretrained("efficientnet-b2", "aa_in1k",     IMAGENET, 260, 0.890, 80.074, 94.906,
        "tf_efficientnet_b2_aa-60c94f97.pth"),
    Pretrained("efficientnet-b2", "in1k",        IMAGENET, 260, 0.890, 79.612, 94.714,
        "tf_efficientnet_b2-e393ef04.pth"),
    Pretrained("efficientnet-b3", "ns_jft_in1k", IMAGENET, 300, 0.904, 84.054, 96.926,
        "tf_efficientnet_b3_ns-9d44bf68.pth"),
    Pretrained("efficientnet-b3", "ap_in1k",     HALF,     300, 0.904, 81.842, 95.614,
        "tf_efficientnet_b3_ap-aad25bdd.pth"),
    Pretrained("efficientnet-b3", "aa_in1k",     IMAGENET, 300, 0.904, 81.648, 95.724,
        "tf_efficientnet_b3_aa-84b4657e.pth"),
    Pretrained("efficientnet-b3", "in1k",        IMAGENET, 300, 0.904, 80.878, 95.308,
        "tf_efficientnet_b3-e3bd6955.pth"),
    Pretrained("efficientnet-b4", "ns_jft_in1k", IMAGENET, 380, 0.922, 85.156, 97.482,
        "tf_efficientnet_b4_ns-d6313a46.pth"),
    Pretrained("efficientnet-b4", "ap_in1k",     HALF,     380, 0.922, 83.246, 96.392,
        "tf_efficientnet_b4_ap-dedb23e6.pth"),
    Pretrained("efficientnet-b4", "aa_in1k",     IMAGENET, 380, 0.922, 83.040, 96.298,
        "tf_efficientnet_b4_aa-818f208c.pth"),
    Pretrained("efficientnet-b4", "in1k",        IMAGENET, 380, 0.922, 82.598, 96.132,
        "tf_efficientnet_b4-74ee3bed.pth"),
    Pretrained("efficientnet-b5", "ns_jft_in1k", IMAGENET, 456, 0.934, 86.096, 97.744,
        "tf_efficientnet_b5_ns-6f26d0cf.pth"),
    Pretrained("efficientnet-b5", "ap_in1k",     HALF,     456, 0.934, 84.258, 96.984,
        "tf_efficientnet_b5_ap-9e82fae8.pth"),
    Pretrained("efficientnet-b5", "ra_in1k",     IMAGENET, 456, 0.934, 83.834, 96.764,
        "tf_efficientnet_b5_ra-9a3e5369.pth"),
    Pretrained("efficientnet-b5", "aa_in1k",     IMAGENET, 456, 0.934, 83.696, 96.712,
        "tf_efficientnet_b5_aa-99018a74.pth"),
    Pretrained("efficientnet-b5", "in1k",        IMAGENET, 456, 0.934, 83.170, 96.534,
        "tf_efficientnet_b5-c6949ce9.pth"),
    Pretrained("efficientnet-b6", "ns_jft_in1k", IMAGENET, 528, 0.942, 86.476, 97.864,
        "tf_efficientnet_b6_ns-51548356.pth"),
    Pretrained("efficientnet-b6", "ap_in1k",     HALF,     528, 0.942, 84.794, 97.138,
        "tf_efficientnet_b6_ap-4ffb161f.pth"),
    Pretrained("efficientnet-b6", "aa_in1k",     IMAGENET, 528, 0.942, 84.124, 96.890,
        "tf_efficientnet_b6_aa-80ba17e4.pth"),
    Pretrained("efficientnet-b7", "ns_jft_in1k", IMAGENET, 600, 0.949, 86.850, 98.080,
        "tf_efficientnet_b7_ns-1dbc32de.pth"),
    Pretrained("efficientnet-b7", "ap_in1k",     HALF,     600, 0.949, 85.132, 97.256,
        "tf_efficientnet_b7_ap-ddb28fec.pth"),
    Pretrained("efficientnet-b7", "ra_in1k",     IMAGENET, 600, 0.949, 84.926, 97.220,
        "tf_efficientnet_b7_ra-6c08e654.pth"),
    Pretrained("efficientnet-b7", "aa_in1k",     IMAGENET, 600, 0.949, 84.424, 96.908,
        "tf_efficientnet_b7_aa-076e3472.pth"),
    Pretrained("efficientnet-b8", "ap_in1k", HALF,     672, 0.954, 85.358, 97.298,
        "tf_efficientnet_b8_ap-00e169fa.pth"),
    Pretrained("efficientnet-b8", "ra_in1k", IMAGENET, 672, 0.954, 85.344, 97.392,
        "tf_efficientnet_b8_ra-572d5dd9.pth"),
    Pretrained("efficientnet-l2", "ns_jft_in1k_475", IMAGENET, 475, 0.936, 88.246, 98.554,
        "tf_efficientnet_l2_ns_475-bebbd00a.pth"),
    Pretrained("efficientnet-l2", "ns_jft_in1k",     IMAGENET, 800, 0.960, 88.360, 98.656,
        "tf_efficientnet_l2_ns-df73bb44.pth"),
    Pretrained("efficientnet-condconv-b0-4e", "in1k", HALF, 224, 0.875, 77.324, 93.334,
        "tf_efficientnet_cc_b0_4e-4362b6b2.pth"),
    Pretrained("efficientnet-condconv-b0-8e", "in1k", HALF, 224, 0.875, 77.956, 93.638,
        "tf_efficientnet_cc_b0_8e-66184a25.pth"),
    Pretrained("efficientnet-condconv-b1-8e", "in1k", HALF, 240, 0.882, 79.318, 94.384,
        "tf_efficientnet_cc_b1_8e-f7c79ae1.pth"),
    Pretrained("efficientnet-b1-pruned", "in1k", HALF, 240, 0.882, 78.252, 93.820,
        "effnetb1_pruned-bea43a3a.pth", folder=TRESNET),
    Pretrained("efficientnet-b2-pruned", "in1k", HALF, 260, 0.890, 79.904, 94.838,
        "effnetb2_pruned-08c1b27c.pth", folder=TRESNET),
    Pretrained("efficientnet-b3-pruned", "in1k", HALF, 300, 0.904, 80.864, 95.266,
        "effnetb3_pruned-59ecf72d.pth", folder=TRESNET),
    Pretrained("efficientnet-lite0", "in1k", HALF, 224, 0.875, 74.846, 92.180, "tf_efficientnet_lite0-0aa007d2.pth"),
    Pretrained("efficientnet-lite1", "in1k", HALF, 240, 0.882, 76.674, 93.232, "tf_efficientnet_lite1-bde8b488.pth"),
    Pretrained("efficientnet-lite2", "in1k", HALF, 260, 0.890, 77.470, 93.756, "tf_efficientnet_lite2-dcccb7df.pth"),
    Pretrained("efficientnet-lite3", "in1k", HALF, 300, 0.904, 79.808, 94.908,
        "tf_efficientnet_lite3-b733e338.pth", interpolation="bilinear"),
    Pretrained("efficientnet-lite4", "in1k", HALF, 380, 0.920, 81.540, 95.668,
        "tf_efficientnet_lite4-741542c3.pth", interpolation="bilinear"),
    Pretrained("efficientnet-edgetpu-S", "in1k", HALF, 224, 0.875, 76.608, 93.176, "tf_efficientnet_es-ca1afbfe.pth"),
    Pretrained("efficientnet-edgetpu-M", "in1k", HALF, 240, 0.882, 78.128, 94.052, "tf_efficientnet_em-e78cfe58.pth"),
    Pretrained("efficientnet-edgetpu-L", "in1k", HALF, 300, 0.904, 80.246, 95.122, "tf_efficientnet_el-5143854e.pth"),
    Pretrained("efficientnet-b0-torch", "ra_in1k",             IMAGENET, 224, 0.875, 77.698, 93.538,
        "efficientnet_b0_ra-3dd342df.pth"),
    Pretrained("efficientnet-b0-torch", "ra4_e3600_r224_in1k", HALF,     256, 1.000, 79.364, 94.754, None),
    Pretrained("efficientnet-b1-torch", "ra4_e3600_r240_in1k", HALF,     288, 1.000, 81.444, 95.698, None),
    Pretrained("efficientnet-b1-torch", "ft_in1k",             IMAGENET, 256, 1.000, 78.806, 94.346,
        "efficientnet_b1-533bc792.pth"),
    Pretrained("efficientnet-b1-torch", "IMAGENET1K_V2",       IMAGENET, 240, 0.941, 79.838, 94.934,
        "efficientnet_b1-c27df63c.pth", interpolation="bilinear", folder=TORCHVISION),
    Pretrained("efficientnet-b2-torch", "ra_in1k", IMAGENET, 288, 1.000, 80.612, 95.320,
        "efficientnet_b2_ra-bcdf34b7.pth"),
    Pretrained("efficientnet-b3-torch", "ra2_in1k", IMAGENET, 320, 1.000, 82.296, 96.124,
        "efficientnet_b3_ra2-cf984f9c.pth"),
    Pretrained("efficientnet-b4-torch", "ra2_in1k", IMAGENET, 384, 1.000, 83.468, 96.574,
        "efficientnet_b4_ra2_320-7eb33cd5.pth"),
    Pretrained("efficientnet-b5-torch", "IMAGENET1K_V1", IMAGENET, 456, 1.000, 83.444, 96.628,
        "efficientnet_b5_lukemelas-b6417697.pth", folder=TORCHVISION),
    Pretrained("efficientnet-b6-torch", "IMAGENET1K_V1", IMAGENET, 528, 1.000, 84.008, 96.916,
        "efficientnet_b6_lukemelas-c76e70fd.pth", folder=TORCHVISION),
    Pretrained("efficientnet-b7-torch", "IMAGENET1K_V1", IMAGENET, 600, 1.000, 84.122, 96.908,
        "efficientnet_b7_lukemelas-dcc49843.pth", folder=TORCHVISION),
)
# fmt: on
TAGS = {row.tag for row in PRETRAINED}
KEYS = {row.key: row for row in PRETRAINED}


def pixel_statistics(source: Variant | Pretrained, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation, [channels], of each of an image's channels: RGB in turn, for one the average of the three."""
    mean, deviation = np.array(source.mean), np.array(source.deviation)
    if channels == 1:
        return mean.mean(keepdims=True), deviation.mean(keepdims=True)
    return np.resize(mean, channels), np.resize(deviation, channels)


def list_pretrained(pattern: str = "*") -> list[Pretrained]:
    """The published files whose network or `key` `pattern` matches as in a shell: "*-b?", "tf_*.ap_in1k".

    Returns:
        Rows with named columns, as `pandas.DataFrame` takes them; `row.names` and `row.tag` are what `weights` may be.
    """
    return [row for row in PRETRAINED if any(fnmatch.fnmatchcase(name, pattern) for name in (row.variant, row.key))]


def is_name(weights: Any) -> bool:
    """Whether `weights` is meant as the name of published ones, not as a path.

    A file of that name comes first; a folder does if no published weights are called so. Other words without a folder
    and an ending count as names, so that `find` can say which there are.
    """
    if not isinstance(weights, str):
        return False
    if weights in NAMES or weights in TAGS or weights in KEYS:
        return not os.path.isfile(weights)
    return bool(re.fullmatch(r"[\w-]+", weights)) and not os.path.exists(weights)


def find(model_name: str, name: str) -> Pretrained:
    """The published weights of a network.

    Args:
        model_name: the official name, "efficientnet-b0", or timm's, "tf_efficientnet_b0".
        name: "imagenet", "noisy-student" and the like (`NAMES`), a tag, "ns_jft_in1k", or both of timm's,
            "tf_efficientnet_b0.ns_jft_in1k".

    Raises:
        ValueError: unknown network, or it has no such weights; the message names those it has.
    """
    variant = official_name(model_name)
    row = KEYS.get(name) or _first(variant, name)
    if row is None or row.variant != variant:
        rows = [row for row in PRETRAINED if row.variant == variant]
        listed = "; ".join(", ".join(map(repr, (*row.names, row.tag))) for row in rows)
        raise ValueError(f"There are no weights {name!r} of {variant}. Choose one of: {listed}; or the path of a file.")
    return row


def _first(variant: str, name: str) -> Pretrained | None:
    own = {row.tag: row for row in PRETRAINED if row.variant == variant}
    return next((own[tag] for tag in NAMES.get(name, (name,)) if tag in own), None)


def fetch(row: Pretrained) -> pathlib.Path:
    """The file of published weights: from the cache if it is there, else from where it is published.

    timm's come from Hugging Face, into the cache of `huggingface_hub` (HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT count);
    others from their address, into `models/` in Keras's folder (KERAS_HOME, else ~/.keras), where a download that broke
    off goes on. What comes is compared with its published SHA-256.

    Raises:
        ConnectionError: it is not in the cache and could not be fetched; the message says what was tried.
        ValueError: what came is not the published file; it is gone again.
        ModuleNotFoundError: huggingface_hub is not installed.
    """
    try:
        if row.repository:
            return _fetch_from_hub(row.repository)
        return download(f"{row.url}", pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models")
    except (ConnectionError, ModuleNotFoundError, ValueError) as error:
        bring = f"bring {row.url or 'the file'} here yourself and give its path"
        pixels = (  # a path does not tell that the file wants other pixels than its network's row
            f", include_preprocessing=False, and preprocess_input(images, {row.variant!r}, weights={row.tag!r})"
            if row.mean != VARIANTS[row.variant].mean
            else ""
        )
        raise type(error)(
            f'The weights {row.key} are not in the cache. {error} Or {bring}: weights="path/to/file"{pixels}.'
        ) from None


def _fetch_from_hub(repository: str) -> pathlib.Path:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Hugging Face has them: pip install 'keras_efficientnet[weights]'.") from None
    cached = huggingface_hub.try_to_load_from_cache(repository, HUB_FILE)
    if isinstance(cached, str):
        return pathlib.Path(cached)
    address = f"{huggingface_hub.constants.ENDPOINT}/{repository}/{HUB_FILE}"
    try:
        # first, as hf_hub_download repeats this for half a minute, with a page of warnings, where there is no network
        published = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, HUB_FILE)).etag or ""
        path = pathlib.Path(huggingface_hub.hf_hub_download(repository, HUB_FILE))
    except Exception as error:  # OSError, or what the HTTP library of its version and its other transport raise
        raise ConnectionError(f"Tried {address}: {describe(error)}.") from None
    if re.fullmatch(r"[0-9a-f]{64}", published) and sha256(path) != published:  # the tag of a large file is its SHA-256
        for broken in (path, path.resolve()):
            broken.unlink(missing_ok=True)
        raise ValueError(f"What came from {address} has another SHA-256 than it says, and is deleted. Try again.")
    return path
