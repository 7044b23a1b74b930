"""Operators whose converters have no range: never calibrated, or on nothing but zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from analogize.crossbar.converter import SMALLEST
from analogize.crossbar.precision import autocast
from analogize.errors import CalibrationError
from analogize.model import transforms
from analogize.product import Product

if TYPE_CHECKING:
    from analogize.crossbar.ops import AnalogOp


def require_met(op: AnalogOp) -> None:
    """Refuse a converter that calibration never met.

    Raises:
        CalibrationError: with the way out.
    """
    missing = " and ".join(
        name
        for name, c in (("DAC", op.dac), ("ADC", op.adc))
        if c.bits is not None and c.scale is None and not c.waits
    )
    if missing:
        raise CalibrationError(
            f"region '{op.region.name}': the range of its {missing} was never calibrated; pass "
            "calibration=loader to analogize(), call calibrate(model, loader), or give the target "
            "a fixed range"
        )


def of_zeros(op: AnalogOp, product: Product, x: Tensor, weight: Tensor) -> Tensor:
    """The product of what converters met in calibration, while all that was zero.

    Raises:
        CalibrationError: they are given more.
    """
    if transforms.are_active():
        raise CalibrationError(
            f"region '{op.region.name}' met nothing but zeros in calibration, and cannot see what "
            "it is given within torch.func; call calibrate(model, loader) first"
        )
    y = product.forward(*autocast(x, weight))
    for name, converter, values in (("DAC", op.dac, x), ("ADC", op.adc, y)):
        largest = float(values.detach().abs().max()) if values.numel() else 0.0
        if converter.waits and not largest <= SMALLEST:
            raise CalibrationError(
                f"region '{op.region.name}': its {name} met nothing but zeros in calibration and "
                f"has no range, and is given values up to {largest:g} now; call "
                "calibrate(model, loader) with data that reach it"
            )
    return y if op.side is None else op.side(y, x)
