"""The one definition of the package; pyproject.toml holds the build backend and the tables of the tools."""

import re
from pathlib import Path

from setuptools import find_packages, setup

SOURCE = "https://github.com/keras-efficientnet/keras_efficientnet"
BLOB = f"{SOURCE}/blob/main"
HERE = Path(__file__).parent

EXTRAS = {
    "docs": ["furo", "myst-parser", "sphinx"],
    "export": [
        "ai-edge-quantizer",
        "onnx",
        "onnxruntime",
        "openvino",
        "tf2onnx>=1.17",  # the first that runs with NumPy 2
    ],
    "tfds": [
        "etils<1.14; python_version < '3.11'",  # of tensorflow-datasets; pip of Python 3.10 does not find it
        "importlib_resources",
        "tensorflow-datasets",
    ],
    "weights": ["huggingface_hub"],
}
DEVELOPMENT = [
    "build",
    "jax",
    "mediapipe",
    "mypy",
    "pillow",
    "playwright",
    "pytest",
    "pytest-xdist",
    "ruff",
    "scikit-learn",
    "setuptools<82",  # the last with pkg_resources, which tensorflow-hub imports
    "tensorflow-hub",
    "tf-keras",
]
EXTRAS["dev"] = [*DEVELOPMENT, *(package for extra in EXTRAS.values() for package in extra)]


def read_version() -> str:
    """Returns `__version__` without importing the package, whose dependencies may be missing."""
    text = (HERE / "keras_efficientnet/__init__.py").read_text("utf-8")
    return re.search(r'__version__ = "(.+)"', text).group(1)  # type: ignore[union-attr]


def read_description() -> str:
    """Returns README.md with links and images that also work outside the repository."""
    text = (HERE / "README.md").read_text("utf-8")
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1{SOURCE}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!https?:|#)", rf"\1{BLOB}/", text)


setup(
    name="keras_efficientnet",
    version=read_version(),
    description="EfficientNet for Keras 3: models, training, export",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    author="The keras_efficientnet authors",
    url=SOURCE,
    project_urls={
        "Documentation": f"{BLOB}/docs/index.md",
        "Source": SOURCE,
        "Changelog": f"{BLOB}/CHANGELOG.md",
    },
    keywords="efficientnet keras tensorflow image-classification condconv tflite onnx openvino tpu",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["keras_efficientnet*"]),
    package_data={"keras_efficientnet": ["data/*", "data/sample/*", "data/web/*", "py.typed"]},
    install_requires=[
        "absl-py",
        "ai-edge-litert",
        "flatbuffers",
        "h5py",
        "keras>=3.12",
        "matplotlib",
        "ml-dtypes",
        "numpy",
        "safetensors",
        "tensorboard",
        "tensorflow>=2.20",
        "tqdm",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
