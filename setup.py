"""The one definition of the package; pyproject.toml holds the build backend and the tables of the tools."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "keras_efficientnet/__init__.py").read_text("utf-8")).group(1)

setup(
    name="keras_efficientnet",
    version=version,
    description="EfficientNet for Keras 3: models, training, export",
    long_description=(here / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
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
    extras_require={
        "dev": [
            "ai-edge-quantizer",
            "build",
            "etils<1.14; python_version < '3.11'",  # of tensorflow-datasets; pip of Python 3.10 does not find it
            "huggingface_hub",
            "importlib_resources",
            "jax",
            "mediapipe",
            "mypy",
            "onnx",
            "onnxruntime",
            "openvino",
            "pillow",
            "playwright",
            "pytest",
            "pytest-xdist",
            "ruff",
            "scikit-learn",
            "setuptools<82",  # the last with pkg_resources, which tensorflow-hub imports
            "tensorflow-datasets",
            "tensorflow-hub",
            "tf-keras",
            "tf2onnx>=1.17",
        ],
        "export": [
            "ai-edge-quantizer",
            "onnx",
            "onnxruntime",
            "openvino",
            "tf2onnx>=1.17",  # the first that runs with NumPy 2
        ],
        "tfds": ["etils<1.14; python_version < '3.11'", "importlib_resources", "tensorflow-datasets"],
        "weights": ["huggingface_hub"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
