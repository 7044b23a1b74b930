"""Torch's operators that hide products: switched off where products are to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def unfused() -> Iterator[None]:
    """Within the block neither attention nor a recurrent layer is one operator.

    Attention is one in eval mode, and recurrent layers are with cuDNN, on CUDA alone: the same
    model would have other products there.
    """
    attention, cudnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cudnn.enabled = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
        torch.backends.cudnn.enabled = cudnn
