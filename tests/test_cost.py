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
    assert found.dac == VECTORS * 27 * 2 * 7


def test_energy_and_its_formula() -> None:
    found, text = work(None, cost={"adc": 2.0, "dac": 0.5, "digital_mac": 1.0})
    assert found.energy == VECTORS * 16 * 2.0 + VECTORS * 27 * 0.5 + DIGITAL
    assert "estimate for the example inputs" in text
    assert "uJ = ADC conversions e_ADC + DAC conversions e_DAC" in text


def test_unknown_energies_are_said() -> None:
    assert "the target gives no energies" in work(None)[1]
    found, text = work(None, cost={"adc": 2.0})
    assert found.energy is None
    assert "the target's energies are incomplete" in text


def test_without_example_inputs_nothing_is_known() -> None:
    model: nn.Module = nn.Linear(3, 2)
    assert summary(analogize(model, "ideal")).work is None
    x: Tensor = torch.randn(1, 3)
    assert summary(analogize(model, "ideal", example_inputs=x)).work is not None
