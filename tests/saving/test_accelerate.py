"""accelerate prepares, dispatches and offloads rewritten models bit for bit, or has one error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import (
    analogize,
    calibrate,
    clip_weights,
    evaluate,
    noise_mode,
    program,
    read_chip,
    renew_ranges,
    save,
    to_digital,
)
from analogize.errors import OffloadError, SavingError

accelerate = pytest.importorskip("accelerate")

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 16)
        self.b = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.c = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(self.b(torch.relu(self.a(x))))
        return out


def rewritten(target: str = "pcm_8bit", **how: Any) -> nn.Module:
    return analogize(Net(), target, calibration=[X], **how).eval()


def outputs(model: nn.Module, mode: Any = "off") -> Tensor:
    with torch.no_grad(), noise_mode(model, mode):
        out: Tensor = model(X)
        return out


def offloaded(model: nn.Module) -> Any:
    return accelerate.cpu_offload(model, execution_device="cpu")


# The second learns its ranges, which are parameters; the third has one for every channel.
@pytest.mark.parametrize("target", ["pcm_8bit", "afm_2025", "reram_wan2022"])
@pytest.mark.parametrize("buffers", [False, True])
def test_offloaded_models_compute_the_same_bits(target: str, buffers: bool) -> None:
    analog = rewritten(target)
    program(analog, 3)
    clean, chip = outputs(analog), outputs(analog, "programmed")
    torch.manual_seed(5)
    fresh = outputs(analog, "fresh")

    away = accelerate.cpu_offload(analog, execution_device="cpu", offload_buffers=buffers)

    assert away.a.weight.is_meta
    assert torch.equal(outputs(away), clean)
    assert torch.equal(outputs(away, "programmed"), chip)
    torch.manual_seed(5)
    # Cells of devices are drawn array by array, where not all weights are there at once.
    assert torch.equal(outputs(away, "fresh"), fresh) or target == "reram_wan2022"
    back = accelerate.hooks.remove_hook_from_module(away, recurse=True)
    assert torch.equal(outputs(back, "programmed"), chip)
    assert not any(t.is_meta for t in back.state_dict().values())


def test_dispatched_models_compute_the_same_bits(tmp_path: Path) -> None:
    analog = rewritten()
    clean, places = outputs(analog), {"a": "cpu", "b": "cpu", "c": "disk"}

    away = accelerate.dispatch_model(analog, places, main_device="cpu", offload_dir=tmp_path)

    assert torch.equal(outputs(away), clean)


DOES: list[Callable[[Any, Path], Any]] = [
    lambda m, path: program(m, 1),
    lambda m, path: clip_weights(m),
    lambda m, path: renew_ranges(m),
    lambda m, path: calibrate(m, [X], progress=False),
    lambda m, path: evaluate(m, [(X, torch.arange(32) % 3)], instances=1, progress=False),
    lambda m, path: read_chip(m),
    lambda m, path: save(m, path),
    lambda m, path: to_digital(m),
]


@pytest.mark.parametrize("do", DOES)
def test_what_needs_all_weights_says_that_they_are_away(do: Any, tmp_path: Path) -> None:
    with pytest.raises(OffloadError, match=r"'a\.weight' is offloaded.*remove_hook_from_module"):
        do(offloaded(rewritten()), tmp_path / "file")


def test_rewriting_an_offloaded_model_is_refused_and_a_dispatched_one_works() -> None:
    with pytest.raises(OffloadError, match=r"'a\.weight' is offloaded"):
        analogize(offloaded(Net()), "pcm_8bit", example_inputs=X)
    model = Net().eval()
    hooked = accelerate.dispatch_model(copy.deepcopy(model), {"": "cpu"}, force_hooks=True)

    analog = analogize(hooked, "pcm_8bit", calibration=[X])

    assert torch.equal(outputs(analog), outputs(analogize(model, "pcm_8bit", calibration=[X])))


def test_a_graph_cannot_be_offloaded_and_says_so() -> None:
    with pytest.raises(OffloadError, match="rewrite with capture='hierarchical'"):
        outputs(offloaded(rewritten(capture="fx")))


def test_prepare_trains_saves_and_resumes(tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    analog = rewritten()
    model, optimizer = accelerator.prepare(analog, torch.optim.SGD(analog.parameters(), 0.1))
    assert torch.equal(outputs(model), outputs(analog))

    accelerator.backward(model(X).square().mean())
    optimizer.step()
    clip_weights(model)
    accelerator.save_state(tmp_path)
    trained = outputs(model)
    optimizer.step()
    assert not torch.equal(outputs(model), trained)
    accelerator.load_state(tmp_path)

    assert torch.equal(outputs(model), trained)


@pytest.mark.parametrize("places", [None, {"": "cpu"}])
@pytest.mark.parametrize("empty", [False, True])
def test_checkpoints_are_put_in_place(tmp_path: Path, places: Any, empty: bool) -> None:
    """With a device map accelerate sets every tensor itself, past ``load_state_dict``."""
    analog = rewritten()
    accelerate.Accelerator(cpu=True).save_model(analog, tmp_path)

    if empty and places:
        with accelerate.init_empty_weights():
            again = analogize(Net(), "pcm_8bit").eval()
    else:
        again = rewritten()
    accelerate.load_checkpoint_in_model(again, tmp_path, device_map=places)

    assert torch.equal(outputs(again), outputs(analog))


@pytest.mark.parametrize("places", [None, {"": "cpu"}])
def test_another_targets_checkpoint_is_refused(tmp_path: Path, places: Any) -> None:
    accelerate.Accelerator(cpu=True).save_model(rewritten(), tmp_path)
    other = rewritten("reram_4bit")

    def use() -> None:
        accelerate.load_checkpoint_in_model(other, tmp_path, device_map=places)
        outputs(other)

    with pytest.raises(SavingError, match="saved for another target"):
        use()
