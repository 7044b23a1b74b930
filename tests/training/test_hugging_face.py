"""The guide's recipe with Hugging Face's Trainer, where that is installed."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from analogize import analogize
from analogize.crossbar.ops import operators

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "transformers.md"


@pytest.mark.filterwarnings("ignore")
def test_the_guides_recipe_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=50, intermediate_size=32, **size)
    teacher = transformers.BertForSequenceClassification(config).eval()
    ids = torch.randint(50, (16, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    analog = analogize(copy.deepcopy(teacher), "afm_2025", [batch])
    before = {name: p.detach().clone() for name, p in analog.named_parameters()}
    (block,) = re.findall(r"^```python title=[^\n]*\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    examples = [{key: value[i] for key, value in batch.items()} for i in range(16)]
    scope: dict[str, Any] = {
        "torch": torch,
        "teacher": teacher,
        "analog": analog,
        "examples": examples,
    }
    exec(compile(block, str(GUIDE), "exec"), scope)
    moved = [n for n, p in analog.named_parameters() if not torch.equal(p, before[n])]
    assert any(name.endswith("query.weight") for name in moved)
    assert any(name.endswith("dac.range") for name in moved)
    for op in operators(analog):
        low, high = op.array.limits
        weight = op.stored.value()
        assert bool(((weight >= low) & (weight <= high)).all())
