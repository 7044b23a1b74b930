"""What a chip maker asks of a run: yield, the worst chip, intervals that cover."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import nn

from analogize import analogize, evaluate, program, read_chip
from analogize.crossbar.ops import operators
from analogize.errors import ChipError, EvaluationError
from analogize.evaluation.evaluation import Evaluation, Level
from analogize.evaluation.intervals import (
    binomial_interval,
    bounded_interval,
    spread_floor,
    stein_count,
    stein_interval,
    t_interval,
)

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
TRIALS = 200


def normal(random: np.random.Generator, count: int) -> Floats:
    return random.normal(0.9, 0.01, count)


def near_ceiling(random: np.random.Generator, count: int) -> Floats:
    """An accuracy on 355 images that few chips lose much of."""
    values: Floats = np.round(355 * np.minimum(0.992, 1 - random.gamma(0.6, 0.01, count))) / 355
    return values


def one_in_twenty_fails(random: np.random.Generator, count: int) -> Floats:
    failed = random.random(count) < 0.05
    values: Floats = np.where(
        failed, random.normal(0.5, 0.05, count), random.normal(0.95, 0.003, count)
    )
    return values


def coverage(draw: Draw, count: int) -> tuple[float, float]:
    """How often Student's and the bounded interval cover the mean."""
    truth = float(draw(np.random.default_rng(1), 10**6).mean())
    random, hits = np.random.default_rng(2), [0, 0]
    for _ in range(TRIALS):
        values = draw(random, count).tolist()
        for which, ends in enumerate((t_interval(values), bounded_interval(values, 0.0, 1.0))):
            assert ends is not None
            hits[which] += ends[0] <= truth <= ends[1]
    return hits[0] / TRIALS, hits[1] / TRIALS


@pytest.mark.parametrize("count", [3, 5, 10, 20, 50])
@pytest.mark.parametrize("draw", [normal, near_ceiling, one_in_twenty_fails])
def test_the_bounded_interval_covers_whatever_the_distribution(draw: Draw, count: int) -> None:
    students, bounded = coverage(draw, count)
    # 95 % of 200 trials less three standard errors of 1.5 %.
    assert bounded >= 0.95 - 3 * 0.0154
    if draw is normal:
        assert students == pytest.approx(0.95, abs=3 * 0.0154)
    elif count <= 10:
        # What `doubt` warns of.
        assert students < 0.85


def test_what_student_misses_is_said() -> None:
    random, warned = np.random.default_rng(3), 0
    for _ in range(20):
        warned += Level(eta=None, values=tuple(one_in_twenty_fails(random, 50))).doubt is not None
    # 50 chips with a failure among them, 92 % of the times, are skewed; those without are not.
    assert warned >= 14
    assert Level(eta=None, values=tuple(normal(random, 50))).doubt is None
    few = Level(eta=None, values=tuple(normal(random, 10))).doubt
    assert few is not None
    assert "10 chips" in few


