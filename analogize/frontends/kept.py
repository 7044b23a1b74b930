"""Hierarchical capture: the model's Python is kept, and its products are replaced one by one.

Stock Linear and Conv modules are rewritten in place (leaf.py). Where Python uses weights directly,
the module that does, and every module around it, runs its forward under an interception
(intercept.py). The model keeps its type, attributes, methods, hooks and names.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from torch import Tensor, nn

from analogize.array import WeightArray
from analogize.errors import CaptureError
from analogize.frontends.discover import Discovery, Site, discover
from analogize.frontends.intercept import Interception, Scope
from analogize.frontends.leaf import rewrite_leaf, subclass
from analogize.module import DigitalProduct
from analogize.ops import AnalogOp
from analogize.passes.choice import Choices, Declined, Selected
from analogize.passes.lower import layout
from analogize.passes.request import Request
from analogize.region import Region
from analogize.targets.spec import Target


def keep(
    model: nn.Module, target: Target, request: Request, intercepts: bool
) -> tuple[nn.Module, list[DigitalProduct], tuple[str, ...]]:
    """Rewrite ``model`` in place; returns it, what stays digital, and a log.

    Args:
        model: the copy to rewrite.
        target: the device.
        request: example inputs, and what the user wants digital.
        intercepts: whether uses of weights in kept Python are intercepted; where not, they are
            reported as digital.

    Raises:
        CaptureError: a scripted module.
        PassError: a choice that matches nothing, or a weight that cannot be mapped.
    """
    _refuse_scripted(model)
    found = discover(model, request.example)
    choices = Choices(target, request.digital)
    selected: list[Site] = []
    digital: list[DigitalProduct] = []
    for site in found.sites:
        owner = model.get_submodule(site.weight.rpartition(".")[0])
        record = choices.decide(Selected(site.name, site.operator, site.weight), owner)
        reason = record.reason if isinstance(record, Declined) else _why_not(site, target)
        if reason is None and site.part is not None and not intercepts:
            reason = "Python that could not be traced uses its weight directly"
        if reason is None:
            selected.append(site)
        else:
            digital.append(DigitalProduct(site.name, site.operator, reason))
    choices.require_used()
    for site in found.uncalled:
        reason = "the example inputs do not reach it"
        digital.append(DigitalProduct(site.name, site.operator, reason))
    _lower(model, selected, target)
    direct = [s for s in selected if s.part is not None]
    if direct:
        _intercept(model, found, direct)
    log = (f"1 {len(selected) - len(direct)} modules rewritten", f"2 {len(direct)} intercepted")
    return model, digital, log


def _refuse_scripted(model: nn.Module) -> None:
    from torch.jit import ScriptModule

    for name, module in model.named_modules():
        if isinstance(module, ScriptModule):
            raise CaptureError(
                f"module '{name}' is compiled by torch.jit; rewrite the Python module instead"
            )


def _why_not(site: Site, target: Target) -> str | None:
    if site.part is not None and site.part.moves and target.weights.granularity == "channel":
        return "its part is chosen at run time, which has no per-channel range"
    return None


def _lower(model: nn.Module, sites: list[Site], target: Target) -> None:
    arrays: dict[Any, WeightArray] = {}
    made: list[tuple[Site, AnalogOp]] = []
    for index, site in enumerate(sites):
        weight = _weight(model, site)
        source = site.expression.key if site.expression is not None else id(weight)
        key = source, layout(site.product)
        if key not in arrays:
            folded = target.dac.bits is None and target.adc.bits is None
            arrays[key] = WeightArray(weight, site.product, target, site.name, folded)
        op = AnalogOp(arrays[key], site.product, target, _region(site, weight, index))
        op.expression = site.expression
        made.append((site, op))
    for site, op in made:
        path, _, name = site.weight.rpartition(".")
        owner = model.get_submodule(path)
        owner.add_module(_free_name(owner, name), op.train(owner.training))
        site.operator_module = op
        if site.module is not None:
            rewrite_leaf(site.module)


def _weight(model: nn.Module, site: Site) -> Tensor:
    if site.expression is not None:
        return site.expression.evaluate(model)
    path, _, name = site.weight.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(path), name)
    return weight


def _region(site: Site, weight: Tensor, index: int) -> Region:
    return Region(
        name=site.name,
        operator=site.operator,
        weight=site.weight,
        weight_shape=tuple(weight.shape),
        bias=site.bias,
        index=index,
        calls=max(site.calls, 1),
        input_shape=site.input_shape,
    )


def _free_name(owner: nn.Module, weight: str) -> str:
    wanted = "analog" if weight == "weight" else f"analog_{weight}"
    free, number = wanted, 1
    while hasattr(owner, free):
        number += 1
        free = f"{wanted}_{number}"
    return free


def _intercept(model: nn.Module, found: Discovery, sites: list[Site]) -> None:
    """Give every module that uses weights directly, and those around it, the shared scope."""
    scope = Scope(model)
    names: dict[str, None] = {}
    for site in sites:
        assert site.part is not None
        assert site.operator_module is not None
        scope.operators[site.part.key, site.product] = site.operator_module
        names |= dict.fromkeys(site.part.whole.names)
    scope.names = tuple(names)
    around = {""}
    for user in found.users:
        steps = user.split(".")
        around |= {".".join(steps[:n]) for n in range(len(steps) + 1)}
    for name in around:
        module = model.get_submodule(name)
        module.__dict__["_analog_scope"] = scope
        module.__class__ = kept_class(type(module))


def kept_class(original: type[nn.Module]) -> type[nn.Module]:
    """A subclass of ``original`` that runs its forward under an interception."""

    @wraps(original.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        scope: Scope = self._analog_scope
        if scope.active:
            return original.forward(self, *args, **kwargs)
        scope.active = True
        try:
            with Interception(scope, scope.names):
                return original.forward(self, *args, **kwargs)
        finally:
            scope.active = False

    return subclass(original, forward, kept_class)
