"""Weights in files: the same model within the block, and after it, however it ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from analogize import analogize, evaluate, noise_mode, program, weights_on_disk
from analogize.crossbar.ops import operators
from analogize.errors import ChipError

X = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    tied = nn.Linear(36, 36)
    layers = nn.Sequential(
        nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last), nn.Flatten(), nn.Linear(64, 36)
    )
    whole = nn.Sequential(layers, tied, nn.Tanh(), tied, weight_norm(nn.Linear(36, 10)))
    data = X.to(dtype)
    return analogize(whole.to(dtype).eval(), "pcm_8bit", [data], example_inputs=data)


def backed_by_files(parameter: Tensor) -> bool:
    """Whether the memory of ``parameter`` is that of a file."""
    place = parameter.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        ends, *_, inode = line.split()[:5]
        first, last = (int(end, 16) for end in ends.split("-"))
        if first <= place < last:
            return inode != "0"
    return False


linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux")


@linux
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_nothing_differs_but_where_the_weights_lie(dtype: torch.dtype, tmp_path: Path) -> None:
    analog, x = model(dtype), X.to(dtype)
    before = {name: value.clone() for name, value in analog.state_dict().items()}
    strides = [p.stride() for p in analog.parameters()]
    objects = list(map(id, analog.parameters()))
    with noise_mode(analog, "off"):
        clean = analog(x)
    program(analog, 3)
    chip = analog(x)
    with weights_on_disk(analog, tmp_path):
        assert analog(x).equal(chip), "the chip is of these weights still"
        program(analog, 4)
        assert not analog(x).equal(chip)
        program(analog, 3)
        assert analog(x).equal(chip)
        with noise_mode(analog, "off"):
            assert analog(x).equal(clean)
        for op in operators(analog):
            assert all(map(backed_by_files, op.stored.sources() or [op.stored.value()]))
        twin = copy.deepcopy(analog)
        assert not any(map(backed_by_files, twin.parameters()))
        assert all(v.equal(before[name]) for name, v in analog.state_dict().items())
    assert analog(x).equal(chip)
    assert twin(x).equal(chip)
    assert not any(map(backed_by_files, analog.parameters()))
    assert [p.stride() for p in analog.parameters()] == strides
    assert list(map(id, analog.parameters())) == objects
    assert all(v.equal(before[name]) for name, v in analog.state_dict().items())
    assert not list(tmp_path.iterdir())


@linux
def test_an_exception_brings_them_back() -> None:
    analog = model()
    before = [p.detach().clone() for p in analog.parameters()]
    with pytest.raises(KeyError), weights_on_disk(analog), weights_on_disk(analog):
        raise KeyError
    assert all(p.equal(b) for p, b in zip(analog.parameters(), before, strict=True))
    assert not any(map(backed_by_files, analog.parameters()))


def test_what_is_written_within_stays_and_outdates_the_chip() -> None:
    analog = model()
    program(analog, 0)
    weight = analog.get_parameter("1.weight")
    with weights_on_disk(analog):
        weight.data.mul_(0.5)
        with pytest.raises(ChipError, match="weights changed"):
            analog(X)
        half = weight.detach().clone()
    assert weight.equal(half)
    with weights_on_disk(analog):
        analog.double()
    assert weight.equal(half.double())


def test_weights_that_share_memory_still_do_afterwards() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = nn.Parameter(one.weight.data)
    analog = analogize(nn.Sequential(one, two), "pcm_8bit", [torch.randn(8, 4)])
    first, second = analog.get_parameter("0.weight"), analog.get_parameter("1.weight")
    shared = first.data_ptr() == second.data_ptr()
    with weights_on_disk(analog):
        assert (first.data_ptr() == second.data_ptr()) == shared
    assert (first.data_ptr() == second.data_ptr()) == shared


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: (nn.Linear(2, 2), folder), "no analog operator"),
        (lambda folder: (model(), folder / "none"), r"cannot be written.*none.*give a folder"),
    ],
)
def test_what_cannot_be_is_refused(
    prepare: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    analog, folder = prepare(tmp_path)
    with pytest.raises(ChipError, match=message), weights_on_disk(analog, folder):
        pass


@linux
def test_a_file_without_room_changes_nothing(tmp_path: Path) -> None:
    """The first weights fit into their files, the largest do not."""
    resource = pytest.importorskip("resource")
    analog = model()
    before = [p.detach().clone() for p in analog.parameters()]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with (
            pytest.raises(ChipError, match=r"cannot be written.*File too large.*give a folder"),
            weights_on_disk(analog, tmp_path),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert all(p.equal(b) for p, b in zip(analog.parameters(), before, strict=True))
    assert not any(map(backed_by_files, analog.parameters()))
    assert not list(tmp_path.iterdir())


@linux
def test_an_evaluation_is_the_same_from_files() -> None:
    analog = model()
    program(analog, 9)
    data = [(X, torch.arange(3))]
    seen = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.analog = analog

        def forward(self, x: Tensor) -> Tensor:
            seen.append(backed_by_files(analog.get_parameter("1.weight")))
            return self.analog(x)  # type: ignore[no-any-return]

    run = {"instances": 3, "progress": False}
    watched = Watched()
    as_is = evaluate(watched, data, **run)
    from_files = evaluate(watched, data, **run, weights_on_disk=True)
    assert [x.values for x in as_is.levels] == [x.values for x in from_files.levels]
    assert seen == [False] * 3 + [True] * 3
    assert not backed_by_files(analog.get_parameter("1.weight"))
    analog(X)
