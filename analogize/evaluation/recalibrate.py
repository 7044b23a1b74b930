"""Re-estimate digital statistics on a programmed chip: BatchNorm's, and each operator's own."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from analogize.crossbar.fitted import chip_of, mark
from analogize.crossbar.ops import AnalogOp, operators
from analogize.crossbar.side import make_side
from analogize.errors import CalibrationError
from analogize.evaluation.data_digest import told
from analogize.evaluation.kept import Kept
from analogize.evaluation.moments import Moments, blended, matching
from analogize.evaluation.reference import (
    Reference,
    channels,
    evaluating,
    hook,
    named,
    norms,
    reference,
    run_batches,
)
from analogize.model.calls import Call, batch_call


@dataclass
class Recalibration:
    """What every chip of an evaluation is recalibrated with: the arguments of ``recalibrate``.

    The teacher runs once for a model, and not for every chip.

    Attributes:
        data: batches, of which labels are not used; read once, and kept.
        teacher: as for ``recalibrate``.
        shrink: as for ``recalibrate``.
    """

    data: Iterable[Any]
    teacher: nn.Module | None = None
    shrink: bool = True
    _model: nn.Module | None = field(default=None, init=False, repr=False)
    _reference: Reference | None = field(default=None, init=False, repr=False)
    _batches: list[Call] | None = field(default=None, init=False, repr=False)

    @property
    def settings(self) -> str:
        """What a run's fingerprint keeps of it."""
        words = "statistics re-estimated"
        if self.teacher is not None:
            words = f"matched to {named(self.teacher)}"
        words += "" if self.shrink else ", not shrunk"
        return f"{words} {told(self.data)}".strip()

    def __call__(self, model: nn.Module) -> int:
        """Recalibrate ``model``, whose statistics must be the training's."""
        if self._batches is None:
            self._batches = mixed(self.data)
        if self.teacher is None:
            return _recalibrate(model, self._batches, None, self.shrink)
        if self._reference is None or self._model is not model:
            self._model, self._reference = model, reference(model, self._batches, self.teacher)
        return _recalibrate(model, self._batches, self._reference, self.shrink)

    def forget(self) -> None:
        """Run the teacher anew at the next call: it or the model may have been trained since."""
        self._model = self._reference = None


def recalibrate(
    model: nn.Module,
    data: Iterable[Any],
    teacher: nn.Module | None = None,
    *,
    shrink: bool = True,
) -> int:
    """Re-estimate digital statistics from batches without labels, in place.

    Noise on the weights shifts and widens what leaves each array, and statistics taken during
    training no longer fit one chip. A deployment can measure them on the chip itself: it needs a
    few unlabelled images (64 do most of it) and no gradient. BatchNorm's running statistics are
    re-estimated wherever the model has them. With a teacher, every operator whose output no
    BatchNorm takes at once gets a digital scale and offset per output channel, with which its mean
    and variance become the teacher's; they are kept in buffers of the operator (``DigitalSide``).
    With the model itself as its teacher all operators get them, and BatchNorm's statistics stay
    the training's.

    What is new is blended with what was by how far the shift exceeds what so few images show by
    chance (``analogize.evaluation.moments``), so that on images such as the training's a chip
    without errors loses nothing. Images of another kind, and unaugmented ones can be of another
    kind, shift BatchNorm's statistics for reasons that are not the chip's. Matching to the model's
    own noise-free pass over the same images is free of that: a chip without errors is left as it
    is, whatever the images. Batches of one tensor are mixed first, because data are often sorted,
    and a batch of one class has this class's statistics. Weights stay as they are, so the
    programmed chip stays valid. What is found belongs to this chip: the scales and offsets are
    replaced by the next call, BatchNorm's statistics are blended with those that are there, and so
    want to be the training's again (``load_state_dict``) before another chip's.

    Args:
        model: a rewritten model runs on its programmed chip; where none is programmed it draws
            fresh noise, which averages the statistics over noise. Without a teacher any model
            with BatchNorm will do.
        data: batches: inputs, or (inputs, targets, ...), of which only the inputs are used. They
            are read once, and held in memory. Prepared as the training's were, augmentation
            included, unless the model is its own teacher.
        teacher: what the operators are matched to: ``model`` itself, without noise, for what the
            chip alone has done; its BatchNorm statistics must be the training's then. Or another
            model with the same parameters by name, such as the clean one, for what clipping and
            quantization have done as well.
        shrink: False takes the new statistics as they are.

    Returns:
        How many layers were re-estimated or matched.

    Raises:
        CalibrationError: the model has neither BatchNorm nor, with a teacher, analog operators; the
            data hold no batch, or lead to statistics that are not finite; or the teacher is no
            model of this kind. Everything is as before then.
    """
    return Recalibration(data, teacher, shrink)(model)


