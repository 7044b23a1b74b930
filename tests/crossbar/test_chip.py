from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from analogize import (
    Target,
    analogize,
    clip_weights,
    erase,
    noise_level,
    noise_mode,
    program,
    regions,
)
from analogize.crossbar.ops import operators
from analogize.crossbar.seeds import region_seed
from analogize.devices.random import chip_draw
from analogize.errors import ChipError
from analogize.model.module import AnalogModule

Make = Callable[..., Target]


class Two(nn.Module):
    """Two layers and a convolution, called in the order that ``reverse`` says."""

    def __init__(self, reverse: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        names = ["a", "b"]
        layers = {name: nn.Linear(6, 6) for name in names}
        for name in reversed(names) if reverse else names:
            setattr(self, name, layers[name])
        self.order = names

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())  # type: ignore[no-any-return]


def chips(model: nn.Module) -> dict[str, Tensor]:
    return {op.region.name: op.array.chip for op in operators(model) if op.array.chip is not None}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_papers_noise_on_a_resnet() -> None:
    """sigma_N = eta (W_max - W_min) in every layer of ResNet-18, equation 8."""
    analog = analogize(torchvision.models.resnet18(), target="paper_resnet50")
    program(analog, seed=0)
    for op in operators(analog):
        low, high = op.array.range.tolist()
        weight = analog.get_parameter(op.region.weight).detach()
        deviation = op.array.chip - weight.clamp(low, high)  # type: ignore[operator]
        count = deviation.numel()
        sigma = 0.04 * (high - low)
        assert deviation.std().item() == pytest.approx(sigma, rel=5 / (2 * count) ** 0.5)
        assert abs(deviation.mean().item()) < 5 * sigma / count**0.5
        assert high == pytest.approx(2 * weight.std(correction=0).item(), rel=1e-5)
        assert low == -high


def test_a_seed_is_a_chip() -> None:
    analog = analogize(Two(), "paper_resnet32")
    program(analog, 7)
    first = {k: v.clone() for k, v in chips(analog).items()}
    program(analog, 8)
    assert not torch.equal(chips(analog)["a"], first["a"])
    program(analog, 7)
    assert same(chips(analog), first)
    assert not torch.equal(first["a"] - first["a"].mean(), first["b"] - first["b"].mean())


def test_the_order_of_layers_does_not_matter() -> None:
    forth, back = analogize(Two(), "paper_resnet32"), analogize(Two(True), "paper_resnet32")
    program(forth, 3)
    program(back, 3)
    assert list(dict(forth.named_parameters())) != list(dict(back.named_parameters()))
    assert same(chips(forth), chips(back))


def test_another_process_makes_the_same_chip() -> None:
    code = (
        "import torch, io, sys; from torch import nn; from analogize import analogize, program\n"
        "from analogize.crossbar.ops import operators\n"
        "torch.manual_seed(5); torch.rand(3)\n"
        "m = nn.Sequential(nn.Linear(3, 2, bias=False))\n"
        "with torch.no_grad(): m[0].weight.copy_(torch.arange(6.).view(2, 3))\n"
        "a = analogize(m, 'paper_resnet32'); program(a, 11)\n"
        "print(operators(a)[0].array.chip.double().flatten().tolist())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for _ in range(2)
    ]
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.arange(6.0).view(2, 3))
    analog = analogize(model, "paper_resnet32")
    program(analog, 11)
    here = operators(analog)[0].array.chip.double().flatten().tolist()  # type: ignore[union-attr]
    assert runs == [str(here)] * 2


def test_saved_and_loaded_models_make_the_same_chip(quantized: Make) -> None:
    data = [torch.randn(32, 6)]
    analog = analogize(Two(), quantized(8, eta=0.1), data).eval()
    program(analog, 4)
    expected = analog(data[0])
    stream = io.BytesIO()
    torch.save(analog.state_dict(), stream)
    stream.seek(0)
    torch.manual_seed(99)
    other = Two()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    loaded = analogize(other, quantized(8, eta=0.1)).eval()
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    program(loaded, 4)
    assert torch.equal(loaded(data[0]), expected)


def through_pickle(model: AnalogModule) -> AnalogModule:
    copied: AnalogModule = pickle.loads(pickle.dumps(model))
    return copied


def through_file(model: AnalogModule) -> AnalogModule:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    loaded: AnalogModule = torch.load(stream, weights_only=False)
    return loaded


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_file])
def test_copies_keep_their_chip_and_are_independent(
    quantized: Make, duplicate: Callable[[AnalogModule], AnalogModule]
) -> None:
    x = torch.randn(32, 6)
    analog = analogize(Two(), quantized(8, eta=0.1), [x]).eval()
    program(analog, 4)
    expected = analog(x)
    twin = duplicate(analog)
    assert torch.equal(twin(x), expected)
    assert list(twin.state_dict()) == list(analog.state_dict())
    with torch.no_grad():
        twin.get_parameter("a.weight").zero_()
    program(twin, 5)
    assert torch.equal(analog(x), expected)
    assert not torch.equal(twin(x), expected)
    assert regions(twin) == regions(analog)


def test_a_stale_chip_is_refused() -> None:
    analog = analogize(Two(), "paper_resnet32").eval()
    x = torch.randn(2, 6)
    program(analog, 0)
    analog(x)
    with torch.no_grad():
        analog.get_parameter("b.weight").mul_(2)
    with pytest.raises(ChipError, match=r"region 'b'.*program"):
        analog(x)
    program(analog, 0)
    analog(x)


