"""Models on wires with resistance: programming, training, built-in devices, and targets refused."""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.testing import assert_close

from analogize import analogize, evaluate, noise_mode, program, summary
from analogize.crossbar.ops import operators
from analogize.errors import ChipError
from analogize.targets import load_target
from analogize.targets.spec import Target

Floats = npt.NDArray[np.float64]


def target(rows: int = 16, ohms: float = 5.0, **more: Any) -> Target:
    base: dict[str, Any] = {
        "name": "wired",
        "weights": {"range": {"kind": "absmax"}},
        "conductance": {"g_max": 25.0},
        "noise": [{"model": "ir_drop", "row_segment": ohms, "column_segment": ohms}],
        "array": {"rows": rows, "cols": 16},
    }
    return Target.model_validate(base | more)


def loss(g: Floats, r_row: float, r_col: float) -> Floats:
    """The docstring's formula, sum by sum."""
    rows, columns = (np.arange(1, n + 1) for n in g.shape)
    along_row = g @ np.minimum.outer(columns, columns)
    along_column = np.minimum.outer(rows, rows) @ g
    result: Floats = r_row * along_row + r_col * along_column
    return result


def test_a_model_on_wires() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    analog = analogize(model, target(), example_inputs=torch.randn(1, 3, 8, 8))
    program(analog, 0)

    for op, name in zip(operators(analog), ("0", "2"), strict=True):
        weight, chip = model.get_submodule(name).weight.detach(), op.array.chip  # type: ignore[union-attr, operator]
        assert chip is not None
        assert bool((chip.abs() <= weight.abs()).all()), "wires only take"
        near, far = (
            chip[0].flatten() / weight[0].flatten(),
            chip[-1].flatten() / weight[-1].flatten(),
        )
        assert float(near[0]) > float(far[-1])
        assert 0.001 < 1 - float(chip.abs().sum() / weight.abs().sum()) < 0.2
    with noise_mode(analog, "off"):
        x = torch.randn(2, 3, 8, 8)
        assert_close(analog(x), model(x))
    assert "IR drop, 5 and 5 ohm" in " ".join(str(summary(analog)).split())


def test_evaluation_and_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5))
    x = torch.randn(64, 40)
    y = model(x).argmax(1)
    analog = analogize(model, target(), example_inputs=x)

    assert evaluate(analog, [(x, y)], instances=2).levels[0].values[0] > 0.8
    before = copy.deepcopy(analog.state_dict())
    optimizer = torch.optim.SGD(analog.train().parameters(), 0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        cost = nn.functional.cross_entropy(analog(x), y)
        cost.backward()
        optimizer.step()
        losses.append(float(cost.detach()))
    assert losses[-1] < losses[0]
    assert not analog.state_dict()["0.weight"].equal(before["0.weight"])


def test_without_resistance_nothing_changes() -> None:
    layer, x = nn.Linear(40, 30), torch.randn(3, 40)
    analog = analogize(layer, target(ohms=0.0)).eval()
    program(analog, 0)
    assert analog(x).equal(layer(x))


def test_too_much_loss_is_refused_by_name() -> None:
    first = {"model": "ir_drop", "row_segment": 500.0, "solver": "first_order"}
    analog = analogize(nn.Linear(600, 300), target(rows=512, noise=[first]))
    with pytest.raises(ChipError, match=r"noise\[0\] \(ir_drop\): .* up to 1; use solver: nodal"):
        program(analog, 0)


# A full tile of each target with a size; the published resistance of a wire's segment.
@pytest.mark.parametrize("name", ["isaac", "reram_milo2021", "pcm_hermes", "reram_cmo"])
@pytest.mark.parametrize("ohms", [1.0, 2.93])
def test_built_in_devices_run_on_wires(name: str, ohms: float) -> None:
    wires = {"model": "ir_drop", "row_segment": ohms, "column_segment": ohms}
    found = load_target(name)
    size = {"rows": 128, "cols": 128, "tiling": found.array is not None}
    extra = {} if found.array is None else found.array.model_dump(exclude=set(size))
    changed = {
        "noise": [wires],
        "array": size | extra,
        "dac": {"bits": 2, "grid": "symmetric"} if name == "isaac" else {},
        "adc": {"bits": 12, "grid": "symmetric", "range": {"kind": "full"}}
        if name == "isaac"
        else {},
        "cost": None,
    }
    data = found.model_dump(by_alias=True, mode="json") | changed
    layer = nn.Linear(128, 128, bias=False)
    torch.manual_seed(0)
    nn.init.uniform_(layer.weight, -1, 1)
    x = torch.randn(4, 128)
    analog = analogize(layer, Target.model_validate(data), [x]).eval()
    program(analog, 0)
    # A part of every current is lost, more of it with more resistance.
    assert 0.05 < float(analog(x).detach().norm() / layer(x).detach().norm()) < 1.0


def test_digits_lie_on_tiles_of_their_own() -> None:
    """Of 3 = 11b in cells of one bit, each digit's tile loses what a tile of ones loses."""
    layer = nn.Linear(8, 8, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    given = target(
        weights={"range": {"kind": "absmax"}, "bits": 3, "grid": "symmetric"},
        dac={"bits": 3},
        array={"rows": 16, "cols": 16, "tiling": True, "cell_bits": 1},
    )
    analog = analogize(layer, given, [torch.randn(4, 8)])
    program(analog, 0)
    (op,) = operators(analog)
    chip: Tensor | None = op.array.chip
    assert chip is not None
    assert_close(chip[0], chip[1])
    expected = 1 / (1 + loss(np.full((8, 8), 25e-6), 5.0, 5.0))
    assert_close(chip[0].T.double(), torch.from_numpy(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"array": None}, "as long as a tile, so give the target 'array'"),
        ({"conductance": {"g_max": 25.0, "unit": "nA"}}, "give conductances in uS, not nA"),
        ({"conductance": None}, "'ir_drop' acts on conductances"),
        (
            {"noise": [{"model": "ir_drop", "row_segment": 1.0}, {"model": "stuck"}]},
            "during programming, so list it before 'ir_drop'",
        ),
        (
            {
                "noise": [
                    {"model": "ir_drop", "row_segment": 1.0},
                    {
                        "model": "log_drift",
                        "mean_slope": 0.0,
                        "std_intercept": 0.0,
                        "std_slope": 0.0,
                    },
                ]
            },
            "so list it before 'ir_drop'",
        ),
        ({"noise": [{"model": "ir_drop", "row_segment": -1.0}]}, "greater than or equal to 0"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        target(**change)
