"""Chips of a laboratory: some regions, dead cells, defect maps, and mistakes that are named."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from analogize import Chip, analogize, erase, load_chip, program, read_chip, save_chip
from analogize.crossbar.ops import operators
from analogize.errors import ChipError

JOSHI = "pcm_joshi2020"


@pytest.fixture
def analog() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    return analogize(model, JOSHI, [torch.randn(32, 6)]).eval()


def chip_of(model: nn.Module, index: int) -> torch.Tensor:
    chip = operators(model)[index].array.chip
    assert chip is not None
    return chip


def test_dead_cells_carry_no_current(analog: nn.Module) -> None:
    program(analog, 1)
    chip = read_chip(analog)
    data = chip["0"]
    assert data.conductances is not None
    cells = data.conductances.copy()
    cells[:, :, :, :, 2] = np.nan  # one row: the third input
    before = chip_of(analog, 0).clone()
    program(analog, chip.with_array("0", conductances=cells))
    after = chip_of(analog, 0)
    assert not after[:, 2].any()
    assert_close(after[:, [0, 1, 3, 4, 5]], before[:, [0, 1, 3, 4, 5]])
    assert "10 dead cells" in str(read_chip(analog))


def test_some_regions_measured_and_the_rest_drawn(analog: nn.Module) -> None:
    program(analog, 1)
    first, drawn = read_chip(analog), chip_of(analog, 0).clone()
    program(analog, 2)
    other = chip_of(analog, 1).clone()

    program(analog, first.only("0", seed=2))

    assert chip_of(analog, 0).equal(drawn)
    assert chip_of(analog, 1).equal(other)
    with pytest.raises(ChipError, match=r"holds no cells of '2'.*give the chip a seed"):
        program(analog, first.only("0"))


def test_a_defect_map_changes_defective_cells_alone(analog: nn.Module, tmp_path: Path) -> None:
    plus, minus = np.full((6, 5), np.nan), np.full((6, 5), np.nan)
    plus[0, 0], minus[1, 1], plus[2, 2] = 25.0, 25.0, 0.0
    program(analog, 4)
    sound = chip_of(analog, 0).clone()
    chip = Chip.with_defects({"0": (plus, minus)}, unit="uS", seed=4)
    for path in (tmp_path / "a.npz", tmp_path / "folder"):
        save_chip(chip, path)
        program(analog, load_chip(path))
        changed = chip_of(analog, 0)
        moved = (changed != sound).nonzero().tolist()
        assert moved == [[0, 0], [1, 1], [2, 2]]
    held = read_chip(analog)["0"]
    assert held.plus[0, 0, 0] == held.minus[0, 1, 1] == pytest.approx(25e-6, rel=1e-12)
    assert held.plus[0, 2, 2] == 0
    # The chip that was read has the defects in its cells, and is the same chip.
    program(analog, read_chip(analog))
    assert chip_of(analog, 0).equal(changed)


def test_time_passes_for_a_defect_map_and_not_for_a_measured_chip(analog: nn.Module) -> None:
    nothing = np.full((6, 5), np.nan)
    defects = Chip.with_defects({"0": (nothing, nothing)}, unit="S", seed=3)
    program(analog, 3, drift_time="1 day")
    later = chip_of(analog, 0).clone()
    program(analog, defects, drift_time="1 day")
    assert chip_of(analog, 0).equal(later)
    with pytest.raises(ChipError, match="leave drift_time and cycle at 0"):
        program(analog, read_chip(analog), drift_time="1 day")


@pytest.mark.parametrize("unit", ["S", "uS", "nS"])
def test_units(analog: nn.Module, unit: str) -> None:
    rng, factor = np.random.default_rng(0), {"S": 1e-6, "uS": 1.0, "nS": 1e3}[unit]
    shapes = {"0": (6, 5), "2": (5, 3)}
    raw = {k: (rng.uniform(0, 25, s), rng.uniform(0, 25, s)) for k, s in shapes.items()}
    scaled = {name: (plus * factor, minus * factor) for name, (plus, minus) in raw.items()}
    program(analog, Chip.measured(scaled, unit=unit))  # type: ignore[arg-type]
    full = float(operators(analog)[0].array.range[1])
    plus, minus = raw["0"]
    expected = torch.from_numpy(((plus - minus) * full / 25).T).float()
    assert_close(chip_of(analog, 0), expected)


def test_mistakes_are_named(analog: nn.Module, tmp_path: Path) -> None:
    cells = {"0": (np.ones((6, 5)), np.ones((6, 5))), "2": (np.ones((5, 3)), np.ones((5, 3)))}

    def give(changes: dict[str, object], unit: str = "uS") -> None:
        program(analog, Chip.measured(cells | changes, unit=unit))  # type: ignore[arg-type]

    with pytest.raises(ChipError, match=r"'0': conductances reach 1, .* end at 2\.5e-05 S"):
        give({}, "S")
    with pytest.raises(ChipError, match="unit 'mS' is unknown; allowed are S, uS"):
        give({}, "mS")
    with pytest.raises(ChipError, match=r"'0': .* \(1, 2, 1, 1, 5, 6\) instead of \(1, 2, 1, 1, 6"):
        give({"0": (np.ones((5, 6)), np.ones((5, 6)))})
    with pytest.raises(ChipError, match=r"'0': G\+ has the shape \(6, 5\) and G- \(5, 6\)"):
        give({"0": (np.ones((6, 5)), np.ones((5, 6)))})
    with pytest.raises(ChipError, match="'0': conductances must be numbers of at least 0"):
        give({"0": (-np.ones((6, 5)), np.ones((6, 5)))})
    with pytest.raises(ChipError, match="holds the region 'fc', and the model has none"):
        give({"fc": (np.ones((6, 5)), np.ones((6, 5)))})
    erase(analog)
    with pytest.raises(ChipError, match="no chip is programmed"):
        read_chip(analog)
    with pytest.raises(ChipError, match="has no analog operator"):
        read_chip(nn.Linear(2, 2))
    with pytest.raises(ChipError, match=r"a chip is a \.npz"):
        save_chip(Chip({}), tmp_path / "chip.txt")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(ChipError, match=r"cannot read a chip from .*bad\.npz"):
        load_chip(tmp_path / "bad.npz")


def test_files_of_a_folder_are_named_with_their_line(analog: nn.Module, tmp_path: Path) -> None:
    program(analog, 0)
    save_chip(read_chip(analog), tmp_path / "chip")
    file = tmp_path / "chip" / "0" / "digit0_pair0_tile0_plus.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "one,2,3,4,5", *lines[2:]]))
    with pytest.raises(ChipError, match=r"plus\.csv, line 2: 'one' is no number"):
        load_chip(tmp_path / "chip")
    file.write_text("\n".join(lines[:3]))
    with pytest.raises(ChipError, match=r"3 lines of 5 values are too few for a tile of 6 x 5"):
        load_chip(tmp_path / "chip")
    file.unlink()
    with pytest.raises(ChipError, match=r"cannot read .*plus\.csv"):
        load_chip(tmp_path / "chip")
    with pytest.raises(ChipError, match="is not empty"):
        save_chip(read_chip(analog), tmp_path / "chip")


def test_a_copy_knows_its_chip(analog: nn.Module) -> None:
    program(analog, 5, drift_time="1 day")
    expected = read_chip(analog)["2"].conductances
    for other in (copy.deepcopy(analog), pickle.loads(pickle.dumps(analog))):
        assert np.array_equal(read_chip(other)["2"].conductances, expected)
