"""What a state dict brings into a rewritten model, and what it may not change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from analogize import Target, analogize, calibrate, noise_mode, program, renew_ranges
from analogize.crossbar.ops import operators
from analogize.errors import ChipError, PassError, SavingError

Make = Callable[..., Target]
X = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


def net(scale: float = 1.0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def output(model: nn.Module) -> Tensor:
    with torch.no_grad(), noise_mode(model, "off"):
        return model(X)  # type: ignore[no-any-return]


def unsigned(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict as it was before it told its target."""
    return {k: v for k, v in state.items() if not k.endswith("target_digest")}


@pytest.mark.parametrize("target", ["pcm_joshi2020", "reram_milo2021", "pcm_8bit"])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("capture", ["fx", "hierarchical"])
def test_a_digital_state_dict_gets_the_ranges_of_its_own_weights(
    target: str, assign: bool, capture: Any
) -> None:
    trained = net(5.0)
    analog = analogize(net(), target, [X], capture=capture)
    analog.load_state_dict(copy.deepcopy(trained.state_dict()), assign=assign)
    calibrate(analog, [X], progress=False)
    assert torch.equal(output(analog), output(analogize(trained, target, [X], capture=capture)))


def test_in_a_bigger_module_and_in_part() -> None:
    trained, analog = net(5.0), analogize(net(), "paper_resnet32")
    whole = nn.ModuleDict({"stem": nn.Linear(8, 8), "body": analog})
    before = [op.array.range.clone() for op in operators(whole)]
    state = {f"body.{k}": v for k, v in trained.state_dict().items() if k.startswith("2")}
    whole.load_state_dict(state, strict=False)
    first, second = (op.array.range for op in operators(whole))
    assert torch.equal(first, before[0])
    assert torch.equal(second, operators(analogize(trained, "paper_resnet32"))[1].array.range)


def test_equal_weights_change_nothing(quantized: Make) -> None:
    model = net()
    analog = analogize(model, quantized(8), [X])
    with torch.no_grad():
        operators(analog)[0].array.range.mul_(0.5)
    before = copy.deepcopy(analog.state_dict())
    analog.load_state_dict(model.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in analog.state_dict().items())


def test_computed_weights_find_their_range_at_first_use() -> None:
    torch.manual_seed(4)
    trained = nn.Sequential(weight_norm(nn.Linear(8, 8))).eval()
    with torch.no_grad():
        trained[0].parametrizations.weight.original0.mul_(5)
    analog = analogize(nn.Sequential(weight_norm(nn.Linear(8, 8))), "paper_resnet32").eval()
    analog.load_state_dict(trained.state_dict())
    assert torch.equal(output(analog), output(analogize(trained, "paper_resnet32")))


def fixed(name: str) -> Target:
    ends = {"kind": "fixed", "min": -1.0, "max": 1.0}
    return Target.model_validate(
        {
            "name": name,
            "weights": {"range": {**ends, "min": -2.0, "max": 2.0}},
            "dac": {"bits": 8, "range": ends},
            "adc": {"bits": 8, "range": ends},
        }
    )


def found(name: str, **weights: Any) -> Target:
    stages = {"bits": 8, "range": {"kind": "percentile"}}
    weights = {"range": {"kind": "std", "multiple": 2.0}} | weights
    return Target.model_validate({"name": name, "weights": weights, "dac": stages, "adc": stages})


@pytest.mark.parametrize("signed", [True, False])
def test_another_targets_state_dict_is_refused_and_changes_nothing(signed: bool) -> None:
    model = net()
    state: Any = analogize(model, found("A"), [X]).state_dict()
    if not signed:
        # Without what tells the target, ranges that are fixed tell all the same.
        state = unsigned(state)
    analog = analogize(net(), fixed("B"))
    before = copy.deepcopy(analog.state_dict())
    match = "target 'A'.*region '0'.*'B'" if signed else r"'0\.analog\..*range'.*'B' fixes it at"
    with pytest.raises(SavingError, match=rf"{match}.*digital_state"):
        analog.load_state_dict(state)
    assert all(torch.equal(v, before[k]) for k, v in analog.state_dict().items())
    analog.load_state_dict({k: v for k, v in state.items() if "analog" not in k})
    assert torch.equal(output(analog), output(analogize(model, fixed("B"))))


