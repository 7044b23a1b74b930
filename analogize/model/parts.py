"""Where the rewritten parts of a model are: the model itself, or modules anywhere inside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from analogize.model.module import DigitalProduct, Report

Module = TypeVar("Module", bound=nn.Module)

_WRAPPERS = (OptimizedModule, DataParallel, DistributedDataParallel, AveragedModel)
_OUTSIDE = "outside of the parts that analogize() rewrote"


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """The rewritten modules in ``model``, by what their names begin with there: ``"backbone."``."""
    return {
        f"{path}." if path else "": module
        for path, module in model.named_modules()
        if _is_part(module)
    }


def _is_part(module: nn.Module) -> bool:
    # Not getattr: wrappers answer for what they wrap.
    return isinstance(module.__dict__.get("report"), Report)


def place_of(path: str, places: Iterable[str]) -> str:
    """Which of ``places`` the module ``path`` is in; "" for one that was taken out of its part."""
    return max((place for place in places if path.startswith(place)), key=len, default="")


def by_part(model: nn.Module, kind: type[Module]) -> dict[str, list[Module]]:
    """Every module of ``kind`` once, by the place of the part that it is in."""
    places: list[str] = []
    found: dict[str, list[Module]] = {}
    for path, module in model.named_modules():
        if _is_part(module):
            places.append(f"{path}." if path else "")
        if isinstance(module, kind):
            found.setdefault(place_of(path, places), []).append(module)
    return found


def is_wrapper(model: nn.Module, places: Mapping[str, nn.Module]) -> bool:
    """Whether ``model`` adds no parameter to a single rewritten part: DataParallel, an average."""
    if len(places) != 1:
        return False
    (part,) = places.values()
    inside = {id(p) for p in part.parameters()}
    return all(id(p) in inside for p in model.parameters())


def unwrapped(model: nn.Module) -> nn.Module:
    """What torch's own wrappers compute: they replicate, average or compile one module."""
    while isinstance(model, _WRAPPERS):
        inner = model._orig_mod if isinstance(model, OptimizedModule) else model.module
        assert isinstance(inner, nn.Module)
        model = inner
    return model


def report_of(model: nn.Module) -> Report | None:
    """What the rewriting of every part of ``model`` did, together; None where no part is analog.

    Modules with matrices outside of every part are digital, for the reason that nobody rewrote
    them. The work of the whole is unknown then.
    """
    model = unwrapped(model)
    places = parts(model)
    found = {place: _report(module) for place, module in places.items()}
    if not found:
        return None
    if is_wrapper(model, places):
        (only,) = found.values()
        return only
    digital = [
        replace(product, name=place + product.name)
        for place, report in found.items()
        for product in report.digital
    ]
    outside = _outside(model, places)
    totals = [report.total_macs for report in found.values()]
    known = None if outside or None in totals else sum(n or 0 for n in totals)
    samples = {report.samples for report in found.values()}
    return Report(
        target=" + ".join(dict.fromkeys(r.target for r in found.values())),
        digital=(*digital, *outside),
        total_macs=known,
        log=tuple(f"{place}{line}" for place, r in found.items() for line in r.log),
        capture=" + ".join(dict.fromkeys(r.capture for r in found.values())),
        declined=tuple(dict.fromkeys(line for r in found.values() for line in r.declined)),
        # Parts that were shown batches of different sizes have no number in common.
        samples=samples.pop() if len(samples) == 1 else 1,
    )


def _report(part: nn.Module) -> Report:
    """What the rewriting did, and what was found to run digitally since."""
    report: Report = part.__dict__["report"]
    scope = part.__dict__.get("_analog_scope")
    met: dict[str, DigitalProduct] = dict(part.__dict__.get("_analog_met", ()))
    met |= {} if scope is None else scope.met
    before = (d for d in report.digital if d.name not in met)
    return replace(report, digital=(*before, *met.values())) if met else report


def _outside(model: nn.Module, places: Mapping[str, nn.Module]) -> list[DigitalProduct]:
    inside = {id(m) for part in places.values() for m in part.modules()}
    return [
        DigitalProduct(path or "(model)", type(module).__name__, _OUTSIDE)
        for path, module in model.named_modules()
        if id(module) not in inside and any(p.ndim > 1 for p in module.parameters(recurse=False))
    ]
