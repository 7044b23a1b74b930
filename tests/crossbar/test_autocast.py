"""Evaluation and analyses under torch.autocast with bfloat16, on the processor."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, evaluate, regions
from analogize.analysis.drops import Drops
from analogize.analyze import bias_variance, sensitivity
from analogize.crossbar.calibrate import calibrate
from analogize.crossbar.ops import bypassed, operators

TARGETS = ["ideal", "pcm_4bit", "paper_resnet32", "pcm_joshi2020", "reram_wan2022"]
Batches = list[tuple[Tensor, Tensor]]


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Batches]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 4),
    )
    x = torch.randn(400, 1, 8, 8)
    y = F.avg_pool2d(x, 4).flatten(1).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), [(x[:200], y[:200]), (x[200:], y[200:])]


@pytest.mark.parametrize("target", TARGETS)
def test_chips_are_the_same_to_bfloat16(trained, target: str) -> None:
    model, data = trained
    analog = analogize(model, target, data)
    plain = evaluate(analog, data, instances=3, progress=False).levels[0]
    with autocast():
        cast = evaluate(analog, data, instances=3, progress=False).levels[0]
    # Accuracies of 400 images: bfloat16's 3 digits move the few that lie between two classes.
    assert cast.values == pytest.approx(plain.values, abs=0.03)
    assert plain.mean is not None
    assert plain.mean > 0.6


def test_the_digital_products_run_in_bfloat16_as_torch_runs_them(trained) -> None:
    model, data = trained
    x = data[0][0]
    analog = analogize(model, "ideal", data)
    seen = []
    with torch.no_grad(), autocast():
        expected, found = model(x), analog(x)
        with bypassed(analog, lambda op, x, y: seen.append(y.dtype)):
            passed = analog(x)
    assert found.dtype == passed.dtype == expected.dtype == torch.bfloat16
    assert set(seen) == {torch.bfloat16}
    # The bias is added after rounding the sum to bfloat16's 8 bits, not before.
    scale = float(expected.abs().max())
    for outputs in (found, passed):
        assert float((outputs - expected).abs().max()) < 8 * 2**-8 * scale


def test_calibration_and_analyses_work_within_it(trained) -> None:
    model, data = trained
    analog = analogize(model, "pcm_8bit", data)
    before = [op.adc.range.clone() for op in operators(analog)]
    with autocast():
        calibrate(analog, data, progress=False)
        loss = bias_variance(analog, data, eta=[0, 0.1], instances=4)
        costs = sensitivity(analog, data, instances=3, progress=False)
        drops = list(islice(Drops(analog, data, 0).series(["0"], 0), 2))
    for op, ends in zip(operators(analog), before, strict=True):
        torch.testing.assert_close(op.adc.range, ends, rtol=0.05, atol=0.05)
    assert loss.rows[1].variance.value > loss.rows[0].variance.value
    assert len(costs.rows) == 3
    assert all(row.estimate > 0 for row in costs.rows)
    assert all(abs(float(chip.mean())) < 0.1 for chip in drops)


def test_partial_sums_of_tiles_are_calibrated_within_it() -> None:
    # 600 inputs after another product, so in bfloat16, on tiles of 512 rows.
    model = nn.Sequential(nn.Linear(8, 600), nn.ReLU(), nn.Linear(600, 3)).eval()
    data = [(torch.randn(50, 8), torch.zeros(50, dtype=torch.long))]
    with autocast():
        analog = analogize(model, "pcm_joshi2020", data)
        level = evaluate(analog, data, instances=2, progress=False).levels[0]
    assert len(level.values) == 2
    plain = operators(analogize(model, "pcm_joshi2020", data))[1].adc.range
    torch.testing.assert_close(operators(analog)[1].adc.range, plain, rtol=0.02, atol=0.02)


def test_the_work_is_counted_under_autocast_too() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    with torch.autocast("cpu", torch.bfloat16):
        analog = analogize(model, "ideal", example_inputs=torch.randn(3, 8))

    assert [region.macs for region in regions(analog)] == [3 * 8 * 6, 3 * 6 * 4]
