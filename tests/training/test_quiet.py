"""What a training prints: what it is about, and nothing of the machine or of other products."""

from __future__ import annotations

import subprocess
import sys

RUN = """
import torch
from torch import nn
from analogize import analogize, distill

data = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)]
model = analogize(nn.Sequential(nn.Linear(4, 3)), "pcm_8bit", data)
distill(model, None, data, data, alpha=0.0, epochs=2, enable_progress_bar=False, accelerator="cpu")
"""


def test_without_a_progress_bar_nothing_is_printed() -> None:
    # A process of its own: Lightning's loggers write to the streams that it was imported with.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_lightnings_own_log_is_as_it_was_afterwards() -> None:
    more = """
import logging
log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
before = log.level
"""
    script = more + RUN + "assert log.level == before\n"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
