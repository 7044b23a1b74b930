"""Curves of measured points and of many pieces; test_programming.py has the published forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.testing import assert_close

from analogize.devices.curves import evaluate
from analogize.targets.curve import Logarithmic, Pieces, Polynomial, Saturating, Table
from analogize.targets.spec import Target


@given(
    points=st.lists(st.floats(0.0, 100.0, width=32), min_size=2, max_size=8, unique=True).map(
        sorted
    ),
    data=st.data(),
)
def test_a_table_is_a_line_between_its_points_and_flat_beyond(
    points: list[float], data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.floats(-10, 10), min_size=len(points), max_size=len(points)))
    at = torch.tensor(data.draw(st.lists(st.floats(0, 200), min_size=1)), dtype=torch.float64)
    table = Table(conductance=tuple(points), value=tuple(values))

    expected = np.interp(at.numpy(), points, values)

    # Points nearer than 1e-6 of one another leave fewer digits of where one lies between them.
    closest = min(np.diff(points))
    assert_close(
        evaluate(table, at), torch.from_numpy(expected), rtol=0, atol=1e-9 + 1e-12 / closest
    )


def test_four_pieces_and_a_rising_logarithm() -> None:
    def flat(value: float) -> Polynomial:
        return Polynomial(coefficients=(value,))

    pieces = Pieces(splits=(1.0, 2.0, 3.0), curves=tuple(map(flat, (1.0, 2.0, 3.0, 4.0))))
    rising = Logarithmic(slope=1.0, intercept=0.0, min=0.0, max=2.0)
    g = torch.tensor([0.0, 1.0, 1.5, 2.9, 3.0, 100.0])

    assert evaluate(pieces, g).tolist() == [1.0, 2.0, 2.0, 3.0, 4.0, 4.0]
    assert_close(evaluate(rising, g), torch.tensor([0.0, 0.0, 0.405465, 1.064711, 1.098612, 2.0]))


def test_points_must_pair_up_and_increase() -> None:
    with pytest.raises(ValidationError, match="2 values for 3 conductances"):
        Table(conductance=(0.0, 1.0, 2.0), value=(1.0, 2.0))
    with pytest.raises(ValidationError, match="must be above the one before"):
        Table(conductance=(0.0, 2.0, 2.0), value=(1.0, 2.0, 3.0))
    with pytest.raises(ValidationError, match="2 curves for 2 splits"):
        Pieces(splits=(1.0, 2.0), curves=(Polynomial(coefficients=(1.0,)),) * 2)


@pytest.mark.parametrize(
    "sigma",
    [
        {"kind": "table", "conductance": [0.0, 24.0], "value": [1.0, 1.0]},
        {"kind": "table", "conductance": [0.0, 0.96], "value": [1.0, 1.0], "reference": 25.0},
    ],
)
def test_a_target_stays_within_the_measured_points(sigma: dict[str, object]) -> None:
    given = {
        "name": "measured",
        "weights": {"range": {"kind": "absmax"}},
        "noise": [{"model": "programming", "sigma": sigma}],
    }
    Target.model_validate(given | {"conductance": {"g_max": 24.0}})
    with pytest.raises(ValidationError, match="hold from 0 to 24 uS, and the target uses 0 to 25"):
        Target.model_validate(given | {"conductance": {"g_max": 25.0}})


@given(
    x=st.lists(st.floats(0, 50, width=32), min_size=1, max_size=8),
    amplitude=st.floats(0.1, 20),
    constant=st.floats(0.1, 10),
    reference=st.sampled_from([None, 0.5, 25.0]),
)
def test_a_saturating_curve_is_its_formula(
    x: list[float], amplitude: float, constant: float, reference: float | None
) -> None:
    curve = Saturating(amplitude=amplitude, constant=constant, reference=reference)
    found = evaluate(curve, torch.tensor(x, dtype=torch.float64)).numpy()
    scaled = np.asarray(x) / (reference or 1.0)
    # Two roundings of x and one of 1/c, each amplified by at most 1 in 1 - exp(-x/c).
    assert np.allclose(found, amplitude * (1 - np.exp(-scaled / constant)), rtol=1e-12, atol=1e-12)