def _recalibrate(
    model: nn.Module, batches: list[Call], found: Reference | None, shrink: bool
) -> int:
    layers = [] if found is not None and found.own else norms(model)
    matched = (
        []
        if found is None
        else [
            (op, found.outputs[place])
            for place, op in enumerate(operators(model))
            # One that computes its digital product has no errors, and no scale of its own.
            if place not in found.normed and op.observer is None
        ]
    )
    if not layers and not matched:
        raise CalibrationError(
            f"{type(model).__name__} has no BatchNorm layer with running statistics, so there is "
            "nothing to recalibrate; with a teacher, every operator gets a scale and an offset"
        )
    kept = Kept(model)
    means = [_mean(norm).clone() for norm in layers]
    try:
        with torch.no_grad(), evaluating(model), ExitStack() as hooks:
            counts = [_follow(hooks, norm, shrink) for norm in layers]
            counts += [_match(hooks, op, wanted, shrink) for op, wanted in matched]
            run_batches(model, batches)
            chip = chip_of(model)
        _require_finite(model)
        for norm, before in zip(layers, means, strict=True):
            if not torch.equal(_mean(norm), before):
                mark(norm, chip)
    except BaseException:
        kept.restore()
        raise
    return sum(bool(count) for count in counts)


def _mean(norm: _BatchNorm) -> Tensor:
    assert norm.running_mean is not None, "norms() asks for it"
    return norm.running_mean


def _follow(hooks: ExitStack, norm: _BatchNorm, shrink: bool) -> list[int]:
    """Before every call of ``norm``: blend the inputs so far into its running statistics."""
    moments, calls = Moments(), [0]
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()  # type: ignore[union-attr]

    def before(module: _BatchNorm, args: tuple[Any, ...]) -> None:
        moments.add(args[0], (True, *[False] * (args[0].ndim - 2)))
        new_mean, new_variance = blended(moments, mean, variance, shrink)
        for held, value in ((module.running_mean, new_mean), (module.running_var, new_variance)):
            assert held is not None
            held.copy_(value)
        calls[0] += 1

    hook(hooks, norm.register_forward_pre_hook, before)
    return calls


def _match(hooks: ExitStack, op: AnalogOp, wanted: Moments, shrink: bool) -> list[int]:
    """After every call of ``op``: match the outputs so far, and this one at once."""
    seen, calls = Moments(), [0]
    op.side = None

    def after(_op: nn.Module, args: tuple[Any, ...], kwargs: Any, y: Tensor) -> Tensor | None:
        if kwargs.get("through") is not None:
            return None  # A part of the array has no channels of its own.
        seen.add(y, channels(op.product))
        calls[0] += 1
        first = Moments(wanted.means[: calls[0]], wanted.squares[: calls[0]])
        scale, offset = matching(seen, first, shrink)
        make_side(op)
        side, op.side = op.side, None
        assert side is not None
        side.scale.copy_(scale)
        side.offset.copy_(offset)
        sides[0] = side
        corrected: Tensor = side(y, args[0])
        return corrected

    sides: list[Any] = [None]
    hooks.callback(lambda: setattr(op, "side", sides[0]))
    hook(hooks, op.register_forward_hook, after, with_kwargs=True)
    return calls


def mixed(data: Iterable[Any]) -> list[Call]:
    """The calls of all batches; those of one tensor each with every n-th sample of all of them.

    Raises:
        CalibrationError: there is none.
    """
    calls = [batch_call(batch) for batch in data]
    if not calls:
        raise CalibrationError("the data hold no batch; recalibrate() needs at least one")
    alone = [c.args[0] for c in calls if len(c.args) == 1 and not c.kwargs]
    tensors = [x for x in alone if isinstance(x, Tensor) and x.ndim > 1]
    alike = len({(x.shape[1:], x.dtype, x.device) for x in tensors}) == 1
    if len(tensors) < len(calls) or not alike or len(calls) == 1:
        return calls
    together, count = torch.cat(tensors), len(calls)
    return [Call((together[k::count],)) for k in range(count) if k < len(together)]


def _require_finite(model: nn.Module) -> None:
    sides = [op.side for op in operators(model) if op.side is not None]
    held = [b for m in (*norms(model), *sides) for b in m.buffers()]
    if not all(bool(torch.isfinite(b).all()) for b in held):
        raise CalibrationError("the data lead to statistics that are NaN or infinite")