@pytest.mark.parametrize("chips", [1, 4, 20])
def test_the_bounded_interval_of_yes_and_no_is_clopper_and_pearsons(chips: int) -> None:
    for hits in range(0, chips + 1, max(1, chips // 4)):
        exact = binomial_interval(hits, chips)
        values = [1.0] * hits + [0.0] * (chips - hits)
        # Quantiles of 20 000 draws: a standard error of 0.0025 or less.
        assert bounded_interval(values, 0.0, 1.0) == pytest.approx(exact, abs=0.012)


def test_clopper_and_pearsons_interval_is_scipys() -> None:
    for hits, count in ((0, 5), (3, 5), (5, 5), (47, 50)):
        theirs = stats.binomtest(hits, count).proportion_ci(0.95, "exact")
        assert binomial_interval(hits, count) == pytest.approx((theirs.low, theirs.high))


def test_yield_quantiles_and_the_worst_chip() -> None:
    level = Level(eta=None, values=(0.9, 0.8, 0.95, 0.7))
    found = level.yield_above(0.8)

    assert (found.passed, found.chips, found.share) == (3, 4, 0.75)
    assert found.interval == binomial_interval(3, 4)
    assert level.yield_below(0.8).passed == 2
    assert (level.lowest, level.highest) == (0.7, 0.95)
    assert level.quantile(0) == 0.7
    assert level.quantile(0.5) == pytest.approx(0.85)
    assert "3 of 4 chips reach 0.8: 75.0%" in str(found)
    with pytest.raises(EvaluationError, match="from 0 to 1"):
        level.quantile(5)
    with pytest.raises(EvaluationError, match="finite number"):
        level.yield_above(float("nan"))
    with pytest.raises(EvaluationError, match="no chip was measured"):
        Level(eta=None).quantile(0.5)


def test_chips_that_agree_leave_a_width() -> None:
    agreeing = Level(eta=None, values=(0.99,) * 3, resolution=0.004)
    low, high = agreeing.interval or (0, 0)
    # 1 - 0.05^(1/3) = 0.63 of the chips may differ: taken at 0.5, of one step.
    half = stats.t.ppf(0.975, 2) * 0.002 / 3**0.5
    assert (low, high) == pytest.approx((0.99 - half, 0.99 + half))
    assert spread_floor(20, 0.004) == pytest.approx(0.004 * (0.139 * 0.861) ** 0.5, rel=1e-2)
    assert Level(eta=None, values=(0.99,) * 3, deterministic=True).interval == (0.99, 0.99)


def test_a_pilot_that_agrees_does_not_stop_at_once() -> None:
    """Of accuracies on 251 images of which few chips lose one: the interval covers as promised."""
    step, share, precision = 1 / 251, 0.15, 0.001
    truth, random, covered = 1 - share * step, np.random.default_rng(0), 0
    for _ in range(500):
        values = (1 - step * (random.random(2000) < share)).tolist()
        floor = spread_floor(5, step)
        count = stein_count(values[:5], precision, floor=floor)
        low, high = stein_interval(values[:count], 5, floor=floor)
        covered += low <= truth <= high
        assert high - low <= 2 * precision * 1.0001
    assert covered / 500 >= 0.93


@pytest.fixture
def measured() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    layer, x = nn.Linear(20, 4), torch.randn(50, 20)
    batches = [(x, layer(x).argmax(1))]
    return analogize(layer.eval(), "reram_milo2021", batches), batches


def test_accuracy_knows_its_bounds_and_its_step(measured, tmp_path: Path) -> None:
    model, batches = measured
    file = tmp_path / "run.json"
    result = evaluate(model, batches, instances=4, progress=False, resume=file)
    (level,) = result.levels

    assert level.bounds == (0.0, 1.0)
    assert level.resolution == 1 / 50
    assert level.bounded_interval is not None
    assert "the intervals take values for normal: 4 chips" in str(result)
    assert Evaluation.load(file) == result
    again = evaluate(model, batches, instances=4, progress=False, resume=file)
    assert again == result
    assert result.yield_above(0.5)[0].chips == 4


def test_given_chips_are_measured_beside_drawn_ones(measured) -> None:
    model, batches = measured
    drawn = evaluate(model, batches, instances=3, progress=False)
    chips = []
    for seed in drawn.seeds:
        program(model, seed)
        chips.append(read_chip(model, name=f"wafer {len(chips)}"))
    (before,) = chips[-1].arrays.values()

    both = evaluate(model, batches, instances=3, progress=False, chips=chips)

    assert both.levels == drawn.levels
    assert tuple(chip.value for chip in both.given) == drawn.levels[0].values
    assert "given chip wafer 2: " in str(both)
    # The chip that was programmed before is there again, and what it was made of.
    (op,) = operators(model)
    assert op.array.chip is not None
    (now,) = read_chip(model).arrays.values()
    assert np.array_equal(now.conductances, before.conductances)
    other = analogize(nn.Sequential(nn.Linear(20, 4)), "reram_milo2021", batches)
    with pytest.raises(ChipError, match="the chip holds the region"):
        evaluate(other, batches, instances=1, progress=False, chips=chips)


@pytest.mark.parametrize("chips", [1, 5, 50])
def test_the_floor_is_what_chips_that_agree_cannot_exclude(chips: int) -> None:
    """A share p of others, none of them seen with probability (1 - p)^chips = 5 %, one step off."""
    share = min(0.5, 1 - 0.05 ** (1 / chips))
    assert (1 - share) ** chips == pytest.approx(0.05) or share == 0.5
    expected = 0.01 * np.sqrt(share * (1 - share))
    assert spread_floor(chips, 0.01) == pytest.approx(expected)
    assert spread_floor(chips, None) == 0


def test_the_bounded_interval_of_equal_values_is_known() -> None:
    """Of n draws of v the lower end is v - (v - least) b, b the quantile of a Beta(1, n)."""
    b = stats.beta.ppf(0.975, 1, 5)
    low, high = bounded_interval([0.5] * 5, -1.0, 2.0)
    # The quantile of 20,000 draws is known to sqrt(0.975 0.025 / 20,000) over the density there.
    allowed = 5 * 1.5 * np.sqrt(0.975 * 0.025 / 20_000) / stats.beta.pdf(b, 1, 5)
    assert low == pytest.approx(0.5 - 1.5 * b, abs=allowed)
    assert high == pytest.approx(0.5 + 1.5 * b, abs=allowed)
