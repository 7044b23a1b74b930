"""Where products are counted, no operator of torch hides any."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from analogize import census
from analogize.errors import CaptureError

FOUND: list[tuple[bool, bool]] = []


class Told(nn.Module):
    """Notes what torch may fuse while it runs, and may fail then."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.error: Exception | None = None

    def forward(self, x: Tensor) -> Tensor:
        FOUND.append(fused())
        if self.error is not None:
            raise self.error
        y: Tensor = self.layer(x)
        return y


def fused() -> tuple[bool, bool]:
    return torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled


@pytest.mark.parametrize("error", [None, KeyError("own")])
def test_it_is_put_back_whatever_happens(error: Exception | None) -> None:
    model, before = Told(), fused()
    model.error = error
    FOUND.clear()
    with nullcontext() if error is None else pytest.raises(CaptureError, match="own"):
        census(model, torch.randn(3, 2))
    assert FOUND == [(False, False)]
    assert fused() == before
