from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from analogize import AnalogModule, Target, analogize, program, recalibrate
from analogize.errors import CalibrationError


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )


@pytest.fixture
def noisy(make_target: Callable[..., Target]) -> AnalogModule:
    noise = [{"model": "gaussian", "eta": 0.2}]
    target = make_target(weights={"range": {"kind": "absmax"}}, noise=noise)
    return analogize(network().eval(), target)


def norm_of(model: nn.Module) -> nn.BatchNorm2d:
    (norm,) = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return norm


def test_statistics_become_those_of_the_programmed_chip(noisy: AnalogModule) -> None:
    data = [torch.randn(16, 3, 8, 8) for _ in range(3)]
    program(noisy, 5)
    seen: list[Tensor] = []
    handle = norm_of(noisy).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    assert recalibrate(noisy, data) == 1
    handle.remove()
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    # float32 sums of 16 * 36 values of order 1.
    torch.testing.assert_close(norm_of(noisy).running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm_of(noisy).running_var, variances, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        noisy(data[0])  # The chip is still valid.


def test_labels_are_ignored_and_modes_kept(noisy: AnalogModule) -> None:
    x, y = torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64)
    program(noisy, 1)
    recalibrate(noisy, [(x, y)])
    first = norm_of(noisy).running_mean.clone()
    recalibrate(noisy, [x])
    assert torch.equal(first, norm_of(noisy).running_mean)
    assert norm_of(noisy).momentum == 0.1
    assert not any(m.training for m in noisy.modules())


def test_it_repairs_statistics_that_noise_has_moved(noisy: AnalogModule) -> None:
    """On a chip whose outputs shifted, normalised activations are centred again."""
    data = torch.randn(64, 3, 8, 8)
    program(noisy, 2)
    recalibrate(noisy, [data])
    outputs: list[Tensor] = []
    handle = norm_of(noisy).register_forward_hook(lambda _m, _a, y: outputs.append(y))
    with torch.no_grad():
        noisy(data)
    handle.remove()
    assert outputs[0].mean((0, 2, 3)).abs().max() < 1e-4


def test_bad_data_leave_the_statistics_alone(noisy: AnalogModule) -> None:
    before = norm_of(noisy).running_mean.clone()
    with pytest.raises(CalibrationError, match="no batch"):
        recalibrate(noisy, [])
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        recalibrate(noisy, [torch.full((2, 3, 8, 8), torch.nan)])
    assert torch.equal(before, norm_of(noisy).running_mean)
    assert norm_of(noisy).momentum == 0.1


def test_a_model_without_batchnorm_is_refused() -> None:
    with pytest.raises(CalibrationError, match="no BatchNorm"):
        recalibrate(nn.Linear(2, 2), [torch.zeros(1, 2)])
