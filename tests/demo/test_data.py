"""Image sets: splits, layouts, normalisation, the decoded cache, augmentation, bad input."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from analogize.demo.data import (
    CIFAR10,
    DIGITS,
    ImageTensors,
    Normalization,
    crop_and_flip,
    load_dataset,
)
from analogize.errors import EvaluationError


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_folder(root: Path, size: tuple[int, int] = (8, 6), count: int = 3) -> None:
    """Two classes of lossless images whose every pixel tells split, class and number."""
    for s, split in enumerate(("train", "test")):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                colour = (10 * s, 20 * label, 30 * k)
                Image.new("RGB", size, colour).save(folder / f"{k}.png")


def test_digits_split_is_fixed_disjoint_and_stratified() -> None:
    train, test = load_dataset("digits", None, True), load_dataset("digits", None, False)
    assert (len(train), len(test)) == (1442, 355)
    share = test.targets.bincount() / (test.targets.bincount() + train.targets.bincount())
    # Every fifth of 174 to 183 images: 34 to 36 of them.
    assert share.min() > 0.19
    assert share.max() <= 0.2
    assert train.images.shape[1:] == (1, 8, 8)
    pixels = train.images.double() / 16
    assert pixels.mean().item() == pytest.approx(DIGITS.mean[0], abs=5e-5)
    assert pixels.std(correction=0).item() == pytest.approx(DIGITS.std[0], abs=5e-5)


def test_mnist_reads_torchvisions_layout(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    written = {}
    for prefix, count in (("train", 7), ("t10k", 5)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
        written[prefix] = images, labels
    test = load_dataset("mnist", tmp_path, train=False)
    assert np.array_equal(test.images.squeeze(1).numpy(), written["t10k"][0])
    assert np.array_equal(test.targets.numpy(), written["t10k"][1])
    assert len(load_dataset("mnist", tmp_path, train=True)) == 7


def test_cifar10_reads_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072)).astype(np.uint8)
    batch = pickle.dumps({"data": pixels, "labels": [3, 1, 4, 1]})
    meta = pickle.dumps({"label_names": [f"class{k}" for k in range(10)]})
    (folder / "test_batch").write_bytes(batch)
    (folder / "batches.meta").write_bytes(meta)
    # torchvision checks the files against the original's digests: register these files' own.
    md5 = [hashlib.md5(b, usedforsecurity=False).hexdigest() for b in (batch, meta)]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5[0]]])
    original = {"filename": "batches.meta", "key": "label_names", "md5": md5[1]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", original)

    data = load_dataset("cifar10", tmp_path, train=False)
    assert torch.equal(data.images, torch.from_numpy(pixels.reshape(4, 3, 32, 32)))
    assert data.targets.tolist() == [3, 1, 4, 1]
    assert data.normalization == CIFAR10


@pytest.mark.parametrize("name", ["cifar10", "imagefolder"])
def test_image_folder_is_decoded_in_order(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    data = load_dataset(name, tmp_path, train=True)
    assert data.classes == ("cat", "dog")
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.images.shape == (6, 3, 6, 8)
    colours = data.images[:, :, 0, 0].tolist()
    assert colours == [[0, 20 * label, 30 * k] for label in (0, 1) for k in range(3)]


def test_a_folder_named_val_serves_as_the_test_split(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "test").rename(tmp_path / "val")
    assert load_dataset("imagefolder", tmp_path, train=False).images[0, 0, 0, 0] == 10


def test_decoded_images_are_kept_and_a_changed_folder_is_read_anew(tmp_path: Path) -> None:
    write_folder(tmp_path / "data")
    kept = tmp_path / "kept"
    first = load_dataset("imagefolder", tmp_path / "data", True, cache=kept)
    (cache,) = kept.iterdir()
    assert not list((tmp_path / "data").glob("*.pt"))
    # A marked cache shows that the second load did not decode.
    torch.save(torch.full_like(first.images, 7), cache)
    assert load_dataset("imagefolder", tmp_path / "data", True, cache=kept).images.unique() == 7
    image = tmp_path / "data" / "train" / "cat" / "0.png"
    os.utime(image, ns=(1, 1))
    again = load_dataset("imagefolder", tmp_path / "data", True, cache=kept)
    assert torch.equal(again.images, first.images)


def test_a_damaged_cache_is_decoded_again(tmp_path: Path) -> None:
    write_folder(tmp_path)
    first = load_dataset("imagefolder", tmp_path, True)
    (cache,) = tmp_path.glob("*.pt")
    cache.write_bytes(cache.read_bytes()[:100])
    assert torch.equal(load_dataset("imagefolder", tmp_path, True).images, first.images)
    assert torch.equal(torch.load(cache, weights_only=True), first.images)


def test_image_size_resizes_and_crops(tmp_path: Path) -> None:
    write_folder(tmp_path, size=(40, 20))
    data = load_dataset("imagefolder", tmp_path, True, image_size=14)
    assert data.images.shape == (6, 3, 14, 14)
    assert data.images[5, :, 7, 7].tolist() == [0, 20, 60]


def test_limit_is_spread_over_the_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, count=5)
    assert load_dataset("imagefolder", tmp_path, True, limit=4).targets.tolist() == [0, 0, 1, 1]
    assert len(load_dataset("digits", None, True, limit=17)) == 17
    assert len(load_dataset("digits", None, True, limit=10**6)) == 1442


def small_set(count: int = 10) -> ImageTensors:
    images = torch.arange(count * 12, dtype=torch.uint8).view(count, 3, 2, 2)
    normalization = Normalization((0.1, 0.2, 0.3), (1.0, 2.0, 4.0), 100.0)
    return ImageTensors(images, torch.arange(count), tuple("abc"), normalization)


def test_batches_equal_a_data_loaders_and_come_round_again() -> None:
    data = small_set()
    batches = data.batches(4)
    assert len(batches) == 3
    for _ in range(2):
        loaded = list(DataLoader(data, 4))
        assert len(loaded) == 3
        for (inputs, targets), (expected, labels) in zip(batches, loaded, strict=True):
            torch.testing.assert_close(inputs, expected, rtol=0, atol=0)
            assert torch.equal(targets, labels)


def test_normalisation_is_by_channel() -> None:
    inputs, _ = small_set()[0]
    expected = torch.arange(12.0).view(3, 2, 2) / 100 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    torch.testing.assert_close(inputs, expected / torch.tensor([1.0, 2.0, 4.0])[:, None, None])


def test_shuffled_batches_are_permutations_that_the_generator_repeats() -> None:
    data = small_set()

    def epochs() -> list[list[int]]:
        batches = data.batches(4, generator=torch.Generator().manual_seed(3))
        return [torch.cat([t for _, t in batches]).tolist() for _ in range(2)]

    first, second = epochs()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert epochs() == [first, second]


@pytest.mark.parametrize("augment", [False, True])
def test_batches_are_made_on_the_sets_device(augment: bool) -> None:
    """On meta, every operand that lay elsewhere would raise."""
    shuffled = torch.Generator() if augment else None
    batches = small_set().to("meta").batches(4, generator=shuffled, augment=augment)
    found = [(x.device.type, tuple(x.shape), t.device.type) for x, t in batches]
    assert found == [("meta", (n, 3, 2, 2), "meta") for n in (4, 4, 2)]


def test_drop_last_leaves_out_the_rest() -> None:
    batches = small_set().batches(4, drop_last=True)
    assert [len(t) for _, t in batches] == [4, 4]
    assert len(batches) == 2


@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    padding=st.integers(0, 4),
)
def test_every_crop_is_a_window_of_the_padded_image_or_of_its_mirror(
    seed: int, shape: tuple[int, int, int, int], padding: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(shape, generator=generator)
    cropped = crop_and_flip(images, generator, padding)
    _, _, height, width = shape
    pads = (padding, padding, padding, padding)
    for image, crop in zip(torch.nn.functional.pad(images, pads), cropped, strict=True):
        windows = [
            image[:, y : y + height, x : x + width]
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
        ]
        assert any(torch.equal(crop, w) or torch.equal(crop, w.flip(2)) for w in windows)


def test_shifts_and_flips_are_uniform() -> None:
    count, padding = 4500, 2
    images = torch.zeros(count, 1, 6, 6)
    images[:, :, 3, 2] = 1.0  # the mark stays visible under every shift, and its mirror differs
    cropped = crop_and_flip(images, torch.Generator().manual_seed(0), padding)
    where = cropped.flatten(1).argmax(1)
    rows, columns = where // 6, where % 6

    # A bin of probability p holds count * p +- 5 standard deviations of the binomial.
    def close(counts: torch.Tensor, p: float) -> bool:
        return bool(((counts - count * p).abs() < 5 * (count * p * (1 - p)) ** 0.5).all())

    assert close(rows.bincount(minlength=6)[1:], 1 / 5)
    # Column 2 shifts to 0..4, its mirror 3 to 1..5: both ends are reached from one side only.
    by_column = columns.bincount(minlength=6)
    assert close(by_column[[0, 5]], 1 / 10)
    assert close(by_column[1:5], 1 / 5)


def test_augmented_batches_repeat_with_the_generator() -> None:
    data = load_dataset("digits", None, False)

    def run(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([x for x, _ in data.batches(100, generator=generator, augment=True)])

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


class TestBadInput:
    def test_unknown_name_gets_the_nearest(self) -> None:
        with pytest.raises(
            EvaluationError, match=r"no data set 'minst' \(did you mean 'mnist'\?\)"
        ):
            load_dataset("minst", ".", True)

    def test_missing_root(self) -> None:
        with pytest.raises(EvaluationError, match="--data DIR"):
            load_dataset("mnist", None, True)

    @pytest.mark.parametrize(
        ("name", "place"), [("mnist", "MNIST/raw"), ("cifar10", "cifar-10-batches-py")]
    )
    def test_missing_files_say_where_they_must_be(
        self, name: str, place: str, tmp_path: Path
    ) -> None:
        with pytest.raises(EvaluationError, match=f"{place}.*download"):
            load_dataset(name, tmp_path, True)

    def test_missing_split(self, tmp_path: Path) -> None:
        with pytest.raises(EvaluationError, match="no folder test or val"):
            load_dataset("imagefolder", tmp_path, False)

    def test_empty_split(self, tmp_path: Path) -> None:
        (tmp_path / "train" / "cat").mkdir(parents=True)
        with pytest.raises(EvaluationError, match="no images to read below"):
            load_dataset("imagefolder", tmp_path, True)

    def test_sizes_that_differ(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        Image.new("RGB", (5, 5)).save(tmp_path / "train" / "dog" / "1.png")
        with pytest.raises(EvaluationError, match=r"dog/1\.png is 5x5 pixels.*is 8x6.*image_size"):
            load_dataset("imagefolder", tmp_path, True)

    def test_damaged_image(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        (tmp_path / "train" / "dog" / "1.png").write_bytes(b"no image")
        with pytest.raises(EvaluationError, match=r"cannot read the image .*dog/1\.png"):
            load_dataset("imagefolder", tmp_path, True)

    def test_a_cache_folder_that_cannot_be(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "data")
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(EvaluationError, match="cannot keep decoded images in"):
            load_dataset("imagefolder", tmp_path / "data", True, cache=tmp_path / "file")

    @pytest.mark.parametrize("limit", [0, -1])
    def test_limit_below_one(self, limit: int) -> None:
        with pytest.raises(EvaluationError, match=f"limit is {limit}"):
            load_dataset("digits", None, True, limit=limit)

    def test_batch_size_below_one(self) -> None:
        with pytest.raises(EvaluationError, match="batch_size is 0"):
            small_set().batches(0)

    def test_augment_without_a_generator(self) -> None:
        with pytest.raises(EvaluationError, match=r"torch\.Generator"):
            small_set().batches(2, augment=True)
