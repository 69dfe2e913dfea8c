"""Lists the published weights of each network: their files, accuracies and pixel statistics; and fetches them.

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
HUB_FILE = "model.safetensors"  # name of the file in each of timm's repositories on Hugging Face

# Common name -> tags; a network gets the first tag that it has. "imagenet": trained on ImageNet alone, without AdvProp:
# the weights behind the accuracies in `architectures.VARIANTS`; for B0 to B7 those of keras.applications; none for L2.
NAMES = {
    "imagenet": ("aa_in1k", "ra_in1k", "ra2_in1k", "ft_in1k", "in1k", "IMAGENET1K_V1"),
    "autoaugment": ("aa_in1k",),
    "randaugment": ("ra_in1k", "ra2_in1k"),
    "advprop": ("ap_in1k",),
    "noisy-student": ("ns_jft_in1k",),
}
# timm's central crop by resolution, where it is not the whole image; a share of the shorter side
CROP_FRACTIONS = {224: 0.875, 240: 0.882, 260: 0.890, 300: 0.904, 380: 0.922, 456: 0.934, 475: 0.936, 528: 0.942}
CROP_FRACTIONS |= {600: 0.949, 672: 0.954, 800: 0.960}


class Pretrained(NamedTuple):
    """A file of published weights, and how its accuracies were measured."""

    variant: str  # our name of the network
    tag: str  # timm's name of the training; torchvision's own for its files
    statistics: str  # row of STATISTICS for its pixels
    resolution: int  # of the accuracies, in pixels; may differ from the variant's
    crop_fraction: float  # of the accuracies: share of an image's shorter side in the central crop
    top_1: float  # on ImageNet, in percent
    top_5: float
    file: str | None  # in PyTorch's format; its name ends in the start of its SHA-256. None: only on Hugging Face
    folder: str = TIMM  # address of `file`; files of timm's releases are also on Hugging Face
    interpolation: str = "bicubic"  # that resizes images

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the common names for `weights`; `tag` and `key` work too."""
        return tuple(name for name in NAMES if _first(self.variant, name) == self)

    @property
    def key(self) -> str:
        """Returns timm's full name, "tf_efficientnet_b0.aa_in1k"; with our name of a network that timm lacks."""
        return f"{VARIANTS[self.variant].timm or self.variant}.{self.tag}"

    @property
    def repository(self) -> str | None:
        """Returns the repository on Hugging Face, or None if there is none."""
        return f"timm/{self.key}" if self.folder.startswith(RELEASES) else None

    @property
    def url(self) -> str | None:
        """Returns the address of `file`, or None if there is no such file."""
        return self.file and self.folder + self.file

    @property
    def mean(self) -> tuple[float, ...]:
        """Returns the mean of red, green and blue, in pixel values from 0 to 255."""
        return STATISTICS[self.statistics]["mean"]

    @property
    def deviation(self) -> tuple[float, ...]:
        """Returns the standard deviation of red, green and blue, in pixel values from 0 to 255."""
        return STATISTICS[self.statistics]["deviation"]

    def normalised(self, variant: Variant) -> Variant:
        """Returns the row of a network with the pixel statistics of these weights."""
        return variant._replace(mean=self.mean, deviation=self.deviation)

    @property
    def licence(self) -> str | None:
        """Returns the licence of the official TPU code for its weights, or None if timm and torchvision state none."""
        return "Apache-2.0" if self.key.startswith("tf_") else None


def _row(
    variant: str,
    tag: str,
    statistics: str,
    file: str | None,
    accuracy: tuple[float, float] | None = None,
    *,
    resolution: int | None = None,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
    folder: str = TIMM,
) -> Pretrained:
    """Makes a row. By default the accuracies and the resolution are those of the network's row in VARIANTS."""
    network = VARIANTS[variant]
    resolution = resolution or network.resolution
    top_1, top_5 = accuracy or (network.top_1, network.top_5)
    return Pretrained(
        variant=variant,
        tag=tag,
        statistics=statistics,
        resolution=resolution,
        crop_fraction=crop_fraction or CROP_FRACTIONS.get(resolution, 1.0),
        top_1=top_1,
        top_5=top_5,
        file=file,
        folder=folder,
        interpolation=interpolation,
    )


