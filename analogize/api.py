"""analogize(): load the target, capture the model, run the pipeline, calibrate."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from analogize.capture.choose import Capture, rewrite
from analogize.crossbar.calibrate import calibrate
from analogize.crossbar.ops import AnalogOp, operators
from analogize.devices.custom import check_functions
from analogize.errors import CalibrationError, CaptureError
from analogize.model.calls import Call, batch_call, device_of, example_call
from analogize.model.copying import all_or_nothing, copied, refuse_sharded, uncompiled
from analogize.model.counting import Census, census, eval_mode, is_lazy, is_uninitialized
from analogize.model.offloading import refuse_offloaded
from analogize.passes.request import DigitalChoice, Request
from analogize.targets import load_target
from analogize.targets.spec import Target

# The named choice of what stays digital.
ENDS = "ends"


def analogize(
    model: nn.Module,
    target: str | os.PathLike[str] | Target = "pcm_4bit",
    calibration: Iterable[Any] | None = None,
    *,
    example_inputs: Any = None,
    digital: Sequence[DigitalChoice] | str = (),
    inplace: bool = False,
    capture: Capture = "auto",
) -> nn.Module:
    """Rewrite every product with stored weights into what an analog array makes of it.

    Bias, BatchNorm, activations and everything else stay digital. The result is an ordinary
    module: its ``state_dict`` keeps the original's names, it trains, saves and copies like any
    other, and ``summary()`` says what was rewritten and what was not.

    Args:
        model: any module.
        target: a built-in name (see ``analogize.targets.names()``), a path to a YAML file, or a
            ``Target``.
        calibration: a data loader or iterable of batches that fixes the ranges of DACs and ADCs;
            not needed where the target quantizes no activations or fixes their ranges.
        example_inputs: a tensor, a tuple of positional or a mapping of named arguments, or a tuple
            of both, ``((x,), {"mask": mask})``; used to verify the rewriting and to count work. The
            first calibration batch by default.
        digital: what to keep digital besides the target's own choices: region names or globs,
            module types, or predicates of (name, module); ``"ends"`` is the first and the last
            region, a small share of the work that noise hurts most.
        capture: the front end. ``"auto"`` keeps the model's Python, its class and its methods:
            ``"hierarchical"`` rewrites its modules, and ``"intercept"``, which it takes where that
            Python uses weights directly, follows these too. ``"fx"`` makes one graph of the model,
            which computes what the example did; it refuses what it sees a graph would lose.
        inplace: rewrite over the model's own modules instead of a copy. Parameters are shared
            then, and the original must not be used any more. After an error it is as before.

    Returns:
        The rewritten model, in the original's train or eval mode. ``model`` is untouched unless
        ``inplace``.

    Raises:
        TargetError: an unknown or malformed target.
        OffloadError: accelerate has offloaded its weights.
        CaptureError: the model cannot be captured, is analog already, or has nothing to rewrite.
        PassError: a weight that cannot be mapped, or a rewriting that failed its verification.
        CalibrationError: empty or constant calibration data.
    """
    loaded = load_target(target)
    check_functions(loaded)
    if not isinstance(model, nn.Module):
        raise CaptureError(f"expected an nn.Module, got {type(model).__name__}")
    # torch.compile's wrapper holds code of the model as it was.
    model = getattr(model, "_orig_mod", model)
    if any(isinstance(m, AnalogOp) for m in model.modules()):
        raise CaptureError(
            "the model is analog already; call analogize() on the original, or change the noise "
            "with noise_level() and noise_mode()"
        )
    refuse_sharded(model)
    refuse_offloaded(model)
    example, batches = _first_call(model, calibration, example_inputs)
    _refuse_lazy(model, example)
    wanted = (digital,) if isinstance(digital, str) else tuple(digital)
    with all_or_nothing(model):
        original = None if example is None else census(model, example)
        working = model if inplace else copied(model)
        uncompiled(working)
        if is_lazy(working) and example is not None:
            with eval_mode(working), torch.no_grad():
                example(working)
        captured = _captured(working, loaded, example, original, wanted, capture)
        if not operators(captured):
            raise CaptureError(_nothing_to_rewrite(captured))
        if batches is not None:
            calibrate(captured, batches)
    return captured


def _captured(
    working: nn.Module,
    target: Target,
    example: Call | None,
    original: Census | None,
    wanted: tuple[DigitalChoice, ...],
    capture: Capture,
) -> nn.Module:
    expected = None if original is None else original.output
    choices = tuple(choice for choice in wanted if choice != ENDS)
    if target.digital.ends or len(choices) < len(wanted):
        # Which regions there are, and in which order, is known once they have been made.
        first = Request(example, expected, choices)
        choices = (*choices, _ends(rewrite(copied(working), target, first, original, capture)))
    request = Request(example, expected, choices)
    return rewrite(working, target, request, original, capture)


def _ends(rewritten: nn.Module) -> DigitalChoice:
    """The choice of the first and the last region of a model."""
    found = [op.region.name for op in operators(rewritten)]

    def ends(name: str, _owner: nn.Module | None) -> bool:
        return name in (*found[:1], *found[-1:])

    return ends


def _refuse_lazy(model: nn.Module, example: Call | None) -> None:
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if example is None and is_uninitialized(tensor):
            raise CaptureError(
                f"'{name}' has no shape before the model's first call; pass example_inputs or "
                "calibration data, which are used to find it, or call the model once"
            )


def _nothing_to_rewrite(model: nn.Module) -> str:
    reasons = "; ".join(f"{d.name}: {d.reason}" for d in model.report.digital)  # type: ignore[union-attr]
    why = f" ({reasons})" if reasons else ": it holds no linear or convolution layer"
    return f"{type(model).__name__} has no operator that can become analog{why}"


def _first_call(
    model: nn.Module, calibration: Iterable[Any] | None, example_inputs: Any
) -> tuple[Call | None, Iterable[Any] | None]:
    """The example call, and the calibration batches with the one taken put back."""
    batches = calibration
    call = None if example_inputs is None else example_call(example_inputs)
    if calibration is not None and call is None:
        iterator = iter(calibration)
        try:
            first = next(iterator)
        except StopIteration:
            raise CalibrationError("the calibration data hold no batch") from None
        call = batch_call(first)
        # A loader starts over by itself; who knows whether another iterable does.
        starts_over = isinstance(calibration, Sequence | DataLoader)
        batches = calibration if starts_over else chain([first], iterator)
    return None if call is None else call.to(device_of(model)), batches
