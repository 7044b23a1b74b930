"""The weights of a forward pass on fresh noise: one draw an array and pass.

A draw is a function of the pass's seed and of the array's name, so that it does not matter when an
array draws, or how often. Small arrays share one large draw, and are clipped, quantized and
disturbed together, by torch's operators on lists of tensors: as many kernels as for one array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from analogize.crossbar.array import WeightArray
from analogize.crossbar.seeds import version
from analogize.devices.cells import Reading, read_cells
from analogize.devices.conductance import from_cells
from analogize.devices.random import Draws, Place, large_draw
from analogize.model import transforms
from analogize.model.one_pass import Pass, compiled_seed, running_pass
from analogize.targets import noise as models

if TYPE_CHECKING:
    from analogize.crossbar.ops import AnalogOp

# Elements. Beyond these, an array's own kernels take longer than starting them.
LARGEST, TOGETHER = 2**17, 2**18

_AT_PRODUCTS = (models.ReadNoise, models.OutputNoise)


class Group:
    """Operators whose arrays share one large draw.

    Attributes:
        name: of the draw.
        ops: one for each array.
        total: elements of all arrays.
    """

    def __init__(self, name: str) -> None:
        self.name, self.total = name, 0
        self.ops: list[AnalogOp] = []

    def add(self, op: AnalogOp) -> None:
        """Give the operator's array the next place."""
        op.array.place = self, self.total
        self.ops.append(op)
        self.total += op.array.shape.numel()


class Drawn(NamedTuple):
    """An array's weights for the rest of a pass, and what they were made of."""

    array: WeightArray
    weight: Tensor
    version: int
    noise: tuple[models.NoiseModel, ...]
    used: Tensor


def arrange(ops: Sequence[AnalogOp]) -> None:
    """Decide which arrays draw together; the same model is always arranged alike."""
    group = Group("group 0")
    seen: set[int] = set()
    count = 0
    for op in ops:
        size = op.array.shape.numel()
        if size > LARGEST or op.array.is_two_sided or id(op.array) in seen:
            continue
        seen.add(id(op.array))
        if group.total + size > TOGETHER:
            count += 1
            group = Group(f"group {count}")
        group.add(op)


def fresh_weights(op: AnalogOp, weight: Tensor) -> Tensor:
    """The weights that ``op`` multiplies by in this pass, in array units; not differentiable.

    Args:
        op: an operator.
        weight: what its array is to hold, of the array's shape.
    """
    array = op.array
    detached = weight.detach()
    if array.is_silent or not _is_seedable(detached):
        return array.noisy(array.clean(detached))
    if torch.compiler.is_compiling():
        return _draw(array, detached, compiled_seed(), array.name, _place(array))
    this = running_pass() or Pass()
    found = _kept(this, array, weight)
    if found is None and array.place is not None and not this.is_over:
        _draw_together(this, array.place[0])
        found = _kept(this, array, weight)
    if found is None:
        name = this.name_of(array.name, array.home)
        found = _draw(array, detached, this.seed, name, _place(array, this))
        if not this.is_over:
            _keep(this, array, weight, found)
    return found


def _is_seedable(weight: Tensor) -> bool:
    """Whether draws may come from a generator of their own here."""
    if torch._C._are_functorch_transforms_active():
        return False
    return not (weight.is_cuda and torch.cuda.is_current_stream_capturing())


def _place(array: WeightArray, this: Pass | None = None) -> Place | None:
    if array.place is None or array.cell_bits is not None:
        return None
    group, offset = array.place
    name = group.name if this is None else this.name_of(group.name, group)
    return Place(f"{name}/0", offset, group.total)


def _draw(
    array: WeightArray, weight: Tensor, seed: int | Tensor, name: str, place: Place | None
) -> Tensor:
    draws = Draws(f"array {name}", seed, place)
    return array.noisy(array.clean(weight), draws, Reading(draws))


def _kept(this: Pass, array: WeightArray, weight: Tensor) -> Tensor | None:
    found: Drawn | None = this.kept.get(id(array))
    if found is None or found.weight is not weight or found.noise is not array.noise:
        return None
    return found.used if found.version == version(weight) else None


def _keep(this: Pass, array: WeightArray, weight: Tensor, used: Tensor) -> None:
    this.kept[id(array)] = Drawn(array, weight, version(weight), array.noise, used)


def _draw_together(this: Pass, group: Group) -> None:
    """Draw for every array of ``group`` that is as simple as arrays mostly are."""
    if group in this.kept:
        return
    this.kept[group] = True
    alike: dict[Any, list[tuple[WeightArray, Tensor]]] = {}
    for op in group.ops:
        weight = _plain_weight(op)
        kind = None if weight is None else _kind(op.array, weight)
        if weight is not None and kind is not None:
            alike.setdefault(kind, []).append((op.array, weight))
    for kind, members in alike.items():
        if len(members) == 1:
            continue
        arrays, weights = [a for a, _ in members], [w for _, w in members]
        clean = _clean([w.detach() for w in weights], arrays)
        if kind[0] == "devices":
            used = _devices(this, group, arrays, clean)
        else:
            used = _gaussian(this, group, arrays, clean)
        for array, weight, drawn in zip(arrays, weights, used, strict=True):
            _keep(this, array, weight, drawn)