# Files, accuracies and crops: timm/models/efficientnet.py and results/results-imagenet.csv, at the test size where it
# differs from the training size; torchvision: torchvision/models/efficientnet.py. torchvision's IMAGENET1K_V1 weights
# of B0 to B4 are timm's ra, ft, ra, ra2 and ra2: their hashes are equal. Not listed: timm's files for networks that are
# not in VARIANTS, such as its efficientnet_b5 (another epsilon than torchvision's), or for other classes.
# fmt: off
PRETRAINED = (
    # variant, tag, statistics, file, (top_1, top_5) if VARIANTS has another measurement
    _row("efficientnet-b0", "ns_jft_in1k", IMAGENET, "tf_efficientnet_b0_ns-c0e6a31c.pth", (78.680, 94.372)),
    _row("efficientnet-b0", "ap_in1k", HALF, "tf_efficientnet_b0_ap-f262efe1.pth", (77.100, 93.258)),
    _row("efficientnet-b0", "aa_in1k", IMAGENET, "tf_efficientnet_b0_aa-827b6e33.pth"),
    _row("efficientnet-b0", "in1k", IMAGENET, "tf_efficientnet_b0-0af12548.pth", (76.542, 93.008)),
    _row("efficientnet-b1", "ns_jft_in1k", IMAGENET, "tf_efficientnet_b1_ns-99dd0c41.pth", (81.388, 95.756)),
    _row("efficientnet-b1", "ap_in1k", HALF, "tf_efficientnet_b1_ap-44ef0a3d.pth", (79.288, 94.316)),
    _row("efficientnet-b1", "aa_in1k", IMAGENET, "tf_efficientnet_b1_aa-ea7a6ee0.pth"),
    _row("efficientnet-b1", "in1k", IMAGENET, "tf_efficientnet_b1-5c1377c4.pth", (78.546, 94.096)),
    _row("efficientnet-b2", "ns_jft_in1k", IMAGENET, "tf_efficientnet_b2_ns-00306e48.pth", (82.412, 96.238)),
    _row("efficientnet-b2", "ap_in1k", HALF, "tf_efficientnet_b2_ap-2f8e7636.pth", (80.300, 95.032)),
    _row("efficientnet-b2", "aa_in1k", IMAGENET, "tf_efficientnet_b2_aa-60c94f97.pth"),
    _row("efficientnet-b2", "in1k", IMAGENET, "tf_efficientnet_b2-e393ef04.pth", (79.612, 94.714)),
    _row("efficientnet-b3", "ns_jft_in1k", IMAGENET, "tf_efficientnet_b3_ns-9d44bf68.pth", (84.054, 96.926)),
    _row("efficientnet-b3", "ap_in1k", HALF, "tf_efficientnet_b3_ap-aad25bdd.pth", (81.842, 95.614)),
    _row("efficientnet-b3", "aa_in1k", IMAGENET, "tf_efficientnet_b3_aa-84b4657e.pth"),
    _row("efficientnet-b3", "in1k", IMAGENET, "tf_efficientnet_b3-e3bd6955.pth", (80.878, 95.308)),
    _row("efficientnet-b4", "ns_jft_in1k", IMAGENET, "tf_efficientnet_b4_ns-d6313a46.pth", (85.156, 97.482)),
    _row("efficientnet-b4", "ap_in1k", HALF, "tf_efficientnet_b4_ap-dedb23e6.pth", (83.246, 96.392)),
    _row("efficientnet-b4", "aa_in1k", IMAGENET, "tf_efficientnet_b4_aa-818f208c.pth"),
    _row("efficientnet-b4", "in1k", IMAGENET, "tf_efficientnet_b4-74ee3bed.pth", (82.598, 96.132)),
    _row("efficientnet-b5", "ns_jft_in1k", IMAGENET, "tf_efficientnet_b5_ns-6f26d0cf.pth", (86.096, 97.744)),
    _row("efficientnet-b5", "ap_in1k", HALF, "tf_efficientnet_b5_ap-9e82fae8.pth", (84.258, 96.984)),
    _row("efficientnet-b5", "ra_in1k", IMAGENET, "tf_efficientnet_b5_ra-9a3e5369.pth", (83.834, 96.764)),
    _row("efficientnet-b5", "aa_in1k", IMAGENET, "tf_efficientnet_b5_aa-99018a74.pth"),
    _row("efficientnet-b5", "in1k", IMAGENET, "tf_efficientnet_b5-c6949ce9.pth", (83.170, 96.534)),
    _row("efficientnet-b6", "ns_jft_in1k", IMAGENET, "tf_efficientnet_b6_ns-51548356.pth", (86.476, 97.864)),
    _row("efficientnet-b6", "ap_in1k", HALF, "tf_efficientnet_b6_ap-4ffb161f.pth", (84.794, 97.138)),
    _row("efficientnet-b6", "aa_in1k", IMAGENET, "tf_efficientnet_b6_aa-80ba17e4.pth"),
    _row("efficientnet-b7", "ns_jft_in1k", IMAGENET, "tf_efficientnet_b7_ns-1dbc32de.pth", (86.850, 98.080)),
    _row("efficientnet-b7", "ap_in1k", HALF, "tf_efficientnet_b7_ap-ddb28fec.pth", (85.132, 97.256)),
    _row("efficientnet-b7", "ra_in1k", IMAGENET, "tf_efficientnet_b7_ra-6c08e654.pth", (84.926, 97.220)),
    _row("efficientnet-b7", "aa_in1k", IMAGENET, "tf_efficientnet_b7_aa-076e3472.pth"),
    _row("efficientnet-b8", "ap_in1k", HALF, "tf_efficientnet_b8_ap-00e169fa.pth", (85.358, 97.298)),
    _row("efficientnet-b8", "ra_in1k", IMAGENET, "tf_efficientnet_b8_ra-572d5dd9.pth"),
    _row("efficientnet-l2", "ns_jft_in1k_475", IMAGENET, "tf_efficientnet_l2_ns_475-bebbd00a.pth",
        (88.246, 98.554), resolution=475),
    _row("efficientnet-l2", "ns_jft_in1k", IMAGENET, "tf_efficientnet_l2_ns-df73bb44.pth"),
    _row("efficientnet-condconv-b0-4e", "in1k", HALF, "tf_efficientnet_cc_b0_4e-4362b6b2.pth"),
    _row("efficientnet-condconv-b0-8e", "in1k", HALF, "tf_efficientnet_cc_b0_8e-66184a25.pth"),
    _row("efficientnet-condconv-b1-8e", "in1k", HALF, "tf_efficientnet_cc_b1_8e-f7c79ae1.pth"),
    _row("efficientnet-b1-pruned", "in1k", HALF, "effnetb1_pruned-bea43a3a.pth", folder=TRESNET),
    _row("efficientnet-b2-pruned", "in1k", HALF, "effnetb2_pruned-08c1b27c.pth", folder=TRESNET),
    _row("efficientnet-b3-pruned", "in1k", HALF, "effnetb3_pruned-59ecf72d.pth", folder=TRESNET),
    _row("efficientnet-lite0", "in1k", HALF, "tf_efficientnet_lite0-0aa007d2.pth"),
    _row("efficientnet-lite1", "in1k", HALF, "tf_efficientnet_lite1-bde8b488.pth"),
    _row("efficientnet-lite2", "in1k", HALF, "tf_efficientnet_lite2-dcccb7df.pth"),
    _row("efficientnet-lite3", "in1k", HALF, "tf_efficientnet_lite3-b733e338.pth",
        resolution=300, interpolation="bilinear"),
    _row("efficientnet-lite4", "in1k", HALF, "tf_efficientnet_lite4-741542c3.pth",
        resolution=380, crop_fraction=0.920, interpolation="bilinear"),
    _row("efficientnet-edgetpu-S", "in1k", HALF, "tf_efficientnet_es-ca1afbfe.pth"),
    _row("efficientnet-edgetpu-M", "in1k", HALF, "tf_efficientnet_em-e78cfe58.pth"),
    _row("efficientnet-edgetpu-L", "in1k", HALF, "tf_efficientnet_el-5143854e.pth"),
    _row("efficientnet-b0-torch", "ra_in1k", IMAGENET, "efficientnet_b0_ra-3dd342df.pth", (77.698, 93.538)),
    _row("efficientnet-b0-torch", "ra4_e3600_r224_in1k", HALF, None, (79.364, 94.754), resolution=256),
    _row("efficientnet-b1-torch", "ra4_e3600_r240_in1k", HALF, None, (81.444, 95.698), resolution=288),
    _row("efficientnet-b1-torch", "ft_in1k", IMAGENET, "efficientnet_b1-533bc792.pth",
        (78.806, 94.346), resolution=256),
    _row("efficientnet-b1-torch", "IMAGENET1K_V2", IMAGENET, "efficientnet_b1-c27df63c.pth",
        (79.838, 94.934), crop_fraction=0.941, interpolation="bilinear", folder=TORCHVISION),
    _row("efficientnet-b2-torch", "ra_in1k", IMAGENET, "efficientnet_b2_ra-bcdf34b7.pth", (80.612, 95.320)),
    _row("efficientnet-b3-torch", "ra2_in1k", IMAGENET, "efficientnet_b3_ra2-cf984f9c.pth",
        (82.296, 96.124), resolution=320),
    _row("efficientnet-b4-torch", "ra2_in1k", IMAGENET, "efficientnet_b4_ra2_320-7eb33cd5.pth",
        (83.468, 96.574), resolution=384),
    _row("efficientnet-b5-torch", "IMAGENET1K_V1", IMAGENET, "efficientnet_b5_lukemelas-b6417697.pth",
        crop_fraction=1.000, folder=TORCHVISION),
    _row("efficientnet-b6-torch", "IMAGENET1K_V1", IMAGENET, "efficientnet_b6_lukemelas-c76e70fd.pth",
        crop_fraction=1.000, folder=TORCHVISION),
    _row("efficientnet-b7-torch", "IMAGENET1K_V1", IMAGENET, "efficientnet_b7_lukemelas-dcc49843.pth",
        crop_fraction=1.000, folder=TORCHVISION),
)
# fmt: on
TAGS = {row.tag for row in PRETRAINED}
KEYS = {row.key: row for row in PRETRAINED}


