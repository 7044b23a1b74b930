from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from analogize import (
    Adaptation,
    AnalogModule,
    Recalibration,
    Target,
    analogize,
    erase,
    evaluate,
    export_onnx,
    noise_mode,
    program,
    recalibrate,
)
from analogize.crossbar.ops import operators
from analogize.errors import CalibrationError


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )


def without_norm() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


@pytest.fixture
def noise(make_target: Callable[..., Target]) -> Target:
    models = [{"model": "gaussian", "eta": 0.2}]
    return make_target(weights={"range": {"kind": "absmax"}}, noise=models)


@pytest.fixture
def noisy(noise: Target) -> AnalogModule:
    return analogize(network().eval(), noise)


def norm_of(model: nn.Module) -> nn.BatchNorm2d:
    (norm,) = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return norm


def norm_inputs(model: nn.Module, data: list[Tensor]) -> Tensor:
    seen: list[Tensor] = []
    handle = norm_of(model).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        for x in data:
            model(x)
    handle.remove()
    return torch.cat(seen)


def test_statistics_become_those_of_the_programmed_chip(noisy: AnalogModule) -> None:
    data = [torch.randn(16, 3, 8, 8) for _ in range(3)]
    program(noisy, 5)
    x = norm_inputs(noisy, data)
    assert recalibrate(noisy, data, shrink=False) == 1
    norm = norm_of(noisy)
    # float32 sums of 48 * 36 values of order 1.
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    variance = x.var((0, 2, 3), correction=0)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        noisy(data[0])  # The chip is still valid.


def test_the_blend_by_hand(noisy: AnalogModule) -> None:
    """Of the shift of the means, the share that exceeds the scatter over images is believed."""
    data = [torch.randn(12, 3, 8, 8)]
    program(noisy, 5)
    x = norm_inputs(noisy, data).double()
    norm = norm_of(noisy)
    was_mean, was_variance = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr]
    recalibrate(noisy, data)
    each = x.mean((2, 3))
    shift = (each.mean(0) - was_mean) / was_variance.sqrt()
    scatter = each.var(0) / 12 / was_variance
    share = max(0.0, 1 - float(scatter.sum() / shift.square().sum()))
    assert 0 < share < 1
    expected = was_mean + share * (each.mean(0) - was_mean)
    torch.testing.assert_close(norm.running_mean.double(), expected, rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]


def test_labels_are_ignored_and_modes_kept(noise: Target) -> None:
    x, y = torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64)
    found = []
    for batch in ((x, y), x):
        torch.manual_seed(1)
        model = analogize(network().eval(), noise)
        program(model, 1)
        recalibrate(model, [batch])
        found.append(norm_of(model).running_mean)
        assert norm_of(model).momentum == 0.1
        assert not any(m.training for m in model.modules())
    assert torch.equal(*found)  # type: ignore[arg-type]


def test_it_repairs_statistics_that_noise_has_moved(noisy: AnalogModule) -> None:
    """On a chip whose outputs shifted, normalised activations are centred again."""
    data = torch.randn(64, 3, 8, 8)
    program(noisy, 2)
    recalibrate(noisy, [data], shrink=False)
    outputs: list[Tensor] = []
    handle = norm_of(noisy).register_forward_hook(lambda _m, _a, y: outputs.append(y))
    with torch.no_grad():
        noisy(data)
    handle.remove()
    assert outputs[0].mean((0, 2, 3)).abs().max() < 1e-4


def test_bad_data_leave_everything_alone(noisy: AnalogModule) -> None:
    before = norm_of(noisy).running_mean.clone()  # type: ignore[union-attr]
    program(noisy, 1)
    for teacher in (None, noisy):
        with pytest.raises(CalibrationError, match="no batch"):
            recalibrate(noisy, [], teacher)
        with pytest.raises(CalibrationError, match="NaN or infinite"):
            recalibrate(noisy, [torch.full((2, 3, 8, 8), torch.nan)], teacher)
        assert torch.equal(before, norm_of(noisy).running_mean)  # type: ignore[arg-type]
        assert all(op.side is None for op in operators(noisy))


def test_a_model_with_nothing_to_recalibrate_is_refused() -> None:
    with pytest.raises(CalibrationError, match="no BatchNorm"):
        recalibrate(nn.Linear(2, 2), [torch.zeros(1, 2)])
    with pytest.raises(CalibrationError, match="no analog operator"):
        recalibrate(nn.Linear(2, 2), [torch.zeros(1, 2)], nn.Linear(2, 2))


def test_a_teacher_of_another_architecture_is_refused(noise: Target) -> None:
    model = analogize(without_norm().eval(), noise)
    with pytest.raises(CalibrationError, match="has no parameter"):
        recalibrate(model, [torch.randn(2, 3, 8, 8)], nn.Sequential(nn.Linear(3, 3)))


