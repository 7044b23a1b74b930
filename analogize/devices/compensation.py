"""Digital correction of drift: one factor on an array's output, or one a column."""

from __future__ import annotations

from torch import Tensor

from analogize.product import Product, per_channel


def factors(reference: Tensor, drifted: Tensor, product: Product, each_column: bool) -> Tensor:
    """What the output of a drifted array is multiplied by.

    The ratio of summed absolute outputs at the reference time and now (Joshi et al., Nature
    Communications 11:2473, 2020). They calibrate with data; here every row is read alone, with a
    unit input (as aihwkit's GlobalDriftCompensation does), which needs no data, so the sums are
    those of the absolute weights.

    Args:
        reference: the weights read at the reference time.
        drifted: the same weights read now, in the same unit.
        product: how they lie in the array.
        each_column: one factor for each output channel instead of one for the array.

    Returns:
        0-d, or one value an output channel. A column that reads zero keeps the factor 1.
    """
    before, now = (per_channel(product, w).abs().sum(1) for w in (reference, drifted))
    if not each_column:
        before, now = before.sum(), now.sum()
    return (before / now).where((now > 0) & (before > 0), before.new_ones(()))