def pixel_statistics(source: Variant | Pretrained, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation, [channels] each. Grayscale uses the mean of RGB; extra channels cycle through RGB."""
    mean, deviation = np.array(source.mean), np.array(source.deviation)
    if channels == 1:
        return mean.mean(keepdims=True), deviation.mean(keepdims=True)
    return np.resize(mean, channels), np.resize(deviation, channels)


def list_pretrained(pattern: str = "*") -> list[Pretrained]:
    """Lists published weights whose network or key matches a shell pattern: "*-b?", "tf_*.ap_in1k".

    Returns:
        Rows with named columns, which `pandas.DataFrame` accepts. `row.names`, `row.tag` and `row.key` are the values
        that a builder's `weights` may have.

    Example:
        >>> from keras_efficientnet import list_pretrained
        >>> [(row.key, row.names) for row in list_pretrained("efficientnet-b8")]
        [('tf_efficientnet_b8.ap_in1k', ('advprop',)), ('tf_efficientnet_b8.ra_in1k', ('imagenet', 'randaugment'))]
    """
    return [row for row in PRETRAINED if any(fnmatch.fnmatchcase(name, pattern) for name in (row.variant, row.key))]


def model_name_in(weights: Any) -> str | None:
    """Returns the network that timm's full name of published weights names; None for any other `weights`."""
    return KEYS[weights].variant if weights in KEYS else None


def is_name(weights: Any) -> bool:
    """Returns whether `weights` is the name of published weights, and not a path.

    An existing file with that name wins over published weights; an existing folder only if no published weights have
    that name. Any other word without a folder or an ending counts as a name, so that `find` can list the valid ones.
    """
    if not isinstance(weights, str):
        return False
    if weights in NAMES or weights in TAGS or weights in KEYS:
        return not os.path.isfile(weights)
    return bool(re.fullmatch(r"[\w-]+", weights)) and not os.path.exists(weights)


def find(model_name: str, name: str) -> Pretrained:
    """Finds the published weights of a network.

    Args:
        model_name: official name, "efficientnet-b0", or timm's, "tf_efficientnet_b0".
        name: a common name of `NAMES`, "noisy-student"; a tag, "ns_jft_in1k"; or timm's full name,
            "tf_efficientnet_b0.ns_jft_in1k".

    Raises:
        ValueError: the network is unknown, or has no such weights; the message lists those it has.

    Example:
        >>> from keras_efficientnet.weights import pretrained
        >>> pretrained.find("efficientnet-b0", "advprop").key
        'tf_efficientnet_b0.ap_in1k'
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
    """Returns the file of published weights, downloaded if it is not in the cache, and checked against its SHA-256.

    timm's weights come from Hugging Face, into the cache of `huggingface_hub` (HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT
    apply). Others come from their address, into `models/` in Keras's folder (KERAS_HOME, else ~/.keras), where an
    interrupted download resumes.

    Raises:
        ConnectionError: the file is not in the cache, and the download failed; the message has the address.
        ValueError: the download is not the published file; it was deleted.
        ModuleNotFoundError: huggingface_hub is not installed.
    """
    try:
        if row.repository:
            return _fetch_from_hub(row.repository)
        return download(f"{row.url}", pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models")
    except (ConnectionError, ModuleNotFoundError, ValueError) as error:
        pixels = (  # a path does not say that the file needs other pixel statistics than its network's row
            f", include_preprocessing=False, and preprocess_input(images, {row.variant!r}, weights={row.tag!r})"
            if row.mean != VARIANTS[row.variant].mean
            else ""
        )
        raise type(error)(
            f"The weights {row.key} are not in the cache. {error} Or download {row.url or 'the file'} yourself and "
            f'pass its path: weights="path/to/file"{pixels}.'
        ) from None


def _fetch_from_hub(repository: str) -> pathlib.Path:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise ModuleNotFoundError("They are on Hugging Face: pip install 'keras_efficientnet[weights]'.") from None
    cached = huggingface_hub.try_to_load_from_cache(repository, HUB_FILE)
    if isinstance(cached, str):
        return pathlib.Path(cached)
    address = f"{huggingface_hub.constants.ENDPOINT}/{repository}/{HUB_FILE}"
    try:
        # comes first: without a network, hf_hub_download retries for half a minute and prints a page of warnings
        published = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, HUB_FILE)).etag or ""
        path = pathlib.Path(huggingface_hub.hf_hub_download(repository, HUB_FILE))
    except Exception as error:  # OSError, or errors of the HTTP library, which depends on the version
        raise ConnectionError(f"Tried {address}: {describe(error)}.") from None
    if re.fullmatch(r"[0-9a-f]{64}", published) and sha256(path) != published:  # a large file's ETag is its SHA-256
        for broken in (path, path.resolve()):
            broken.unlink(missing_ok=True)
        raise ValueError(f"The file from {address} has another SHA-256 than published, and was deleted. Try again.")
    return path
