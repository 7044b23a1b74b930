"""The first-order estimate, against counting by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, summary
from analogize.targets.spec import Target


def work(array: dict[str, Any] | None, adc: Any = None, **more: Any) -> Any:
    given = {
        "name": "t",
        "weights": {"range": {"kind": "absmax"}, "bits": 8, "grid": "symmetric"},
        "dac": {"bits": 8, "grid": "symmetric"},
        "adc": adc or {"bits": 8},
        "array": array,
        "digital": {"names": ["3"]},
    }
    x = torch.randn(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 5))
    found = summary(analogize(model, Target.model_validate(given | more), [x], example_inputs=x))
    return found.work, str(found)


VECTORS = 2 * 6 * 6  # two images, 6 x 6 output positions; the matrix is 27 x 16
ANALOG, DIGITAL = VECTORS * 27 * 16, 2 * 16 * 36 * 5


def test_one_array() -> None:
    found, _ = work(None)
    assert (found.tiles, found.adc, found.dac) == (None, VECTORS * 16, VECTORS * 27)
    assert (found.analog_macs, found.digital_macs) == (ANALOG, DIGITAL)


@pytest.mark.parametrize("tiling", [False, True])
def test_tiles(tiling: bool) -> None:
    """27 x 16 on tiles of 10 x 8: three high, two wide."""
    found, _ = work({"rows": 10, "cols": 8, "tiling": tiling})
    assert found.tiles == 6
    assert found.adc == VECTORS * 16 * (3 if tiling else 1)
    assert found.dac == VECTORS * 27 * 2


def test_digits() -> None:
    """127 has four digits of two bits and seven of one."""
    array = {"rows": 10, "cols": 8, "tiling": True, "cell_bits": 2, "input_bits": 1}
    found, _ = work(array, {"bits": 12, "range": {"kind": "full"}})
    assert found.adc == VECTORS * 16 * 3 * 7 * 4
    assert found.dac == VECTORS * 27 * 2 * 7 * 4


def test_energy_and_its_formula() -> None:
    found, text = work(None, cost={"adc": 2.0, "dac": 0.5, "digital_mac": 1.0})
    assert found.energy == VECTORS * 16 * 2.0 + VECTORS * 27 * 0.5 + DIGITAL
    assert "estimate for the example inputs" in text
    assert "uJ = ADC conversions e_ADC + DAC conversions e_DAC" in text


def test_unknown_energies_are_said() -> None:
    assert "the target gives no energies" in work(None)[1]
    found, text = work(None, cost={"adc": 2.0})
    assert found.energy is None
    assert found.known_energy == VECTORS * 16 * 2.0
    known = f"{VECTORS * 16 * 2.0 * 1e-6:.4g} uJ = "
    assert known in text
    assert "without DAC conversions and digital multiply-accumulates: the target gives no" in text


def test_isaac_by_hand() -> None:
    """2 mW / 1.28 GS/s and 4 mW 100 ns / 1024 for 16-bit weights and inputs, 15 bits of magnitude.

    100 inputs and 20 outputs take one row of tiles; 8 slices of 2 bits and 15 digits of 1 bit.
    """
    x = torch.randn(3, 100)
    found = summary(analogize(nn.Linear(100, 20), "isaac", [x], example_inputs=x)).work
    assert found is not None
    assert (found.tiles, found.adc, found.dac) == (8, 3 * 20 * 8 * 15, 3 * 100 * 8 * 15)
    expected = found.adc * 2e-3 / 1.28e9 + found.dac * 4e-3 * 100e-9 / 1024
    assert found.energy == pytest.approx(expected * 1e12, rel=1e-9)


@pytest.mark.parametrize("name", ["pcm_4bit", "pcm_8bit", "reram_4bit", "reram_8bit"])
def test_generic_targets_know_the_energy_of_their_adc_alone(name: str) -> None:
    x = torch.randn(3, 100)
    found = summary(analogize(nn.Linear(100, 20), name, [x], example_inputs=x)).work
    assert found is not None
    assert found.unknown == ("DAC conversions",)
    assert found.known_energy == 3 * 20 * 1.5625


def test_without_example_inputs_nothing_is_known() -> None:
    model: nn.Module = nn.Linear(3, 2)
    assert summary(analogize(model, "ideal")).work is None
    x: Tensor = torch.randn(1, 3)
    assert summary(analogize(model, "ideal", example_inputs=x)).work is not None
