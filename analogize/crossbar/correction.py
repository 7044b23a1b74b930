"""The digital correction of a chip's drift: in its tiles' sums, or of what the whole puts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from analogize.devices.compensation import is_of_tiles
from analogize.errors import ChipError
from analogize.product import Product

if TYPE_CHECKING:
    from analogize.crossbar.ops import AnalogOp


def of_tiles(correction: Tensor | None, product: Product) -> Tensor | None:
    """``correction`` if it has a factor for every tile of ``product``, and None otherwise."""
    return correction if is_of_tiles(correction, product) else None


def corrected(op: AnalogOp, y: Tensor) -> Tensor:
    """``y`` times the chip's digital correction, where the tiles have not got theirs.

    Raises:
        ChipError: it is of tiles that are converted together, which one factor cannot correct.
    """
    correction = op.array.correction
    if correction is None:
        return y
    if is_of_tiles(correction, op.product):
        if op.tiles is not None:
            return y
        if len(correction) > 1:
            raise ChipError(
                f"region '{op.region.name}': its drift is corrected tile by tile, but one "
                "conversion is of all its tiles; give array.tiling and adc.bits, or another "
                "compensation"
            )
        correction = correction[0]
    return y * correction.to(y.dtype)