def test_operators_get_the_teachers_mean_and_variance(noise: Target) -> None:
    """A student whose channels are scaled: matched, its scores are the teacher's."""
    teacher = without_norm().eval()
    student = without_norm().eval()
    student.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        student[0].weight *= torch.linspace(0.5, 2, 8).view(-1, 1, 1, 1)
        student[3].weight *= 1.5
    model = analogize(student, noise)
    data = [torch.randn(10, 3, 8, 8), torch.randn(6, 3, 8, 8)]
    with torch.no_grad(), noise_mode(model, "off"):
        assert recalibrate(model, data, teacher) == 2
        # float32 sums of 288 products.
        torch.testing.assert_close(model(data[0]), teacher(data[0]), rtol=1e-4, atol=1e-4)


def test_on_a_chip_outputs_have_the_noise_free_mean_and_variance(noise: Target) -> None:
    model = analogize(without_norm().eval(), noise)
    data = [torch.randn(64, 3, 8, 8)]
    program(model, 4)
    recalibrate(model, data, model, shrink=False)
    seen: dict[str, list[Tensor]] = {"off": [], "programmed": []}
    for mode in ("programmed", "off"):
        if mode == "off":
            for op in operators(model):
                op.side = None
        with torch.no_grad(), noise_mode(model, mode):  # type: ignore[arg-type]
            first = operators(model)[0]
            handle = first.register_forward_hook(lambda _o, _a, y, m=mode: seen[m].append(y))
            model(data[0])
            handle.remove()
    found, wanted = seen["programmed"][0], seen["off"][0]
    assert not torch.allclose(found, wanted, atol=1e-2)
    for moment in (torch.mean, torch.var):
        torch.testing.assert_close(
            moment(found, (0, 2, 3)), moment(wanted, (0, 2, 3)), rtol=1e-4, atol=1e-5
        )  # type: ignore[operator]


def test_without_noise_matching_to_itself_changes_nothing(noise: Target) -> None:
    model = analogize(without_norm().eval(), noise)
    x = torch.randn(8, 3, 8, 8)
    with torch.no_grad(), noise_mode(model, "off"):
        before = model(x)
        recalibrate(model, [x], model)
        torch.testing.assert_close(model(x), before, rtol=1e-6, atol=1e-6)


def test_operators_whose_outputs_batchnorm_takes_need_no_side(noise: Target) -> None:
    layers = nn.Conv2d(3, 8, 3, bias=False), *list(network())[1:]
    digital = nn.Sequential(*layers).eval()
    model = analogize(digital, noise)
    program(model, 1)
    assert recalibrate(model, [torch.randn(16, 3, 8, 8)], digital) == 2
    first, last = operators(model)
    assert first.side is None
    assert last.side is not None


@pytest.mark.parametrize("bias", [False, True])
def test_its_own_teacher_undoes_what_the_chip_does_whatever_the_images(
    noise: Target, bias: bool
) -> None:
    """The images are none that BatchNorm's statistics are of: that is not the chip's doing."""
    layers = nn.Conv2d(3, 8, 3, bias=bias), *list(network())[1:]
    model = analogize(nn.Sequential(*layers).eval(), noise)
    data = [3 + 2 * torch.randn(64, 3, 8, 8)]
    norm, (x,) = norm_of(model), data
    trained = norm.running_mean.clone(), norm.running_var.clone()  # type: ignore[union-attr]
    with torch.no_grad(), noise_mode(model, "off"):
        before = model(x)
        assert recalibrate(model, data, model) == 2
        torch.testing.assert_close(model(x), before, rtol=1e-6, atol=1e-6)
        wanted = norm_inputs(model, data)
    program(model, 2)
    changed = norm_inputs(model, data)
    for _ in range(2):  # A second time, on the same chip, changes nothing more.
        recalibrate(model, data, model)
        found = norm_inputs(model, data)
        for moment in (torch.mean, torch.var):
            right = moment(wanted, (0, 2, 3))  # type: ignore[operator]
            assert not torch.allclose(moment(changed, (0, 2, 3)), right, rtol=1e-2)  # type: ignore[operator]
            # Of 64 images, hardly any of the shift is put down to chance.
            torch.testing.assert_close(moment(found, (0, 2, 3)), right, rtol=1e-2, atol=1e-2)  # type: ignore[operator]
    assert torch.equal(norm.running_mean, trained[0])  # type: ignore[arg-type]
    assert torch.equal(norm.running_var, trained[1])  # type: ignore[arg-type]


