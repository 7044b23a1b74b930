"""The first-order estimate, against counting by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, load, save, summary
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
    return found.work, " ".join(str(found).split())


VECTORS = 6 * 6  # output positions of an image, of two in the example; the matrix is 27 x 16
ANALOG, DIGITAL = VECTORS * 27 * 16, 16 * 36 * 5


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
    assert "estimate per inference" in text
    assert "Not counted: cells, drivers, wires, memory, control" in text


def test_unknown_energies_are_said() -> None:
    assert "the target gives no energies" in work(None)[1]
    found, text = work(None, cost={"adc": 2.0})
    assert found.energy is None
    assert found.known_energy == VECTORS * 16 * 2.0
    assert f"{VECTORS * 16 * 2.0 * 1e-6:.4g} uJ (" in text
    assert "without DAC conversions and digital multiply-accumulates: the target gives no" in text


def test_isaac_by_hand() -> None:
    """2 mW / 1.28 GS/s and 4 mW 100 ns / 1024 for 16-bit weights and inputs, 15 bits of magnitude.

    100 inputs and 20 outputs take one row of tiles; 8 slices of 2 bits and 15 digits of 1 bit.
    """
    x = torch.randn(3, 100)
    found = summary(analogize(nn.Linear(100, 20), "isaac", [x], example_inputs=x)).work
    assert found is not None
    assert (found.tiles, found.adc, found.dac) == (8, 20 * 8 * 15, 100 * 8 * 15)
    expected = found.adc * 2e-3 / 1.28e9 + found.dac * 4e-3 * 100e-9 / 1024
    assert found.energy == pytest.approx(expected * 1e12, rel=1e-9)


@pytest.mark.parametrize("name", ["reram_4bit", "reram_8bit"])
def test_generic_resistive_targets_know_the_energy_of_their_adc_alone(name: str) -> None:
    x = torch.randn(3, 100)
    found = summary(analogize(nn.Linear(100, 20), name, [x], example_inputs=x)).work
    assert found is not None
    assert found.unknown == ("DAC conversions",)
    assert found.known_energy == 20 * 1.5625


def full_tile(name: str, size: int) -> Any:
    x = torch.randn(3, size)
    found = summary(analogize(nn.Linear(size, size), name, [x], example_inputs=x)).work
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["pcm_hermes", "pcm_4bit", "pcm_8bit"])
def test_hermes_publishes_its_efficiency_and_throughput(name: str) -> None:
    """9.76 TOPS/W, and 63.1 TOPS of 64 full cores; 133 ns is rounded to three digits."""
    found = full_tile(name, 256)
    assert found.tops_per_watt == pytest.approx(9.76)
    assert 64 * 2 * 256**2 / found.latency * 1e-3 == pytest.approx(63.1, rel=0.005)
    # Half a tile takes what a whole one does.
    assert full_tile(name, 128).tops_per_watt == pytest.approx(9.76 / 4)


def test_isaac_publishes_its_efficiency() -> None:
    """627.5 GOPS/W (Table IV); the factor is what the parts that are not counted take."""
    missing = 24.08 / 20 * 330 / 289 * 65.8 / 55.4 * 16 / 15
    assert full_tile("isaac", 128).tops_per_watt / 0.6275 == pytest.approx(missing, rel=0.01)
    assert missing == pytest.approx(1.74, abs=0.01)


CONVERTER = {"rows": 10, "cols": 8}
MVMS = VECTORS * 3 * 2  # 27 x 16 on tiles of 10 x 8


@pytest.mark.parametrize(
    ("cost", "energy"),
    [
        ({"mac": 0.5}, ANALOG * 0.5),
        ({"mvm": 7.0}, MVMS * 7.0),
        ({"tops_per_watt": 4.0}, MVMS * 2 * 80 / 4.0),
        ({"mvm_power": 3.0, "mvm_latency": 50.0}, MVMS * 150.0),
    ],
)
def test_figures_of_a_tile(cost: dict[str, float], energy: float) -> None:
    found, text = work(CONVERTER, cost={**cost, "digital_mac": 0.0})
    assert found.mvms == MVMS
    assert found.energy == pytest.approx(energy)
    assert "Not counted: what the published figure leaves out" in text


def test_figures_of_a_tile_without_a_tile_are_not_used() -> None:
    found, text = work(None, cost={"tops_per_watt": 4.0, "mvm_latency": 50.0})
    assert found.energy is None
    assert found.latency is None
    assert "without MVMs (no size of a tile) and digital multiply-accumulates" in text


def test_latency_and_area() -> None:
    """A vector after another, region after region; two regions of 36 and one vector."""
    cost = {"mvm": 1.0, "mvm_latency": 100.0, "tile_area": 0.25}
    found, text = work(CONVERTER, cost=cost, digital={})
    assert [layer.latency for layer in found.layers] == [3600.0, 100.0]
    assert (found.latency, found.interval) == (3700.0, 3600.0)
    # 576 x 5 takes 58 tiles of 10 x 8.
    assert (found.tiles, found.area) == (64, 16.0)
    assert "3.7 us, one every 3.6 us; 16 mm2" in text


def test_bit_serial_inputs_take_their_time() -> None:
    array = {"rows": 10, "cols": 8, "tiling": True, "cell_bits": 2, "input_bits": 1}
    adc = {"bits": 12, "range": {"kind": "full"}}
    found, _ = work(array, adc, cost={"mvm": 1.0, "mvm_latency": 100.0})
    assert found.layers[0].latency == VECTORS * 7 * 100.0
    assert found.energy is None
    assert found.known_energy == MVMS * 7 * 4


def test_blocks_that_share_a_tile_share_its_mvm() -> None:
    x = torch.randn(1, 12, 6, 6)
    target = Target(
        name="t",
        array={"rows": 32, "cols": 8},
        cost={"mvm": 2.0},
    )
    model = nn.Conv2d(12, 12, 3, groups=12)
    found = summary(analogize(model, target, example_inputs=x)).work
    assert found is not None
    # Three blocks of 9 x 1 fill 27 of 32 rows.
    assert found.mvms == 16 * 4
    assert found.known_energy == 16 * 4 * 2.0


def test_a_table_a_layer() -> None:
    found, _ = work(CONVERTER, cost={"mvm": 7.0, "mvm_latency": 100.0}, digital={})
    rows = found.to_rows()
    assert [row["region"] for row in rows] == ["0", "3"]
    assert sum(row["energy"] for row in rows) == found.energy
    table = found.table()
    assert "Cost of one inference" in table
    assert "1.512" in table  # nJ of the convolution


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ({"mac": 1.0, "adc": 1.0}, "'mac' includes converters"),
        ({"mac": 1.0, "mvm": 1.0}, "say it once"),
        ({"mvm_power": 1.0}, "give mvm_latency"),
    ],
)
def test_figures_that_do_not_fit_together(cost: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Target.model_validate({"name": "t", "cost": cost})


def test_a_saved_model_knows_its_example(tmp_path: Path) -> None:
    x = torch.randn(8, 20)
    analog = analogize(nn.Sequential(nn.Linear(20, 10)), "pcm_8bit", [x])
    save(analog, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(20, 10)))
    assert summary(loaded).work == summary(analog).work


def test_an_unbatched_example_is_one_inference() -> None:
    x = torch.randn(3, 8, 8)
    found = summary(analogize(nn.Conv2d(3, 16, 3), "ideal", example_inputs=x)).work
    assert found is not None
    assert (found.samples, found.analog_macs) == (1, 36 * 27 * 16)


def test_without_example_inputs_nothing_is_known() -> None:
    model: nn.Module = nn.Linear(3, 2)
    assert summary(analogize(model, "ideal")).work is None
    x: Tensor = torch.randn(1, 3)
    assert summary(analogize(model, "ideal", example_inputs=x)).work is not None


def test_a_range_a_vector_is_rescaled_digitally() -> None:
    """Every value that enters or leaves once: images of 3 x 8 x 8, 36 vectors of 16."""
    vector = {"bits": 8, "grid": "symmetric", "range": {"kind": "vector"}}
    rescalings = 3 * 8 * 8 + VECTORS * 16
    cost = {"adc": 2.0, "dac": 0.5, "digital_mac": 1.0}
    found, text = work({"rows": 10, "cols": 8, "tiling": True}, dac=vector, cost=cost)
    assert found.layers[0].rescalings == found.rescalings == rescalings
    analog = found.adc * 2.0 + found.dac * 0.5
    assert found.energy == analog + DIGITAL + rescalings
    assert f"{rescalings:,} digital rescalings of vectors" in text
    assert "rescalings of vectors" in work(None, dac=vector, cost={"adc": 2.0})[0].unknown
    plain, text = work(None, cost=cost)
    assert plain.rescalings == 0
    assert "rescalings" not in text


def test_tokens_are_rescaled_one_by_one() -> None:
    target = {
        "name": "t",
        "weights": {"range": {"kind": "absmax"}, "bits": 8, "grid": "symmetric"},
        "dac": {"bits": 8, "grid": "symmetric", "range": {"kind": "vector"}},
        "adc": {"bits": 8},
    }
    x = torch.randn(2, 7, 12)
    analog = analogize(nn.Linear(12, 5), Target.model_validate(target), [x], example_inputs=x)
    found = summary(analog).work
    assert found is not None
    assert found.rescalings * found.samples == 2 * 7 * (12 + 5)
