"""Adapt what is digital around one programmed chip; no analog weight is touched."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analogize.crossbar.chip import noise_mode
from analogize.crossbar.ops import AnalogOp, operators
from analogize.crossbar.seeds import integer
from analogize.crossbar.side import can_branch, make_side
from analogize.errors import CalibrationError
from analogize.evaluation.data_digest import told
from analogize.evaluation.head import bias_of, head_of, refit, scores_of
from analogize.evaluation.kept import Kept, digital_parameters
from analogize.evaluation.recalibrate import Recalibration
from analogize.evaluation.reference import alike, evaluating, named, norms
from analogize.model.calls import Call, batch_call, device_of


@dataclass(frozen=True)
class Adapted:
    """What an adaptation cost.

    Attributes:
        parameters: digital numbers that this chip has of its own: statistics, gains, biases,
            scales, offsets, head and branches.
        extra_macs: multiply-accumulates a sample that the model did not have before.
        head: how the last product was refitted: ``"in place"`` where it is digital, ``"beside"``
            by a digital product beside the array, None where it was not.
        steps: gradient steps made.
    """

    parameters: int
    extra_macs: int
    head: str | None
    steps: int


@dataclass
class Adaptation:
    """What every chip of an evaluation is adapted with: the arguments of ``adapt``.

    The teacher runs once for a model, and not for every chip; the data are read once, and kept.
    ``found`` is what the last chip cost.
    """

    data: Iterable[Any]
    teacher: nn.Module
    head: bool = True
    steps: int = 0
    learning_rate: float = 3e-3
    temperature: float = 2.0
    rank: int = 0
    shrink: bool = True
    seed: int = 0
    match: bool = True
    found: Adapted | None = field(default=None, init=False)
    _batches: list[Any] | None = field(default=None, init=False, repr=False)
    _model: nn.Module | None = field(default=None, init=False, repr=False)
    _wanted: list[Tensor] | None = field(default=None, init=False, repr=False)
    _statistics: Recalibration | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("rank", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise CalibrationError(f"{name} is {value!r}; it must be an integer of at least 0")
        for name in ("learning_rate", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise CalibrationError(
                    f"{name} is {getattr(self, name)!r}; it must be a finite number above 0"
                )

    @property
    def settings(self) -> str:
        """What a run's fingerprint keeps of it."""
        parts = [f"adapted to {named(self.teacher)}"]
        parts += ["operators matched"] if self.match else []
        parts += ["head refitted"] if self.head else []
        if self.steps:
            rate = f"{self.learning_rate:g} at T = {self.temperature:g}"
            parts.append(f"{self.steps} steps of {rate}, rank {self.rank}, seed {self.seed}")
        words = ", ".join(parts if self.shrink else [*parts, "not shrunk"])
        return f"{words} {told(self.data)}".strip()

    def __call__(self, model: nn.Module) -> Adapted:
        """Adapt ``model``, whose digital part must be as it was trained."""
        if self._batches is None:
            # Once: data in another order the next time would meet the teacher's outputs for others.
            self._batches = list(self.data)
        if self._wanted is None or self._statistics is None or self._model is not model:
            wanted = _teach(self.teacher, self._batches, alike(model, self.teacher))
            own = model if self.match or not norms(model) else None
            self._statistics = Recalibration(self._batches, own, self.shrink)
            self._model, self._wanted = model, wanted
        kept = Kept(model)
        try:
            self.found = self._adapt(model, self._batches, self._wanted, self._statistics)
        except BaseException:
            kept.restore()
            raise
        return self.found

    def forget(self) -> None:
        """Run the teacher anew at the next call: it or the model may have been trained since."""
        self._model = self._wanted = self._statistics = None

    def _adapt(
        self,
        model: nn.Module,
        batches: list[Any],
        wanted: list[Tensor],
        statistics: Recalibration,
    ) -> Adapted:
        calls = [batch_call(batch).to(device_of(model)) for batch in batches]
        for op in operators(model):
            op.side = None
        statistics(model)
        last = head_of(model, calls[0]) if self.head else None
        head = None if last is None else refit(model, last, calls, wanted)
        if self.steps:
            _tune(model, calls, wanted, self)
            # What the head sees has changed; its digital weights are fitted to that once more.
            head = None if last is None else refit(model, last, calls, wanted)
        return _cost(model, calls[0], last, head, self)


def adapt(
    model: nn.Module,
    data: Iterable[Any],
    teacher: nn.Module,
    *,
    head: bool = True,
    steps: int = 0,
    learning_rate: float = 3e-3,
    temperature: float = 2.0,
    rank: int = 0,
    shrink: bool = True,
    seed: int = 0,
    match: bool = True,
) -> Adapted:
    """Give one programmed chip what it can be given without touching an analog weight, in place.

    First every operator is matched to the model's own noise-free pass, as by
    ``recalibrate(model, data, model)``. Then the last product is refitted in closed form: ridge
    regression from its inputs on this chip to what its outputs lack of the teacher's; where it is
    analog, as a digital product beside the array. With ``steps`` the digital parameters of one
    dimension (BatchNorm's gains and offsets, biases), and branches of low rank beside the arrays
    where ``rank`` says so, are trained on the chip to the teacher's soft outputs, without labels:
    Adam with a cosine decay to 0, one batch of ``data`` a step.

    What an earlier call put beside the arrays is replaced, so that the same chip, aged, or another
    one can be adapted anew. What it changed in place, a digital head or what the steps trained, is
    part of the model since then: for another chip load the state from before, and for the same one
    let a copy from before be the teacher.

    Args:
        model: a rewritten classifier with a programmed chip.
        data: batches without or with labels, of which only the inputs are used.
        teacher: a model with the same outputs; a rewritten one runs without noise. The model itself
            is the one to take for a model trained for noise: it leaves a chip without errors as it
            is, while a teacher that learned from these very data is surer of them than of others,
            and the head would learn that. It is not changed.
        head: whether to refit the last product.
        steps: gradient steps; 0 for closed form only.
        learning_rate: the first one, for Adam.
        temperature: softens both outputs in the steps' loss.
        rank: rank of a branch beside every array that can have one; 0 for none.
        shrink: as for ``recalibrate``.
        seed: draws the branches' first factors and the order of batches.
        match: False re-estimates BatchNorm's statistics instead, where there are, as
            ``recalibrate`` does without a teacher: nothing beside the arrays, but what is new
            about the images is taken for the chip's, too.

    Returns:
        The cost in digital parameters and multiply-accumulates.

    Raises:
        CalibrationError: a setting is out of range, the data hold no batch, or the outputs are no
            finite scores (N, classes). The model is as before then.
    """
    seed = integer(seed, CalibrationError)
    adaptation = Adaptation(
        data, teacher, head, steps, learning_rate, temperature, rank, shrink, seed, match
    )
    return adaptation(model)


