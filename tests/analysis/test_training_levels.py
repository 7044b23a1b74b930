"""Models trained at one level and measured at others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from analogize import analogize, evaluate
from analogize.analyze import Mismatch, mismatch
from analogize.errors import EvaluationError
from analogize.targets.spec import FixedSNRNoise, Target


def test_every_model_meets_every_level_on_the_same_chips(tmp_path) -> None:
    torch.manual_seed(0)
    target = Target(name="fixed_snr", noise=(FixedSNRNoise(ratio=0.1),))
    x, y = torch.randn(30, 4), torch.randint(0, 3, (30,))
    models = {
        eta: analogize(nn.Sequential(nn.Linear(4, 3)).eval(), target, example_inputs=x)
        for eta in (0.0, 0.2)
    }
    found = mismatch(models, [(x, y)], [0, 0.5], instances=4, progress=False)
    alone = evaluate(models[0.2], [(x, y)], eta=[0, 0.5], instances=4, progress=False)
    assert found.evaluations[0.2] == alone
    pairs = [(row["eta_training"], row["eta"]) for row in found.to_rows()]
    assert pairs == [(0, 0), (0, 0.5), (0.2, 0), (0.2, 0.5)]
    found.save(tmp_path / "m.json")
    assert Mismatch.load(tmp_path / "m.json") == found
    labels = found.plot().axes[0].get_legend_handles_labels()[1]
    assert labels == ["trained at 0", "trained at 0.2"]


def test_no_model_is_refused() -> None:
    with pytest.raises(EvaluationError, match="at least one"):
        mismatch({}, [], [0.1])