def test_loading_weights_erases_the_chip() -> None:
    analog = analogize(Two(), "paper_resnet32").eval()
    program(analog, 0)
    analog.load_state_dict(analog.state_dict())
    assert not chips(analog)


def test_modes_nest_and_are_restored() -> None:
    analog = analogize(Two(), "paper_resnet32").eval()
    x = torch.randn(2, 6)
    program(analog, 0)
    chip = analog(x)
    with noise_mode(analog, "fresh"):
        assert not torch.equal(analog(x), chip)
        with noise_mode(analog, "off"):
            assert torch.equal(analog(x), analog(x))
        assert not torch.equal(analog(x), analog(x))
    assert torch.equal(analog(x), chip)
    analog.train()
    assert not torch.equal(analog(x), analog(x))
    with noise_mode(analog, "programmed"):
        assert torch.equal(analog(x), chip)
    erase(analog.eval())
    assert not torch.equal(analog(x), analog(x))


def test_programmed_without_a_chip_is_refused() -> None:
    analog = analogize(Two(), "paper_resnet32")
    with noise_mode(analog, "programmed"), pytest.raises(ChipError, match=r"region 'a'.*program"):
        analog(torch.zeros(1, 6))


def test_unknown_modes_are_refused() -> None:
    analog = analogize(Two(), "ideal")
    with (
        pytest.raises(ChipError, match=r"'frsh'.*'fresh'"),
        noise_mode(analog, "frsh"),  # type: ignore[arg-type]
    ):
        pass


def test_levels_scale_the_same_draw() -> None:
    analog = analogize(Two(), "paper_resnet32")
    deviations = []
    for eta in (0.02, 0.04):
        with noise_level(analog, eta):
            program(analog, 0)
        op = operators(analog)[0]
        clean = op.array.clean(analog.get_parameter("a.weight").detach())
        deviations.append(op.array.chip - clean)  # type: ignore[operator]
    # The chip holds weight plus deviation, rounded to the weight's last place.
    torch.testing.assert_close(deviations[1], 2 * deviations[0], rtol=1e-4, atol=1e-7)
    with noise_level(analog, 0.0):
        program(analog, 0)
        assert torch.equal(chips(analog)["a"], clean)


def test_levels_need_one_noise_model(make_target: Make) -> None:
    silent = analogize(Two(), "ideal")
    with noise_level(silent, 0.0):
        pass
    with pytest.raises(ChipError, match=r"region 'a': a level of 0\.1 .*\(none\)"):
        noise_level(silent, 0.1).__enter__()
    with pytest.raises(ChipError, match="at least 0"):
        noise_level(silent, -0.1).__enter__()


def test_digital_models_are_refused() -> None:
    with pytest.raises(ChipError, match=r"Linear has no analog operator.*analogize"):
        program(nn.Linear(2, 2), 0)


def test_clipping_projects_into_the_range() -> None:
    analog = analogize(Two(), "paper_resnet32")
    before = analog.get_parameter("a.weight").detach().clone()
    outside = 0
    for op in operators(analog):
        weight = analog.get_parameter(op.region.weight)
        nn.init.normal_(weight, std=float(weight.detach().std()))
        low, high = op.array.range.tolist()
        outside += int(((weight < low) | (weight > high)).sum())
    assert clip_weights(analog) == outside > 0
    assert clip_weights(analog) == 0
    for op in operators(analog):
        weight = analog.get_parameter(op.region.weight)
        low, high = op.array.range.tolist()
        assert low <= weight.min().item()
        assert weight.max().item() <= high
    assert not torch.equal(before, analog.get_parameter("a.weight"))


def test_a_chip_without_noise_has_memory_of_its_own() -> None:
    (op,) = operators(analogize(nn.Linear(6, 6), "ideal"))
    weight = torch.randn(6, 6) / 100

    chip = op.array.draw(weight, 0)
    before = chip.clone()
    weight.zero_()

    assert torch.equal(chip, before)
    assert bool(chip.any())


def test_every_cycle_is_another_draw_and_the_first_is_seeded_as_ever(make_target: Make) -> None:
    """A chip that was published by its seed stays the same: cycle 0 is the bare region's."""
    model = analogize(Two(), make_target(noise=[{"model": "fixed_snr", "ratio": 0.5}]))
    op = operators(model)[0]
    chips = []
    for cycle in range(3):
        program(model, 5, cycle=cycle)
        assert op.array.chip is not None
        chips.append(op.array.chip.clone())
    assert not any(chips[i].equal(chips[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    weight = op.stored.value().detach()
    own = torch.Generator().manual_seed(region_seed(5, op.region.name))
    noise = chip_draw(weight, own) * weight.std(correction=0) * 0.5
    torch.testing.assert_close(chips[0], weight + noise)


@pytest.mark.parametrize(("time", "corrected"), [(0.0, False), (0.5, True), (3600.0, True)])
def test_drift_is_compensated_from_its_first_moment(time: float, corrected: bool) -> None:
    model = analogize(nn.Linear(6, 6), "pcm_joshi2020", [torch.randn(8, 6)])
    program(model, 0, drift_time=time)
    assert (operators(model)[0].array.correction is not None) == corrected
