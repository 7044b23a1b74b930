"""Image sets as tensors in memory: what the command line, the demo and the examples run on.

``load_dataset`` decodes once; ``ImageTensors.batches`` then slices tensors, which at these sizes
costs far less than a worker process that collates single samples.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from analogize.demo.image_folder import read_folder, spread
from analogize.errors import EvaluationError

NAMES = ("digits", "mnist", "cifar10", "imagefolder")


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How pixels become inputs: ``(pixel / full_scale - mean) / std``, channel by channel.

    Attributes:
        mean: One mean a channel, as a share of the full scale.
        std: One standard deviation a channel, as a share of the full scale.
        full_scale: The largest pixel value.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    full_scale: float = 255.0

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise images (N, C, H, W) of any type to float32."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return (images.float() / self.full_scale - mean) / std


# Mean and deviation of this module's own training split, full scale 16 (scikit-learn's digits).
DIGITS = Normalization((0.3051,), (0.3762,), 16.0)
# Mean and deviation of MNIST's 60,000 training images, as in PyTorch's own MNIST example.
MNIST = Normalization((0.1307,), (0.3081,))
# Channel means and deviations of CIFAR-10's 50,000 original training images.
CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
# ImageNet's, which torchvision's pretrained models expect (torchvision.models documentation).
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ImageTensors(Dataset[tuple[Tensor, Tensor]]):
    """A labelled image set held as one uint8 tensor; samples come out normalised.

    Args:
        images: Pixels, uint8 (N, C, H, W).
        targets: Class indices, int64 (N,).
        classes: Class names, in the order of their indices.
        normalization: How pixels become inputs.
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        classes: tuple[str, ...],
        normalization: Normalization,
    ) -> None:
        self.images = images
        self.targets = targets
        self.classes = classes
        self.normalization = normalization

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One normalised image (C, H, W), float32, and its class index, int64 ()."""
        return self.normalization(self.images[index]), self.targets[index]

    def take(self, limit: int | None) -> ImageTensors:
        """At most ``limit`` images spread evenly over the set, so that sorted sets keep classes.

        Args:
            limit: Number of images to keep, at least 1; None keeps all.

        Returns:
            The subset, or this very set where it is small enough.

        Raises:
            EvaluationError: ``limit`` is below 1.
        """
        if limit is None or limit >= len(self):
            return self
        kept = torch.from_numpy(spread(len(self), limit))
        return ImageTensors(self.images[kept], self.targets[kept], self.classes, self.normalization)

    def to(self, device: torch.device | str) -> ImageTensors:
        """The same set with its pixels and targets on ``device``, where its batches are made."""
        images, targets = self.images.to(device), self.targets.to(device)
        return ImageTensors(images, targets, self.classes, self.normalization)

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        augment: bool = False,
        drop_last: bool = False,
    ) -> TensorBatches:
        """Batches of (inputs, targets), as often as they are asked for.

        Args:
            batch_size: Images a batch.
            generator: Shuffles anew each time round; None keeps the order.
            augment: Whether to crop and flip at random (``crop_and_flip``); needs a generator.
            drop_last: Whether to leave out a last batch that is not full.

        Returns:
            An iterable with a length, for ``calibrate``, ``evaluate`` and training loops.

        Raises:
            EvaluationError: ``batch_size`` is below 1, or ``augment`` has no generator.
        """
        return TensorBatches(self, batch_size, generator, augment, drop_last)


class TensorBatches:
    """Batches sliced from an ``ImageTensors``; made by ``ImageTensors.batches``."""

    def __init__(
        self,
        data: ImageTensors,
        batch_size: int,
        generator: torch.Generator | None,
        augment: bool,
        drop_last: bool,
    ) -> None:
        if batch_size < 1:
            raise EvaluationError(f"batch_size is {batch_size}; it must be at least 1")
        if augment and generator is None:
            raise EvaluationError("augment=True draws crops and flips: pass a torch.Generator")
        self.data = data
        self.batch_size = batch_size
        self.generator = generator
        self.augment = augment
        self.drop_last = drop_last

    def __len__(self) -> int:
        """Number of batches."""
        full, rest = divmod(len(self.data), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 inputs (N, C, H, W) and int64 targets (N,)."""
        order = torch.arange(len(self.data))
        if self.generator is not None:
            order = torch.randperm(len(self.data), generator=self.generator)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            inputs = self.data.normalization(self.data.images[chosen])
            if self.augment and self.generator is not None:
                inputs = crop_and_flip(inputs, self.generator)
            yield inputs, self.data.targets[chosen]