def test_the_target_survives_formats_without_metadata(tmp_path: Path, quantized: Make) -> None:
    """The two differ in noise alone, so that every entry of the one would fit the other."""
    a, b = (analogize(net(), quantized(8, eta), [X]) for eta in (0.02, 0.03))
    save_file(a.state_dict(), tmp_path / "a.safetensors")
    before = copy.deepcopy(b.state_dict())

    with pytest.raises(SavingError, match=r"another target.*region '0'.*digital_state"):
        b.load_state_dict(load_file(tmp_path / "a.safetensors"))

    assert all(torch.equal(b.state_dict()[k], v) for k, v in before.items())
    c = analogize(net(2.0), quantized(8, 0.02), [X])
    c.load_state_dict(load_file(tmp_path / "a.safetensors"))
    assert torch.equal(output(c), output(a))


def test_ranges_of_another_form_are_refused_by_key_and_target() -> None:
    model = net()
    state = unsigned(analogize(model, found("A"), [X]).state_dict())
    other = analogize(model, found("C", granularity="channel"), [X])
    with pytest.raises(SavingError, match=r"'0\.analog\.array\.range'.*'C' gives this range"):
        other.load_state_dict(state)


def test_the_same_target_under_another_name_loads() -> None:
    model = net()
    state = analogize(model, found("A"), [X]).state_dict()
    again = analogize(net(), found("B"), [X])
    again.load_state_dict(state)
    assert torch.equal(output(again), output(analogize(model, found("A"), [X])))


def test_ranges_are_renewed_on_request() -> None:
    analog = analogize(net(), "paper_resnet32").eval()
    program(analog, 0)
    with torch.no_grad():
        for parameter in analog.parameters():
            parameter.mul_(3)
    before = [op.array.range.clone() for op in operators(analog)]
    renew_ranges(nn.Sequential(analog))
    for op, ends in zip(operators(analog), before, strict=True):
        torch.testing.assert_close(op.array.range, 3 * ends)
        assert op.array.chip is None


def test_renewing_is_all_or_nothing() -> None:
    analog = analogize(net(), "paper_resnet32")
    before = [op.array.range.clone() for op in operators(analog)]
    with torch.no_grad():
        analog.get_parameter("0.weight").mul_(3)
        analog.get_parameter("2.weight").fill_(torch.nan)
    with pytest.raises(PassError, match="region '2'"):
        renew_ranges(analog)
    assert all(map(torch.equal, before, [op.array.range for op in operators(analog)]))
    with pytest.raises(ChipError, match="no analog operator"):
        renew_ranges(nn.Linear(2, 2))


def test_fixed_ranges_are_not_renewed() -> None:
    analog = analogize(net(), fixed("B"))
    renew_ranges(analog)
    assert operators(analog)[0].array.range.tolist() == [-2.0, 2.0]


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_an_averaged_model_still_tells_its_target(kind: str) -> None:
    model = analogize(nn.Sequential(nn.Linear(4, 4)), "pcm_4bit", [torch.randn(8, 4)])
    average = get_ema_multi_avg_fn(0.9) if kind == "ema" else None
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    for _ in range(20):
        averaged.update_parameters(model)
    model.load_state_dict(averaged.module.state_dict())  # is not taken for another target's
    other = analogize(nn.Sequential(nn.Linear(4, 4)), "pcm_8bit", [torch.randn(8, 4)])
    with pytest.raises(SavingError, match="another target"):
        other.load_state_dict(dict(averaged.module.state_dict()))
