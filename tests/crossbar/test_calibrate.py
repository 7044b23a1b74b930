from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import Target, analogize, calibrate
from analogize.crossbar.calibrate import Sample
from analogize.crossbar.ops import operators
from analogize.errors import CalibrationError

Make = Callable[..., Target]


@pytest.fixture
def percentile_target(make_target: Make) -> Target:
    converter = {"bits": 8}
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
        ([torch.ones(4, 5)], "DAC of region '0' saw the constant value 1"),
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


def test_a_sample_of_a_long_stream_is_uniform() -> None:
    """Each tenth of the stream gets its tenth of the sample, within the binomial error."""
    sample = Sample(capacity=5000)
    for part in range(10):
        sample.add(torch.full((2000,), float(part)))
    assert sample.seen == 20_000
    assert sample.kept.numel() == 5000
    counts = (
        sample.kept.bincount()
        if sample.kept.dtype == torch.long
        else torch.bincount(sample.kept.long(), minlength=10)
    )
    assert int((counts - 500).abs().max()) < 5 * (5000 * 0.1 * 0.9) ** 0.5 + 10


def test_a_short_stream_is_kept_whole() -> None:
    sample = Sample(capacity=100)
    parts = torch.randn(3, 30)
    for part in parts:
        sample.add(part)
    assert torch.equal(sample.kept, parts.flatten())
