"""Chips drawn block by block: the bits of chips drawn as a whole, in the weights' own dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, noise_mode, program
from analogize.crossbar import blocks
from analogize.crossbar.array import WeightArray
from analogize.crossbar.ops import operators
from analogize.crossbar.seeds import region_seed
from analogize.devices.cells import Reading
from analogize.devices.compensation import factors, viewed
from analogize.devices.random import Draws
from analogize.errors import ChipError
from analogize.targets import Target, load_target

DAY = 86400.0
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(613, 523),
    "convolution in groups": lambda: nn.Conv2d(64, 256, 5, groups=2),
    "transposed convolution": lambda: nn.ConvTranspose2d(96, 150, 5, groups=2),
}


def one_array(layer: nn.Module, target: Target, dtype: torch.dtype) -> tuple[WeightArray, Tensor]:
    """The array of a layer's weight, and the weight."""
    (op,) = operators(analogize(layer.to(dtype).eval(), target))
    return op.array, op.stored.value().detach()


def as_a_whole(array: WeightArray, weight: Tensor, seed: int, time: float) -> Tensor:
    """The chip as ``noisy`` draws it, all weights at once."""
    generator = torch.Generator().manual_seed(region_seed(seed, array.name))
    reading = Reading(Draws(f"{seed}/{array.name}"), time)
    return array.noisy(array.clean(weight), generator, reading).to(weight.dtype)


TARGETS = {
    "a Gaussian": "extends: pcm_8bit",
    "devices": "extends: pcm_joshi2020",
    "several pairs": "extends: pcm_joshi2020\nconductance: {pairs: 3}",
    "a scale a column": "extends: pcm_joshi2020\nconductance: {scale: column}",
    "a range a channel": "extends: reram_wan2022\nweights: {granularity: channel}",
    "digits": "extends: isaac\nnoise: [{model: gaussian, eta: 0.02}]",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_chip_in_blocks_is_the_chip_as_a_whole(
    name: str, layer: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    file = tmp_path / "target.yaml"
    file.write_text(f"schema: 1\n{TARGETS[name]}\nname: test\n")
    torch.manual_seed(0)
    array, weight = one_array(LAYERS[layer](), load_target(file), dtype)
    for time in (0.0, DAY) if "joshi" in TARGETS[name] else (0.0,):
        chip = array.draw(weight, 3, time)
        assert chip.dtype == dtype
        whole = as_a_whole(array, weight, 3, time)
        if torch.backends.cpu.get_cpu_capability() != "AVX2":
            assert torch.equal(chip, whole)
        # With AVX2 the values after the last whole vector of 8 are computed one by one, and may
        # differ in the last bit from what a vector holds; where that is depends on the block.
        assert int((chip != whole).sum()) < 8
        torch.testing.assert_close(chip, whole, rtol=torch.finfo(dtype).eps, atol=0)


def test_weights_that_do_not_lie_in_a_row_give_the_same_chip() -> None:
    torch.manual_seed(0)
    array, weight = one_array(nn.Linear(613, 523), load_target("pcm_joshi2020"), torch.float32)
    turned = weight.t().contiguous().t()
    assert blocks.is_in_blocks(array, turned)
    assert torch.equal(array.draw(turned, 3), array.draw(weight, 3))


@pytest.mark.parametrize("rule", ["global", "column"])
def test_drift_is_compensated_as_of_the_whole(rule: str) -> None:
    torch.manual_seed(0)
    analog = analogize(nn.Linear(613, 523).eval(), "pcm_joshi2020")
    program(analog, 3, drift_time=DAY, compensation=rule)  # type: ignore[arg-type]
    (op,) = operators(analog)
    array, weight = op.array, op.stored.value().detach()
    before, now = (as_a_whole(array, weight, 3, t).abs().sum(1) for t in (0.0, DAY))
    wanted = before.sum() / now.sum() if rule == "global" else before / now
    assert array.correction is not None
    assert torch.equal(array.correction, wanted)


def test_drift_is_compensated_tile_by_tile_in_large_arrays_too() -> None:
    torch.manual_seed(0)
    analog = analogize(nn.Linear(613, 523).eval(), "pcm_joshi2020")
    program(analog, 3, drift_time=DAY, compensation="tile")
    (op,) = operators(analog)
    array, weight = op.array, op.stored.value().detach()
    before, now = (as_a_whole(array, weight, 3, t) for t in (0.0, DAY))
    wanted = viewed(factors(before, now, array.product, "tile", array.layout), array.product)
    assert array.correction is not None
    assert wanted.unique().numel() == 4, "two by two tiles"
    assert torch.equal(array.correction, wanted)


def test_a_default_dtype_changes_no_chip() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(613, 523), nn.Linear(523, 10)).eval()
    analog, x = analogize(layers, "paper_resnet32"), torch.randn(2, 613)
    program(analog, 3)
    with noise_mode(analog, "programmed"):
        wanted = analog(x)
        torch.set_default_dtype(torch.float64)
        try:
            program(analog, 3)
            found = analog(x)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(found, wanted)


def test_a_time_beyond_the_models_leaves_no_chip_in_large_arrays() -> None:
    analog = analogize(nn.Linear(613, 523).eval(), "pcm_joshi2020")
    program(analog, 3)
    with pytest.raises(ChipError, match="cannot be read"):
        program(analog, 3, drift_time="50 years")
    assert operators(analog)[0].array.chip is None