def crop_and_flip(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Shift each image by up to ``padding`` pixels and mirror every other one, at random.

    The border is zero, which on normalised images is the mean colour. Source: He et al., "Deep
    residual learning for image recognition" (2015), section 4.2. Shifts are drawn on the
    generator's device, so a CPU generator gives the same batch wherever the images lie.

    Args:
        images: Images (N, C, H, W) of any type, on any device.
        generator: Where shifts and flips come from.
        padding: Largest shift in pixels, at least 0.

    Returns:
        New images of the same shape, type and device.
    """
    count, _, height, width = images.shape
    source = generator.device
    down, right = torch.randint(
        0, 2 * padding + 1, (2, count, 1), generator=generator, device=source
    ).to(images.device)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator, device=source).bool()
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored.to(images.device), columns.flip(0), columns)  # (N, W)
    rows = torch.arange(height, device=images.device) + down  # (N, H)
    padded = F.pad(images, (padding, padding, padding, padding))
    sample = torch.arange(count, device=images.device)[:, None, None]
    picked = padded[sample, :, rows[:, :, None], (columns + right)[:, None, :]]  # (N, H, W, C)
    return picked.permute(0, 3, 1, 2).contiguous()


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None,
    train: bool,
    *,
    limit: int | None = None,
    image_size: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> ImageTensors:
    """Load one split of an image set into memory.

    Args:
        name: ``"digits"`` (scikit-learn's 8x8 digits, built in), ``"mnist"`` (torchvision's
            layout), ``"cifar10"`` (torchvision's layout, or an image folder) or ``"imagefolder"``
            (``train/<class>/*`` and ``test/<class>/*``, ``val`` in place of ``test`` if so named).
        root: The data folder; ignored for ``"digits"``.
        train: Whether to load the training split; the test split otherwise.
        limit: Keep at most so many images, spread evenly over the split.
        image_size: Image folders only: resize and crop to squares of so many pixels.
        cache: Image folders only: where to keep the decoded images; the data folder by default,
            where that can be written to.
        download: Whether torchvision may download ``"mnist"`` or ``"cifar10"`` into ``root``.

    Returns:
        The split, as uint8 pixels with their normalisation.

    Raises:
        EvaluationError: The name is unknown, or files are missing, damaged or of several sizes.
    """
    if name == "digits":
        return _digits(train).take(limit)
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1, 0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise EvaluationError(f"no data set {name!r}{hint}; there are: {', '.join(NAMES)}")
    if root is None:
        raise EvaluationError(f"data set {name!r} needs its folder: pass root (--data DIR)")
    folder = Path(root)
    if name == "mnist":
        return _mnist(folder, train, download).take(limit)
    is_folder = (folder / "train").is_dir() and not (folder / "cifar-10-batches-py").is_dir()
    if name == "cifar10" and not is_folder:
        return _cifar10(folder, train, download).take(limit)
    images, targets, classes = read_folder(
        folder, train, limit=limit, image_size=image_size, cache=cache
    )
    return ImageTensors(images, targets, classes, CIFAR10 if name == "cifar10" else IMAGENET)


def _digits(train: bool) -> ImageTensors:
    """Of each class in file order, every fifth image is the test split: 1,442 and 355 images."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    targets = torch.from_numpy(bunch.target).long()
    rank = torch.zeros_like(targets)
    for label in range(10):
        members = targets == label
        rank[members] = torch.arange(int(members.sum()))
    kept = (rank % 5 != 4) if train else (rank % 5 == 4)
    images = torch.from_numpy(bunch.images).to(torch.uint8)[kept].unsqueeze(1)
    return ImageTensors(images, targets[kept], tuple(map(str, range(10))), DIGITS)


def _mnist(root: Path, train: bool, download: bool) -> ImageTensors:
    from torchvision import datasets

    try:
        data = datasets.MNIST(root, train=train, download=download)
    except (RuntimeError, OSError, ValueError) as cause:
        raise EvaluationError(
            f"cannot read MNIST below {root}: {cause}. Put the four *-ubyte files (unpacked) into "
            f"{root / 'MNIST' / 'raw'}, or pass download=True (--download)"
        ) from cause
    classes = tuple(map(str, range(10)))
    return ImageTensors(data.data.unsqueeze(1), data.targets.long(), classes, MNIST)


def _cifar10(root: Path, train: bool, download: bool) -> ImageTensors:
    from torchvision import datasets

    try:
        data = datasets.CIFAR10(root, train=train, download=download)
    except (RuntimeError, OSError, ValueError) as cause:
        raise EvaluationError(
            f"cannot read CIFAR-10 below {root}: {cause}. Put torchvision's cifar-10-batches-py, "
            f"or image folders train/<class> and test/<class>, into {root}, or pass download=True "
            "(--download)"
        ) from cause
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageTensors(images, torch.tensor(data.targets), tuple(data.classes), CIFAR10)
