"""The last linear product of a model, refitted to a teacher's outputs in closed form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from analogize.crossbar.ops import AnalogOp, operators
from analogize.crossbar.side import make_side
from analogize.errors import CalibrationError
from analogize.evaluation.kept import digital_parameters
from analogize.evaluation.ridge import ridge
from analogize.model.calls import Call
from analogize.product import Linear


def scores_of(outputs: Any) -> Tensor:
    """``outputs``, float32 (N, classes), if that is what they are.

    Raises:
        CalibrationError: they are something else, or not finite.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise CalibrationError(
            "adapt() needs scores (N, classes) from model and teacher, and got "
            + (
                f"a tensor of shape {tuple(outputs.shape)}"
                if isinstance(outputs, Tensor)
                else f"a {type(outputs).__name__}"
            )
        )
    if not bool(outputs.isfinite().all()):
        raise CalibrationError("the data lead to scores that are NaN or infinite")
    return outputs.detach().float()


class _Watch(TorchFunctionMode):
    """While it is on, the last linear product leaves what it was, its input and its output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        named = digital_parameters(model)
        self.names = {id(p): name for name, p in named if name.endswith("weight")}
        self.last: tuple[AnalogOp | str, Tensor, Tensor] | None = None
        self.calls: Counter[AnalogOp | str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # The graph calls the function for a layer that stayed digital, and kept Python the layer.
        if func is F.linear and len(args) > 1 and id(args[1]) in self.names:
            self.see(self.names[id(args[1])], args[0], result)
        return result

    def see(self, what: AnalogOp | str, x: Tensor, y: Tensor) -> None:
        """Keep the product ``what`` as the last one."""
        self.last = what, x, y
        self.calls[what] += 1


@contextmanager
def watching(model: nn.Module) -> Iterator[_Watch]:
    """Within the block every linear product of ``model`` is seen."""
    watch = _Watch(model)
    with ExitStack() as hooks:
        for op in operators(model):
            if isinstance(op.product, Linear):
                see = op.register_forward_hook(lambda o, a, y: watch.see(o, a[0], y))
                hooks.callback(see.remove)
        hooks.enter_context(watch)
        yield watch


@torch.no_grad()
def head_of(model: nn.Module, call: Call) -> AnalogOp | str | None:
    """The linear product whose output, up to its bias, is the model's; None without one.

    An analog operator, or the name of a digital weight that has a bias beside it.
    """
    with watching(model) as watch:
        outputs = call(model)
    if watch.last is None or not isinstance(outputs, Tensor):
        return None
    what, x, y = watch.last
    if watch.calls[what] > 1 or x.ndim != 2 or y.shape != outputs.shape:
        return None
    parameters = dict(model.named_parameters())
    if isinstance(what, str) and bias_of(what) not in parameters:
        return None
    bias = outputs.float() - y.float()
    # The bias is the same for every sample, up to the rounding of the sum.
    small = torch.finfo(y.dtype).eps * 4 * outputs.abs().max()
    return what if bool((bias - bias[:1]).abs().max() <= small) else None


def bias_of(weight: str) -> str:
    """The name of the bias beside a weight of that name."""
    return weight.removesuffix("weight") + "bias"


@torch.no_grad()
def refit(
    model: nn.Module, last: AnalogOp | str, calls: list[Call], wanted: list[Tensor]
) -> Literal["in place", "beside"]:
    """Fit ``last``, or a digital product beside it, to what the outputs lack of ``wanted``."""
    features, lacking = [], []
    for call, goal in zip(calls, wanted, strict=True):
        with watching(model) as watch:
            outputs = scores_of(call(model))
        assert watch.last is not None
        features.append(watch.last[1].double())
        lacking.append(_centred(goal.to(outputs)) - _centred(outputs))
    weights, intercepts = ridge(torch.cat(features), torch.cat(lacking).double())
    if isinstance(last, str):
        for name, change in ((last, weights), (bias_of(last), intercepts)):
            parameter = model.get_parameter(name)
            parameter.add_(change.to(parameter.dtype))
        return "in place"
    make_side(last)
    assert last.side is not None
    side, extra = last.side, weights.float()
    if side.down is not None:
        extra = extra + (side.down if side.up is None else side.up @ side.down)
    side.down, side.up = extra, None
    side.offset.add_(intercepts.float())
    return "beside"


def _centred(scores: Tensor) -> Tensor:
    """Scores less their mean over classes, which no softmax sees."""
    return scores - scores.mean(1, keepdim=True)