def test_a_recalibrated_model_is_saved_and_exported(noise: Target, tmp_path: Path) -> None:
    model = analogize(without_norm().eval(), noise)
    x = torch.randn(16, 3, 8, 8)
    program(model, 1)
    recalibrate(model, [x], model)
    with torch.no_grad():
        expected = model(x)
    again = analogize(without_norm().eval(), noise)
    again.load_state_dict(model.state_dict())
    program(again, 1)
    with torch.no_grad():
        assert torch.equal(again(x), expected)
    export_onnx(model, tmp_path / "m.onnx", x, noise="programmed")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    # float32 sums of 288 products in another order.
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_evaluate_recalibrates_every_chip_from_what_was_trained(noisy: AnalogModule) -> None:
    data = [(torch.randn(32, 3, 8, 8), torch.randint(4, (32,)))]
    few = [torch.randn(24, 3, 8, 8)]
    state = {k: v.clone() for k, v in noisy.state_dict().items()}
    both = evaluate(
        noisy, data, score, instances=3, recalibration=Recalibration(few, noisy), progress=False
    )
    assert all(torch.equal(v, state[k]) for k, v in noisy.state_dict().items())
    for number in (2, 0):
        program(noisy, both.seeds[number])
        recalibrate(noisy, few, noisy)
        with torch.no_grad():
            alone = score(noisy(data[0][0]), data[0][1])
        assert float(alone) == pytest.approx(both.levels[0].values[number], rel=1e-5)
        noisy.load_state_dict(state, strict=False)
        for op in operators(noisy):
            op.side = None
    erase(noisy)


@pytest.mark.parametrize("make", [Recalibration, Adaptation])
@pytest.mark.parametrize("eta", [None, 0.0, 0.1])
def test_evaluate_on_a_device_has_the_model_itself_as_teacher(
    make_target: Callable[..., Target], make: Callable[..., Any], eta: float | None
) -> None:
    """It measures a copy there, which clips as the model does, at whatever level."""
    narrow = {"range": {"kind": "std", "multiple": 0.5}}
    target = make_target(weights=narrow, noise=[{"model": "gaussian", "eta": 0.2}])
    noisy = analogize(network().eval(), target)
    data = [(torch.randn(32, 3, 8, 8), torch.randint(4, (32,)))]
    few = [torch.randn(24, 3, 8, 8)]
    found = []
    for device in (None, "cpu"):
        run = {"instances": 2, "device": device, "progress": False}
        found.append(evaluate(noisy, data, score, eta, recalibration=make(few, noisy), **run))
    assert found[0].levels[0].values == found[1].levels[0].values


def test_a_teacher_of_equal_weights_on_another_target_is_another(
    make_target: Callable[..., Target],
) -> None:
    digital = without_norm().eval()
    narrow = make_target(weights={"range": {"kind": "std", "multiple": 0.5}})
    model, data = analogize(digital, narrow), [torch.randn(24, 3, 8, 8)]
    teachers = {"itself": model, "ideal": analogize(digital, "ideal"), "clean": digital}
    found: dict[str, Tensor] = {}
    for name, teacher in teachers.items():
        with torch.no_grad(), noise_mode(model, "off"):
            recalibrate(model, data, teacher, shrink=False)
            found[name] = model(data[0])
    # Clipping is not undone by what clips as well.
    torch.testing.assert_close(found["ideal"], found["clean"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found["itself"], found["clean"], rtol=1e-2, atol=1e-2)
    assert len({Recalibration(data, teacher).settings for teacher in teachers.values()}) == 3


def score(outputs: Tensor, _targets: Tensor) -> Tensor:
    """Depends on every chip and every statistic."""
    return outputs.abs().mean()


def test_two_parts_with_equal_names_inside_are_told_apart(noise: Target) -> None:
    model = nn.Sequential()
    for width in (3, 8):
        part = nn.Sequential(nn.Conv2d(width, 8, 3, padding=1), nn.ReLU()).eval()
        model.append(analogize(part, noise))
    program(model, 1)
    assert recalibrate(model, [torch.randn(16, 3, 8, 8)], model) == 2
    first, second = (op.side for op in operators(model))
    assert first is not None
    assert second is not None
    assert not torch.equal(first.scale, second.scale)


def test_sorted_data_are_mixed(noisy: AnalogModule) -> None:
    """Batches of one kind each give what batches of all kinds give."""
    program(noisy, 1)
    kinds = [torch.randn(16, 3, 8, 8) + shift for shift in (-2.0, 0.0, 2.0)]
    state = {k: v.clone() for k, v in noisy.state_dict().items()}
    found = []
    for data in (kinds, [torch.cat(kinds)[k::3] for k in range(3)]):
        noisy.load_state_dict(state)
        recalibrate(noisy, data)
        found.append(norm_of(noisy).running_mean)
    torch.testing.assert_close(*found)


def test_data_that_can_be_read_once_will_do(noisy: AnalogModule) -> None:
    program(noisy, 1)
    batches = (torch.randn(16, 3, 8, 8) for _ in range(2))
    assert recalibrate(noisy, batches, noisy) == 2
