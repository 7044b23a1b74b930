"""What of a region's noise its graph draws at every run, as constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analogize.crossbar import noise as noise_models
from analogize.crossbar.ops import AnalogOp
from analogize.devices.reading import Disturbance
from analogize.errors import ExportError
from analogize.onnx.writing.body import Array, array
from analogize.targets.noise import (
    FixedSNRNoise,
    GaussianNoise,
    NoiseModel,
    OutputNoise,
    ReadNoise,
)

# Standard deviation in array units (the span where the level itself is random), and its model.
Deviation = tuple[Array, NoiseModel]


@dataclass(frozen=True)
class RuntimeNoise:
    """What a graph draws.

    Attributes:
        weights: the deviations of each digit of the weights, of the one "digit" without slicing;
            empty where nothing is drawn.
        products: noise of every product, or None.
        variances: with read noise of single devices, the variance of each weight in squared array
            units: for every row of tiles, and in it for every digit.
    """

    weights: tuple[tuple[Deviation, ...], ...] = ()
    products: Disturbance | None = None
    variances: tuple[Array, ...] = ()


def plan_noise(op: AnalogOp, clean: Tensor, transposed: bool) -> RuntimeNoise:
    """Plan what the graph draws.

    Args:
        op: the operator.
        clean: its weights in array units, without noise, on the CPU.
        transposed: whether the file keeps them with their last two dimensions exchanged.

    Raises:
        ExportError: a noise model that a graph cannot draw.
    """
    for model in op.array.noise:
        if not noise_models.is_silent(model):
            _require_drawable(op, model)
    digits = op.array.digits(clean) if _has_digits(op) else clean.unsqueeze(0)
    deviations = tuple(
        tuple(_deviation(op, digit, model, transposed) for model in _on_weights(op))
        for digit in digits
    )
    products = op._noisy_stages.disturb
    variances: tuple[Array, ...] = ()
    if products is not None and products.cells is not None:
        if _on_weights(op):
            raise ExportError(
                f"region '{op.region.name}': read noise of single devices depends on their "
                "weights, which this target draws anew at every run, too; export a programmed chip"
            )
        pieces = [None] if op.tiles is None else op.tiles.pieces
        parts = [d if p is None else p.weights(d) for p in pieces for d in digits]
        found = [products.cells.variance(part) for part in parts]
        variances = tuple(array(v.mT if transposed else v) for v in found)
    return RuntimeNoise(deviations, products, variances)


def products_are_noisy(op: AnalogOp) -> bool:
    """Whether every product draws noise, on a programmed chip too."""
    return op._noisy_stages.disturb is not None


def _has_digits(op: AnalogOp) -> bool:
    return op.tiles is not None and op.tiles.cell_bits is not None


def _on_weights(op: AnalogOp) -> list[NoiseModel]:
    kinds = (GaussianNoise, FixedSNRNoise)
    return [m for m in op.array.noise if isinstance(m, kinds) and not noise_models.is_silent(m)]


def _require_drawable(op: AnalogOp, model: NoiseModel) -> None:
    if isinstance(model, GaussianNoise | FixedSNRNoise | ReadNoise | OutputNoise):
        return
    why = (
        "is a Python function"
        if model.model == "custom"
        else "acts on the conductances of single devices and lasts as long as the chip"
    )
    raise ExportError(
        f"region '{op.region.name}': the noise model '{model.model}' {why}, so an ONNX graph "
        "cannot draw it at every run; export one chip (noise=3, or program(model, ...) and "
        "noise='programmed') or clean weights (noise=None)"
    )


def _deviation(op: AnalogOp, weights: Tensor, model: NoiseModel, transposed: bool) -> Deviation:
    if isinstance(model, FixedSNRNoise):
        sigma = weights.std(correction=0) * model.ratio
    else:
        assert isinstance(model, GaussianNoise)
        low, high = op.array.span()
        span = (torch.as_tensor(high) - torch.as_tensor(low)).float()
        sigma = span if model.eta_std else span * model.eta
    values = array(sigma).astype(np.float32)
    return (values.swapaxes(-1, -2) if transposed and values.ndim > 1 else values), model
