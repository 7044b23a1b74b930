"""Weights that give no range: digital and said so, refused, or warned about."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from analogize import Target, analogize, noise_mode, summary
from analogize.crossbar.ops import operators
from analogize.errors import CaptureError, PassError

Make = Callable[..., Target]
X = torch.rand(64, 8, generator=torch.Generator().manual_seed(1))


def layer(weight: Tensor) -> nn.Sequential:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.data = weight
    return nn.Sequential(linear, nn.Linear(weight.shape[0], 4)).eval()


def weights(
    rule: str,
    bits: int | None = 8,
    grid: str = "affine",
    granularity: str = "tensor",
    **more: Any,
) -> Target:
    kind = {"std": {"multiple": 2.0}, "fixed": {"min": -1.0, "max": 1.0}}.get(rule, {})
    said = {"range": {"kind": rule} | kind | more, "bits": bits, "grid": grid}
    said["granularity"] = granularity
    return Target.model_validate({"name": "t", "weights": said})


class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.down = nn.Linear(8, 5), nn.Linear(8, 2, bias=False)
        self.up = nn.Linear(2, 5, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("capture", ["auto", "fx", "hierarchical"])
@pytest.mark.parametrize("rule", ["std", "absmax", "minmax", "percentile", "mse"])
def test_zeros_stay_digital_beside_analog_regions(capture: Any, rule: str) -> None:
    model = LoRA().eval()
    analog = analogize(model, weights(rule), example_inputs=X, capture=capture)
    assert [op.region.name for op in operators(analog)] == ["base", "down"]
    assert [op.region.index for op in operators(analog)] == [0, 1]
    (left,) = summary(analog).digital
    assert left.name == "up"
    assert "all zero" in left.reason
    with torch.no_grad():
        analog.get_parameter("up.weight").add_(1)
        model.up.weight.add_(1)
        with noise_mode(analog, "off"):
            torch.testing.assert_close(analog(X), model(X), rtol=0.1, atol=0.1)


def test_zeros_have_a_range_where_the_target_fixes_one() -> None:
    analog = analogize(LoRA(), weights("fixed"), example_inputs=X)
    assert len(operators(analog)) == 3


@pytest.mark.parametrize("rule", ["std", "absmax", "minmax", "percentile", "mse"])
def test_weights_below_what_float32_can_step_through_stay_digital(rule: str) -> None:
    model = layer(1e-44 * torch.randn(8, 8).sign())
    analog = analogize(model, weights(rule), example_inputs=X)
    assert [op.region.name for op in operators(analog)] == ["1"]
    assert "at most" in summary(analog).digital[0].reason
    assert bool(torch.isfinite(analog(X)).all())


RULES = ["std", "absmax", "minmax", "percentile", "mse", "fixed"]


@pytest.mark.filterwarnings("ignore:.*lie outside of their range")
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 3e-31, 3e-30, 1e-25, 1e-20, 1e15, 1e30])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("rule", RULES)
def test_weights_of_any_size_are_held_or_told(rule: str, granularity: str, scale: float) -> None:
    """All of a layer, and one column of it beside ordinary ones."""
    torch.manual_seed(0)
    for whole in (True, False):
        model = layer(torch.randn(8, 8))
        model[0].bias.data.zero_()
        model[0].weight.data[slice(None) if whole else 0] *= scale
        said = {"min": -4 * scale, "max": 4 * scale} if whole and rule == "fixed" else {}
        target = weights(rule, 8, granularity=granularity, **said)
        if whole and rule == "fixed" and scale < 2e-31:
            with pytest.raises(PassError, match="W_min must be below W_max"):
                analogize(model, target, example_inputs=X)
            continue
        analog = analogize(model, target, example_inputs=X)
        y, expected = analog[0](X), model[0](X)
        assert bool(torch.isfinite(y).all())
        if "0" not in [d.name for d in summary(analog).digital] and rule not in ("fixed", "std"):
            # A column much smaller than the range is a zero in it.
            limit = 0.05 * float(expected.detach().abs().max())
            torch.testing.assert_close(y, expected, rtol=0, atol=limit)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 0), (0, 5)])
@pytest.mark.parametrize("capture", ["fx", "hierarchical"])
def test_layers_without_weights_stay_digital(inputs: int, outputs: int, capture: Any) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.some, self.none = nn.Linear(8, 8), nn.Linear(inputs, outputs)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.some(x), self.none(x[:, :inputs])

    model = Both().eval()
    analog = analogize(model, "ideal", example_inputs=X, capture=capture)
    assert [op.region.name for op in operators(analog)] == ["some"]
    assert "no element" in summary(analog).digital[0].reason
    assert analog(X)[1].shape == (64, outputs)
    with pytest.raises(CaptureError, match="no element"):
        analogize(nn.Sequential(nn.Linear(inputs, outputs)), "ideal", example_inputs=X[:, :inputs])


@pytest.mark.parametrize("rule", ["std", "percentile", "minmax"])
@pytest.mark.parametrize("value", [0.4, 1 / 9, 0.1, -3e5, 1e-6])
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (4, 9), (16, 8)])
def test_constants_are_refused_whatever_their_rounding(
    rule: str, value: float, shape: tuple[int, int]
) -> None:
    linear = nn.Linear(shape[1], shape[0], bias=False)
    linear.weight.data.fill_(value)
    # One last place up or down is no range either.
    linear.weight.data[0, 0] = torch.nextafter(torch.tensor(value), torch.tensor(torch.inf))
    with pytest.raises(PassError, match=r"region 'weight'.*W_min must be below W_max"):
        analogize(linear, weights(rule))


def test_a_channel_of_one_value_takes_the_layers_range() -> None:
    linear = nn.Linear(8, 3, bias=False)
    linear.weight.data[1] = 0.1
    said = {"range": {"kind": "std", "multiple": 2.0}, "granularity": "channel"}
    target = Target.model_validate({"name": "t", "weights": said})
    (op,) = operators(analogize(linear, target))
    half = 2 * float(linear.weight.detach().std(correction=0))
    assert op.array.range[:, 1].tolist() == pytest.approx([-half, half])


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_weights_around_a_far_mean_are_told_with_their_share(granularity: str) -> None:
    far = nn.Linear(8, 16, bias=False)
    far.weight.data = 1 + 0.02 * torch.randn(16, 8)
    for rule in ({"kind": "std", "multiple": 2.0}, {"kind": "fixed", "min": -0.1, "max": 0.1}):
        said = {"range": rule, "granularity": granularity}
        target = Target.model_validate({"name": "t", "weights": said})
        with pytest.warns(UserWarning, match=r"region 'weight': 100% of the weights.*absmax"):
            analogize(far, target)


def test_weights_halfway_between_codes_are_told() -> None:
    """Of ±c, the deviation is c, the range ±2c, and with 3 bits around zero c is step 1.5."""
    signs = nn.Linear(8, 16, bias=False)
    signs.weight.data = 0.3 * torch.tensor([1.0, -1.0]).repeat(16, 4)
    with pytest.warns(UserWarning, match=r"100% of the weights lie halfway.*3 bits"):
        analogize(signs, weights("std", 3, "symmetric"))
    analogize(signs, weights("std", 3))


def verdict(weight: Tensor, target: Target) -> str:
    """Refused, told, or nothing."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight.dtype)
    linear.weight.data = weight
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            analogize(linear, target)
        except (PassError, CaptureError):
            return "refused"
    return "told" if told else "nothing"


