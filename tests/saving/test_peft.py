"""LoRA before and after rewriting: training, files, and what merging does to ranges."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import (
    analogize,
    calibrate,
    clip_weights,
    load,
    noise_mode,
    program,
    regions,
    renew_ranges,
    save,
)
from analogize.errors import ChipError, SavingError

peft = pytest.importorskip("peft")

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(torch.relu(self.a(x)))
        return out


def lora(model: nn.Module) -> Any:
    """Adapters as large as the weights themselves, of the same values every time."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=["a", "c"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.mul_(3)
    return adapted


def rewritten(model: nn.Module) -> Any:
    return analogize(model, "pcm_8bit", calibration=[X]).eval()


def outputs(model: nn.Module, mode: Any = "off") -> Tensor:
    with torch.no_grad(), noise_mode(model, mode):
        out: Tensor = model(X)
        return out


def test_after_rewriting_the_base_is_analog_and_the_adapter_digital(tmp_path: Path) -> None:
    base = rewritten(Net())
    save(base, tmp_path / "base")
    adapted = lora(base)

    assert [r.name for r in regions(adapted)] == ["a", "c"]
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(load(tmp_path / "base", Net()), tmp_path / "adapter")

    assert torch.equal(outputs(again.eval()), outputs(adapted))
    with pytest.raises(SavingError, match=r"region 'a'.*'a\.weight' is at 'a\.base_layer' now"):
        save(adapted, tmp_path / "whole")


def test_before_rewriting_all_is_analog_and_one_file(tmp_path: Path) -> None:
    analog = rewritten(lora(Net()))

    assert sum("lora" in region.name for region in regions(analog)) == 4
    save(analog, tmp_path / "file")
    again = load(tmp_path / "file", lambda: lora(Net()))

    assert torch.equal(outputs(again), outputs(analog))


@pytest.mark.parametrize("first", ["rewritten", "adapted"])
def test_only_adapters_train_and_clipping_goes_on(first: str) -> None:
    model = lora(rewritten(Net())) if first == "rewritten" else rewritten(lora(Net()))
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01)

    model.train()(X).square().mean().backward()
    optimizer.step()
    clip_weights(model)

    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all("lora" in name for name in moved if "base_layer" not in name)


@pytest.mark.parametrize("first", ["rewritten", "adapted"])
def test_merging_is_noticed_and_new_ranges_make_it_right(
    first: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = Net()
    merged_digital = lora(copy.deepcopy(net)).merge_and_unload()
    adapted = lora(rewritten(net)) if first == "rewritten" else rewritten(lora(copy.deepcopy(net)))
    outputs(adapted)

    merged = adapted.merge_and_unload()

    assert not caplog.records
    outputs(merged)
    outputs(merged)
    program(merged, 1)
    told = [record.getMessage() for record in caplog.records]
    # By the first call with the new weights, not by every one, and by whoever asks for a chip.
    assert told
    before = len(told)
    outputs(merged)
    assert len(caplog.records) == before
    assert all(
        re.search(r"outside of ranges.*'.*a.*': \d+% instead.*renew_ranges", t) for t in told
    )
    renew_ranges(merged)
    calibrate(merged, [X], progress=False)
    caplog.clear()
    assert torch.equal(outputs(merged), outputs(rewritten(merged_digital)))
    assert not caplog.records


def test_a_chip_does_not_outlive_merging() -> None:
    adapted = lora(rewritten(Net()))
    program(adapted, 1)

    merged = adapted.merge_and_unload()

    with pytest.raises(ChipError, match="its weights changed"):
        outputs(merged, "programmed")


def test_what_was_taken_out_of_its_part_says_so_when_saved(tmp_path: Path) -> None:
    merged = rewritten(lora(Net())).merge_and_unload()

    with pytest.raises(SavingError, match="merge first and rewrite"):
        save(merged, tmp_path / "file")
