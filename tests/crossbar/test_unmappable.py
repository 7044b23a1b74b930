"""Weights that give no range: digital and said so, refused, or warned about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
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


def weights(rule: str, bits: int | None = 8, grid: str = "affine", **more: Any) -> Target:
    kind = {"std": {"multiple": 2.0}, "fixed": {"min": -1.0, "max": 1.0}}.get(rule, {})
    said = {"range": {"kind": rule} | kind | more, "bits": bits, "grid": grid}
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


def test_ordinary_weights_are_told_nothing() -> None:
    for rule in ("std", "absmax", "minmax", "percentile", "mse"):
        analogize(nn.Linear(64, 64), weights(rule))