def _plain_weight(op: AnalogOp) -> Tensor | None:
    """The parameter that ``op`` multiplies by, or None where it is anything else."""
    stored = getattr(op, "stored", None)
    if op.observer is not None or op.draws_noise is False or stored is None:
        return None
    weight = stored.plain()
    weight = None if weight is None else transforms.plain(weight)
    if weight is None or weight.shape != op.array.shape or not weight.is_contiguous():
        return None
    if weight.is_meta:
        return None  # offloaded until its own module is called
    return weight if type(weight) in (Tensor, nn.Parameter) else None


def _kind(array: WeightArray, weight: Tensor) -> Any:
    """What arrays must have in common to be drawn together; None for one that is drawn alone."""
    if array.limits is None or array.range.ndim != 1 or array.cell_bits is not None:
        return None
    if array.scale is not None and (array.ends is None or weight.dtype != torch.float32):
        return None
    noise = [m for m in array.noise if not models.acts_on_signals(m)]
    loud = [m for m in noise if not isinstance(m, _AT_PRODUCTS)]
    common = (weight.dtype, weight.device, array.scale is None, array.folded)
    if len(loud) == 1 and isinstance(loud[0], models.GaussianNoise) and not loud[0].eta_std:
        return ("gaussian", *common) if loud[0] is array.noise[0] else None
    mapping = array.conductance
    if mapping is None or mapping.scale == "column" or mapping.encoding == "offset":
        return None
    if not all(map(models.is_by_device, loud)):
        return None
    return "devices", *common, array.noise, mapping


def _clean(weights: list[Tensor], arrays: Sequence[WeightArray]) -> list[Tensor]:
    """As ``WeightArray.clean`` for all of them."""
    if arrays[0].scale is None:
        lows, highs = zip(*(a.limits for a in arrays if a.limits is not None), strict=True)
        found: list[Tensor] = list(torch._foreach_clamp_max(weights, list(highs)))
    else:
        lows, highs = zip(*(a.ends for a in arrays if a.ends is not None), strict=True)
        found = list(torch._foreach_div(weights, _steps(arrays)))
        torch._foreach_round_(found)
        torch._foreach_clamp_max_(found, list(highs))
    torch._foreach_clamp_min_(found, list(lows))
    if arrays[0].scale is not None and arrays[0].folded:
        torch._foreach_mul_(found, _steps(arrays))
    return found


def _steps(arrays: Sequence[WeightArray]) -> list[float]:
    return [a.step for a in arrays if a.step is not None]


def _span(array: WeightArray) -> tuple[float, float]:
    """W_min and W_max in array units, as numbers."""
    if array.step is None:
        assert array.limits is not None, "who is asked has a range"
        return float(array.limits[0]), float(array.limits[1])
    unit = array.step if array.folded else 1.0
    return float(array.low) * unit, float(array.high) * unit


def _gaussian(
    this: Pass, group: Group, arrays: Sequence[WeightArray], clean: list[Tensor]
) -> list[Tensor]:
    name = this.name_of(group.name, group)
    drawn = large_draw(clean[0], this.seed, "normal", f"{name}/0", group.total)
    views = []
    for array in arrays:
        assert array.place is not None, "an array in a group has a place"
        views.append(drawn.narrow(0, array.place[1], array.shape.numel()).view(array.shape))
    widths = [high - low for low, high in map(_span, arrays)]
    etas = [m.eta for a in arrays for m in a.noise if isinstance(m, models.GaussianNoise)]
    torch._foreach_mul_(views, [w * eta for w, eta in zip(widths, etas, strict=True)])
    torch._foreach_add_(views, clean)
    return views


def _devices(
    this: Pass, group: Group, arrays: Sequence[WeightArray], clean: list[Tensor]
) -> list[Tensor]:
    """The cells of all arrays in a row, each array's weights as shares of its own full scale."""
    first = arrays[0]
    assert first.conductance is not None, "arrays of devices have conductances"
    full = [max(map(abs, _span(a))) for a in arrays]
    shares = torch.cat([w.view(-1) for w in torch._foreach_div(clean, full)])
    draws = Draws(f"devices {this.name_of(group.name, group)}", this.seed)
    mapping = first.conductance
    cells = read_cells(shares, 1.0, mapping, first.noise, Reading(draws), first.name)
    parts = torch.split(from_cells(cells, 1.0, mapping), [a.shape.numel() for a in arrays])
    views = [part.view(a.shape) for part, a in zip(parts, arrays, strict=True)]
    torch._foreach_mul_(views, full)
    return views
