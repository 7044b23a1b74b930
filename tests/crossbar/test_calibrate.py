from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import Target, analogize, calibrate
from analogize.crossbar.fitting import column_percentile, percentile
from analogize.crossbar.ops import operators
from analogize.errors import CalibrationError

Make = Callable[..., Target]


@pytest.fixture
def percentile_target(make_target: Make) -> Target:
    converter = {"bits": 8, "range": {"kind": "percentile"}}
    return make_target(dac=converter, adc=converter)


def test_ranges_are_percentiles_of_the_digital_model(percentile_target: Target) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    data = torch.randn(3000, 5)
    labels = torch.zeros(3000)
    loader = DataLoader(TensorDataset(data, labels), batch_size=700)
    analog = analogize(model, percentile_target, loader)
    inputs = [data, model[:2](data)]
    for op, layer, x in zip(operators(analog), (model[0], model[2]), inputs, strict=True):
        y = x @ layer.weight.t()
        for converter, values in ((op.dac, x), (op.adc, y)):
            expected = np.percentile(values.detach().double().numpy(), [0.1, 99.9])
            np.testing.assert_allclose(converter.range.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["tensors", "pairs", "generator", "keywords"])
def test_batches_in_every_form(percentile_target: Target, kind: str) -> None:
    x = torch.randn(3, 16, 5)
    batches = {
        "tensors": list(x),
        "pairs": [(batch, torch.zeros(16)) for batch in x],
        "generator": (batch for batch in x),
        "keywords": [({"input": batch}, torch.zeros(16)) for batch in x],
    }[kind]
    analog = analogize(nn.Sequential(nn.Linear(5, 4)), percentile_target, batches)
    reference = analogize(nn.Sequential(nn.Linear(5, 4)), percentile_target, list(x))
    mine, theirs = operators(analog)[0].dac.range, operators(reference)[0].dac.range
    assert torch.equal(mine, theirs)


def test_later_calibration_replaces_the_ranges(percentile_target: Target) -> None:
    analog = analogize(nn.Sequential(nn.Linear(5, 4)), percentile_target)
    x = torch.randn(100, 5)
    calibrate(analog, [x])
    first = operators(analog)[0].dac.range.clone()
    calibrate(analog, [3 * x])
    torch.testing.assert_close(operators(analog)[0].dac.range, 3 * first)


def test_calibration_moves_neither_random_state_nor_batchnorm(percentile_target: Target) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout())
    analog = analogize(model, percentile_target).train()
    before, state = analog.state_dict(), torch.get_rng_state()
    mean = before["1.running_mean"].clone()
    calibrate(analog, [torch.randn(9, 5, generator=torch.Generator().manual_seed(0))] * 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(analog.state_dict()["1.running_mean"], mean)
    assert analog.training
    assert analog.get_submodule("2").training


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "hold no batch"),
        ([torch.zeros(4, 5)], "nothing but zeros"),
        ([torch.full((4, 5), torch.nan)], "region '0'.*NaN or infinite"),
    ],
)
def test_bad_data_change_nothing(
    percentile_target: Target, batches: list[Tensor], message: str
) -> None:
    analog = analogize(nn.Sequential(nn.Linear(5, 4)), percentile_target, [torch.randn(50, 5)])
    before = {k: v.clone() for k, v in analog.state_dict().items()}
    with pytest.raises(CalibrationError, match=message):
        calibrate(analog, batches)
    assert all(torch.equal(before[k], v) for k, v in analog.state_dict().items())


def test_an_empty_loader_is_refused_at_once(percentile_target: Target) -> None:
    with pytest.raises(CalibrationError, match="hold no batch"):
        analogize(nn.Sequential(nn.Linear(5, 4)), percentile_target, [])


@pytest.mark.parametrize("rule", ["percentile", "minmax", "std", "mse"])
def test_a_range_is_the_same_whatever_the_batches(make_target: Make, rule: str) -> None:
    multiple = {"multiple": 3.0} if rule == "std" else {}
    converter = {"bits": 6, "range": {"kind": rule} | multiple}
    target = make_target(dac=converter, adc=converter)
    x, layer, found = torch.randn(400, 5), nn.Linear(5, 4), []
    for batches in ([x], list(x.split(7))):
        (op,) = operators(analogize(layer, target, batches))
        found.append(op.dac.range)
    assert torch.equal(*found)
    low, high = found[0]
    assert x.min() <= low < 0 < high <= x.max()
    if rule == "minmax":
        assert [low, high] == [x.min(), x.max()]
    if rule == "std":
        mean, half = x.mean(), 3 * x.std(correction=0)
        expected = torch.stack([mean - half, mean + half]).clamp(x.min(), x.max())
        torch.testing.assert_close(found[0], expected)


def test_columns_of_zeros_take_a_range_too(make_target: Make) -> None:
    layer = nn.Linear(5, 3, bias=False)
    with torch.no_grad():
        layer.weight[1] = 0
    adc = {"bits": 8, "granularity": "channel", "range": {"kind": "minmax"}}
    x = torch.randn(50, 5)
    (op,) = operators(analogize(layer, make_target(dac={"bits": 8}, adc=adc), [x]))
    y = layer(x)
    torch.testing.assert_close(op.adc.range[:, 0], torch.stack(torch.aminmax(y[:, 0])).detach())
    assert op.adc.range[0, 1] < op.adc.range[1, 1]


def test_a_recurrent_layer_is_calibrated_over_all_its_steps(make_target: Make) -> None:
    converter = {"bits": 8, "range": {"kind": "minmax"}}
    model = nn.LSTM(6, 8, batch_first=True)
    x = torch.randn(3, 40, 6)
    analog = analogize(model, make_target(dac=converter, adc=converter), [(x,)])
    hidden = model(x)[0]
    recurrent = next(op for op in operators(analog) if "hh" in op.region.name)
    # The last step's state enters no product.
    low, high = torch.aminmax(hidden[:, :-1])
    torch.testing.assert_close(recurrent.dac.range, torch.stack([low.clamp(max=0), high]).detach())


@given(n=st.integers(1, 300), percent=st.floats(0, 100), ties=st.booleans())
def test_percentiles_of_columns_are_those_of_sorted_columns(
    n: int, percent: float, ties: bool
) -> None:
    rows = torch.randn(n, 3, generator=torch.Generator().manual_seed(n))
    rows = rows.round() if ties else rows
    wanted = percentile(rows.sort(0).values, torch.ones(n, dtype=torch.long), percent)
    assert torch.equal(column_percentile(rows, percent), wanted)
