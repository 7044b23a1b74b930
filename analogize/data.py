"""The data sets of the command line, the demonstration and the recipes."""

from analogize.demo.data import (
    DIGITS,
    IMAGENET,
    MNIST,
    NAMES,
    ImageTensors,
    Normalization,
    TensorBatches,
    crop_and_flip,
    load_dataset,
)

__all__ = [
    "DIGITS",
    "IMAGENET",
    "MNIST",
    "NAMES",
    "ImageTensors",
    "Normalization",
    "TensorBatches",
    "crop_and_flip",
    "load_dataset",
]
