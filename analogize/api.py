"""analogize(): load the target, capture the model, run the pipeline, calibrate."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import fx, nn

from analogize.calibrate import calibrate
from analogize.calls import Call, batch_call, device_of, example_call
from analogize.capture import capture
from analogize.errors import CalibrationError, CaptureError
from analogize.module import AnalogModule, DigitalProduct, Report
from analogize.ops import operators
from analogize.passes import PIPELINE
from analogize.passes.mark import Declined
from analogize.passes.request import DigitalChoice, Request
from analogize.pipeline import run
from analogize.targets import load_target
from analogize.targets.spec import Target


def analogize(
    model: nn.Module,
    target: str | os.PathLike[str] | Target = "pcm_4bit",
    calibration: Iterable[Any] | None = None,
    *,
    example_inputs: Any = None,
    digital: Sequence[DigitalChoice] = (),
    inplace: bool = False,
) -> AnalogModule:
    """Rewrite every product with stored weights into what an analog array makes of it.

    Bias, BatchNorm, activations and everything else stay digital. The result is an ordinary
    module: its ``state_dict`` keeps the original's names, it trains, saves and copies like any
    other, and ``summary()`` says what was rewritten and what was not.

    Args:
        model: any module that torch.fx can trace.
        target: a built-in name (see ``analogize.targets.names()``), a path to a YAML file, or a
            ``Target``.
        calibration: a data loader or iterable of batches that fixes the ranges of DACs and ADCs;
            not needed where the target quantizes no activations or fixes their ranges.
        example_inputs: a tensor, a tuple of positional or a mapping of named arguments; used to
            verify the rewriting and to count work. The first calibration batch by default.
        digital: what to keep digital besides the target's own choices: region names or globs,
            module types, or predicates of (name, module).
        inplace: rewrite over the model's own modules instead of a copy. Parameters are shared
            then, and the original must not be used any more.

    Returns:
        The rewritten model, in the original's train or eval mode. ``model`` is untouched unless
        ``inplace``.

    Raises:
        TargetError: an unknown or malformed target.
        CaptureError: the model cannot be captured, is analog already, or has nothing to rewrite.
        PassError: a weight that cannot be mapped, or a rewriting that failed its verification.
        CalibrationError: empty or constant calibration data.
    """
    loaded = load_target(target)
    if not isinstance(model, nn.Module):
        raise CaptureError(f"expected an nn.Module, got {type(model).__name__}")
    example, batches = _first_call(model, calibration, example_inputs)
    request = Request(example, _expected(model, example), tuple(digital))
    captured = capture(model if inplace else copy.deepcopy(model))
    captured.meta["request"] = request
    log = run(captured, loaded, PIPELINE)
    captured.meta.clear()
    captured.report = _report(captured, loaded, example is not None, log)
    if not operators(captured):
        reasons = "; ".join(f"{d.name}: {d.reason}" for d in captured.report.digital)
        raise CaptureError(
            f"{type(model).__name__} has no operator that can become analog"
            + (f" ({reasons})" if reasons else ": it holds no linear or convolution layer")
        )
    if batches is not None:
        calibrate(captured, batches)
    return captured


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
        # A loader starts over by itself; an iterator is used up by what was taken from it.
        batches = chain([first], iterator) if iterator is calibration else calibration
    return None if call is None else call.to(device_of(model)), batches


def _expected(model: nn.Module, example: Call | None) -> Any:
    """The original's output in eval mode, leaving its mode and its buffers as they are."""
    if example is None:
        return None
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return example(model)
    except Exception as error:
        raise CaptureError(
            f"the model itself fails on the example inputs: {type(error).__name__}: {error}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training


def _report(module: fx.GraphModule, target: Target, measured: bool, log: tuple[str, ...]) -> Report:
    digital = []
    total = 0
    for node in module.graph.nodes:
        total += node.meta.get("macs", 0)
        if isinstance(record := node.meta.get("analog"), Declined):
            digital.append(
                DigitalProduct(record.name, record.operator, record.reason, node.meta.get("macs"))
            )
    return Report(target.name, tuple(digital), total if measured else None, log)