@torch.no_grad()
def _teach(teacher: nn.Module, batches: list[Any], own: bool) -> list[Tensor]:
    """The teacher's scores without noise; the model's own without what a chip was given before."""
    clean: Any = noise_mode(teacher, "off") if operators(teacher) else nullcontext()
    device = device_of(teacher)
    with clean, evaluating(teacher), ExitStack() as sides:
        for op in operators(teacher) if own else ():
            sides.callback(setattr, op, "side", op.side)
            op.side = None
        found = [scores_of(batch_call(batch).to(device)(teacher)) for batch in batches]
    if not found:
        raise CalibrationError("the data hold no batch; adapt() needs at least one")
    return found


def _tune(model: nn.Module, calls: list[Call], wanted: list[Tensor], settings: Adaptation) -> None:
    """Train the digital parameters of one dimension, and branches, to the teacher's outputs."""
    generator = torch.Generator().manual_seed(settings.seed)
    flags = [(p, p.requires_grad) for p in model.parameters()]
    trained: list[Tensor] = [p for _, p in digital_parameters(model) if p.ndim == 1]
    branches = _branches(model, settings.rank, generator)
    order = torch.randperm(len(calls), generator=generator).tolist()
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for tensor in (*trained, *branches):
            tensor.requires_grad_(True)
        optimizer = torch.optim.Adam([*trained, *branches], lr=settings.learning_rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        for step in range(settings.steps):
            number = order[step % len(order)]
            with torch.enable_grad():
                outputs = calls[number](model).float()
                goal = wanted[number].to(outputs.device)
                loss = _soft_loss(outputs, goal, settings.temperature)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            decay.step()
    finally:
        for parameter, required in flags:
            parameter.requires_grad_(required)
            parameter.grad = None
        for branch in branches:
            branch.requires_grad_(False)
            branch.grad = None


def _soft_loss(outputs: Tensor, goal: Tensor, temperature: float) -> Tensor:
    found, wanted = (F.log_softmax(z / temperature, 1) for z in (outputs, goal))
    divergence = F.kl_div(found, wanted, log_target=True, reduction="batchmean")
    return temperature**2 * divergence


def _branches(model: nn.Module, rank: int, generator: torch.Generator) -> list[Tensor]:
    """Branches of that rank, zero to begin with, beside every array that has none."""
    found: list[Tensor] = []
    for op in operators(model) if rank else ():
        if not can_branch(op.product) or len(op.array.shape) < 2:
            continue
        make_side(op)
        side = op.side
        assert side is not None
        if side.down is not None:
            continue
        shape = (rank, *op.array.shape[1:])
        fan_in = torch.Size(shape)[1:].numel()
        down = torch.randn(shape, generator=generator) / fan_in**0.5
        side.down = down.to(side.scale.device)
        side.up = torch.zeros(op.array.shape[0], rank, device=side.scale.device)
        found += [side.down, side.up]
    return found


@torch.no_grad()
def _cost(
    model: nn.Module,
    call: Call,
    last: AnalogOp | str | None,
    head: str | None,
    settings: Adaptation,
) -> Adapted:
    steps, statistics = settings.steps, [] if settings.match else norms(model)
    parameters = sum(
        2 * len(norm.running_mean) for norm in statistics if norm.running_mean is not None
    )
    if steps:
        parameters += sum(p.numel() for _, p in digital_parameters(model) if p.ndim == 1)
    if isinstance(last, str) and head is not None:
        # The steps count every bias.
        names = [last] if steps else [last, bias_of(last)]
        parameters += sum(model.get_parameter(name).numel() for name in names)
    sides = {op: op.side for op in operators(model) if op.side is not None}
    positions: dict[AnalogOp, int] = dict.fromkeys(sides, 0)

    def count(op: nn.Module, _args: tuple[Any, ...], y: Tensor) -> None:
        assert isinstance(op, AnalogOp)
        channels = len(sides[op].scale)
        positions[op] += y.numel() // channels

    with ExitStack() as hooks:
        for op in sides:
            hooks.callback(op.register_forward_hook(count).remove)
        outputs = call(model)
    samples = max(1, len(outputs))
    held = [side.parameters_and_macs for side in sides.values()]
    macs = sum(n * m // samples for n, (_, m) in zip(positions.values(), held, strict=True))
    return Adapted(parameters + sum(p for p, _ in held), macs, head, steps)
