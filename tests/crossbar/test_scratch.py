"""Memory that operators use in turn: the same results, nothing shared, nothing kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from analogize import Target, analogize, one_pass, program
from analogize.crossbar.scratch import scratch

Make = Callable[..., Target]
BITS = {"bits": 8, "range": {"kind": "minmax"}}


class Watched(TorchDispatchMode):
    """A mode that changes nothing, under which every operator has memory of its own."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func``."""
        return func(*args, **(kwargs or {}))


class Network(nn.Module):
    """Products on inputs of several sizes and layouts; one of them twice, one checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.back, self.last = nn.Conv2d(4, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of every image, shape (images, 5)."""
        x = self.narrow(self.wide(x).relu())
        again: Tensor = checkpoint(self.back, x, use_reentrant=False)
        x = self.narrow(again.to(memory_format=torch.channels_last))
        y: Tensor = self.last(self.back(x).flatten(2).mT)
        return y.mean(1)


@pytest.fixture(params=[None, 8])
def model(make_target: Make, request: pytest.FixtureRequest) -> nn.Module:
    rows = request.param
    array = {} if rows is None else {"array": {"rows": rows, "cols": 64, "tiling": True}}
    target = make_target(dac=BITS, adc=BITS, **array)
    return analogize(Network(), target, [torch.randn(4, 3, 32, 32)])


def test_outputs_and_gradients_are_those_of_memory_of_their_own(model: nn.Module) -> None:
    x = torch.randn(4, 3, 32, 32)
    found = []
    for mode in (nullcontext(), Watched()):
        torch.manual_seed(0)
        model.zero_grad()
        with mode:
            model.train()(x).square().sum().backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            program(model.eval(), 0)
            with torch.no_grad():
                found.append([*gradients, model(x)])
    assert len(found[0]) == 9
    assert all(map(torch.equal, *found))


def test_a_block_within_a_block_and_another_thread_have_memory_of_their_own() -> None:
    x, places = torch.zeros(2**15), []

    def use() -> None:
        with torch.no_grad(), one_pass(), scratch(x, x.dtype) as one, scratch(x, x.dtype) as other:
            assert one is not None
            assert other is not None
            places.extend([one.data_ptr(), other.data_ptr()])
            one.fill_(1)
            other.fill_(2)
            barrier.wait()
            assert bool((one == 1).all())

    barrier = threading.Barrier(2, timeout=60)
    thread = threading.Thread(target=use)
    thread.start()
    use()
    thread.join()
    assert len(set(places)) == 4


@torch.no_grad()
def test_blocks_in_turn_share_memory_that_the_pass_frees() -> None:
    x = torch.zeros(4, 2, 64, 64).to(memory_format=torch.channels_last)
    with one_pass():
        with scratch(x, x.dtype) as one:
            assert one is not None
            assert one.stride() == x.stride()
            where, kept = one.data_ptr(), StorageWeakRef(one.untyped_storage())
        del one
        with scratch(x[1:], x.dtype) as one:
            assert one is not None
            assert one.data_ptr() == where
        del one
        assert not kept.expired()
    assert kept.expired()


@torch.no_grad()
def test_it_is_given_only_where_nobody_looks_at_it_later() -> None:
    x = torch.zeros(256, 256)
    with scratch(x, x.dtype) as out:
        assert out is None  # no pass
    with one_pass():
        for other, dtype in (
            (x.mT, x.dtype),
            (x, torch.half),
            (x[0], x.dtype),
            (x[:, ::2], x.dtype),
        ):
            with scratch(other, dtype) as out:
                assert out is None
        with torch.enable_grad(), scratch(x, x.dtype) as out:
            assert out is None
        with Watched(), scratch(x, x.dtype) as out:
            assert out is None
        with scratch(x, x.dtype) as out:
            assert out is not None


def test_a_backward_pass_frees_it_also_after_one_that_raised() -> None:
    refs = []

    class Borrows(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, raises: bool) -> Tensor:
            ctx.raises = raises
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
            with scratch(grad, grad.dtype) as out:
                assert out is not None
                refs.append(StorageWeakRef(out.untyped_storage()))
                if ctx.raises:
                    raise ValueError("on purpose")
            return grad, None

    x = torch.zeros(2**15, requires_grad=True)
    with pytest.raises(ValueError, match="on purpose"):
        Borrows.apply(x, True).square().sum().backward()
    # The next pass of any kind lets go of what that one left, also where it is given nothing.
    with torch.no_grad(), scratch(x.detach(), x.dtype) as out:
        assert out is None
    assert refs[0].expired()
    for _ in range(2):
        Borrows.apply(x, False).square().sum().backward()
    assert len(refs) == 3
    assert all(ref.expired() for ref in refs)
