"""What a chip is matched to: the moments of what a teacher's operators put out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from analogize.capture.watched import unwatched
from analogize.crossbar.chip import noise_mode
from analogize.crossbar.digest import target_digest, weights_digest
from analogize.crossbar.ops import AnalogOp, bypassed, operators
from analogize.crossbar.signature import KEY
from analogize.errors import CalibrationError
from analogize.evaluation.kept import Kept
from analogize.evaluation.moments import Moments
from analogize.model.calls import Call, device_of
from analogize.product import Convolution, Linear, Product


@dataclass(frozen=True)
class Reference:
    """What a teacher's operators put out on the data, and which of them BatchNorm takes.

    Operators are known by their place among ``operators(model)``. The model's own outputs are what
    its statistics were trained for, so that BatchNorm needs no others (``own``).
    """

    outputs: tuple[Moments, ...]
    normed: frozenset[int]
    own: bool


def reference(model: nn.Module, batches: list[Call], teacher: nn.Module) -> Reference:
    """Run ``teacher`` over ``batches`` and keep the moments of what each operator puts out.

    Raises:
        CalibrationError: the model has no operator, or the teacher lacks its parameters.
    """
    if not operators(model):
        raise CalibrationError(
            f"{type(model).__name__} has no analog operator that could be matched to a teacher"
        )
    own = alike(model, teacher)
    source = model if own else _digital(model, teacher)
    places = {op: place for place, op in enumerate(operators(source))}
    outputs = tuple(Moments() for _ in places)
    normed: set[int] = set()
    last: list[tuple[int, Tensor]] = []

    def keep(op: AnalogOp, _x: Tensor, y: Tensor) -> None:
        outputs[places[op]].add(y, channels(op.product))
        last[:] = [(places[op], y)]

    def take(_norm: nn.Module, args: tuple[Any, ...]) -> None:
        normed.update(place for place, y in last if args and args[0] is y)

    with torch.no_grad(), evaluating(source), ExitStack() as hooks, Kept(source):
        if own:
            hooks.enter_context(noise_mode(model, "off"))
            for op in operators(source):
                op.side = None
                hook(hooks, op.register_forward_hook, lambda o, a, y: keep(o, a[0], y))
        else:
            hooks.enter_context(bypassed(source, keep))
            for norm in norms(source):
                hook(hooks, norm.register_forward_pre_hook, take)
        run_batches(source, batches)
    return Reference(outputs, frozenset(normed), own)


def named(teacher: nn.Module) -> str:
    """Which teacher it is: another one gives other values, and belongs to another run."""
    target = f" on {target_digest(teacher)}" if operators(teacher) else ""
    return f"teacher {weights_digest(teacher)}{target}"


def alike(model: nn.Module, teacher: nn.Module) -> bool:
    """Whether ``teacher`` is ``model``, or a copy of it, such as one on another device.

    Of targets their digests from the rewriting are compared: noise may be at another level now.
    """
    if teacher is model:
        return True
    signed, others = ([op.digest for op in operators(each)] for each in (model, teacher))
    if signed != others:
        return False
    kept, other = _state(model), _state(teacher)
    return kept.keys() == other.keys() and all(
        torch.equal(value.cpu(), other[name].cpu())
        if isinstance(value, Tensor)
        else value == other[name]
        for name, value in kept.items()
    )


def _state(model: nn.Module) -> dict[str, Any]:
    """Parameters and buffers, without what recalibration itself puts there."""
    state = model.state_dict()
    return {k: v for k, v in state.items() if ".side." not in k and not k.endswith(KEY)}


def _digital(model: nn.Module, teacher: nn.Module) -> nn.Module:
    """A copy of ``model`` with the parameters and buffers of ``teacher``."""
    source = copy.deepcopy(model)
    wanted = {name for name, _ in model.named_parameters()}
    state = _state(teacher)
    missing = sorted(wanted - state.keys())
    if missing:
        raise CalibrationError(
            f"the teacher {type(teacher).__name__} has no parameter '{missing[0]}': operators can "
            "be matched to a model of the same architecture, or to the model itself"
        )
    # With its own ranges, which are not in question here.
    source.load_state_dict({k: state.get(k, v) for k, v in source.state_dict().items()})
    return source


def norms(model: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm layer with running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def channels(product: Product) -> tuple[bool, ...]:
    """Of the trailing dimensions of the product's output, which are its channels'."""
    if isinstance(product, Convolution):
        return (True, *[False] * product.dimensions)
    return (True,) if isinstance(product, Linear) else (*[True] * len(product.batch), False, True)


def hook(
    hooks: ExitStack, register: Callable[..., Any], function: Callable[..., Any], **options: Any
) -> None:
    """Have ``function`` called while ``hooks`` lasts, as no part of the model's own Python.

    Values that it reads would make every later call of the model one that may branch on values,
    and so is followed, operator by operator.
    """

    def ours(*args: Any) -> Any:
        with unwatched():
            return function(*args)

    hooks.callback(register(ours, **options).remove)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block every part is in eval mode; afterwards each is in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def run_batches(model: nn.Module, batches: list[Call]) -> None:
    """Call the model with every batch, on its device."""
    device = device_of(model)
    for call in batches:
        call.to(device)(model)