@settings(max_examples=60)
@given(
    st.sampled_from(RULES),
    st.sampled_from(["tensor", "channel"]),
    st.floats(1e-3, 1e3),
    st.sampled_from(["constant", "signs", "far", "normal"]),
    st.integers(0, 99),
)
def test_rounding_errors_do_not_change_the_verdict(
    rule: str, granularity: str, size: float, kind: str, seed: int
) -> None:
    """A unit in the last place of float32, up or down, in float32 and in float64."""
    random = torch.Generator().manual_seed(seed)
    normal = torch.randn(6, 8, generator=random, dtype=torch.float64)
    exact = {
        "constant": torch.ones_like(normal),
        "signs": normal.sign(),
        "far": 1 + 0.02 * normal,
        "normal": normal,
    }[kind] * size
    single = exact.float()
    ends = torch.tensor([torch.inf, -torch.inf])[torch.randint(2, (6, 8), generator=random)]
    moved = torch.nextafter(single, ends)
    said = {"min": -size, "max": size} if rule == "fixed" else {}
    target = weights(rule, 8, granularity=granularity, **said)
    verdicts = [verdict(w, target) for w in (exact, single, moved, moved.double())]
    assert len(set(verdicts)) == 1, verdicts
    if kind == "normal" and rule != "fixed":
        assert verdicts[0] == "nothing"
    if kind == "far" and rule == "std":
        assert verdicts[0] == "told"


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_pruned_weights_have_the_range_of_their_extremes(granularity: str) -> None:
    pruned = nn.Linear(2000, 3, bias=False)
    pruned.weight.data.zero_()
    pruned.weight.data[:, 0] = torch.tensor([1.0, -2.0, 3.0])
    with pytest.warns(UserWarning, match=r"region 'weight': the percentiles .* coincide"):
        (op,) = operators(analogize(pruned, weights("percentile", granularity=granularity)))
    low, high = op.array.range.reshape(2, -1)
    assert [low.min().item(), high.max().item()] == [-2.0, 3.0]


def test_ordinary_weights_are_told_nothing() -> None:
    for rule in ("std", "absmax", "minmax", "percentile", "mse"):
        analogize(nn.Linear(64, 64), weights(rule))
