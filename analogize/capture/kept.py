"""Hierarchical capture: the model's Python is kept, and its products are replaced one by one.

Stock Linear and Conv modules are rewritten in place (leaf.py). Where Python uses weights directly,
the module that does, and every module around it, runs its forward under an interception
(intercept.py). The model keeps its type, attributes, methods, hooks and names.
"""

from __future__ import annotations

import re
from functools import wraps
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from analogize.capture.discover import Discovery, Site, discover
from analogize.capture.intercept import Interception, running
from analogize.capture.leaf import leaf_product, own_methods, rewrite_leaf, subclass
from analogize.capture.scope import Scope
from analogize.capture.watched import reading, watch
from analogize.crossbar.ops import AnalogOp
from analogize.crossbar.region import Region
from analogize.crossbar.weight_range import NoRange
from analogize.errors import CaptureError
from analogize.model.copying import held
from analogize.model.module import DigitalProduct
from analogize.model.one_pass import one_pass
from analogize.model.stored import StoredWeight
from analogize.passes.choice import (
    DISTANCE,
    NO_PRODUCT,
    Choices,
    Declined,
    Selected,
    enclosing,
    unmappable,
)
from analogize.passes.lower import Arrays, free_name
from analogize.passes.request import Request
from analogize.targets.overrides import settings_of
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
        owners = enclosing(model, site.weight)
        record = choices.decide(Selected(site.name, site.operator, site.weight), owners)
        reason = record.reason if isinstance(record, Declined) else _why_not(model, site, target)
        if reason is None and site.part is not None and not intercepts:
            reason = "the model's Python uses its weight directly, which only the interception sees"
        if reason is None:
            selected.append(site)
        else:
            chosen = isinstance(record, Declined) and record.chosen
            digital.append(DigitalProduct(site.name, site.operator, reason, chosen=chosen))
    lookups = _lookups(model, choices)
    choices.require_used()
    unreached = [(s.name, s.operator) for s in found.uncalled]
    for name, kind in (*unreached, *((n, "parameter") for n in found.unmet)):
        digital.append(DigitalProduct(name, kind, _UNREACHED))
    digital += [DigitalProduct(n, kind, DISTANCE) for n, kind in found.distances.items()]
    digital += _unchosen(model, found)
    if request.example is None:
        digital += _unknown(model)
    for site, reason in _lower(model, selected, target):
        selected.remove(site)
        digital.append(DigitalProduct(site.name, site.operator, reason, chosen=True))
    if request.example is None:
        digital += _held_elsewhere(model, selected)
    direct = [s for s in selected if s.used is not None]
    if direct:
        _intercept(model, found, direct)
    layers = [s.module for s in selected if s.module is not None and s.shared_part is None]
    idle = [name for name in found.idle if name not in found.unmet]
    watch(model, _read_by_nobody(model, found, [*layers, *lookups]), idle)
    log = (f"1 {len(selected) - len(direct)} modules rewritten", f"2 {len(direct)} intercepted")
    return model, digital, log


def _refuse_scripted(model: nn.Module) -> None:
    from torch.jit import ScriptModule

    for name, module in model.named_modules():
        if isinstance(module, ScriptModule):
            raise CaptureError(
                f"module '{name}' is compiled by torch.jit; rewrite the Python module instead"
            )


def _unknown(model: nn.Module) -> list[DigitalProduct]:
    """The modules with matrices that only an example can show the use of."""
    reason = "example_inputs are needed to find how its Python uses its weights"
    return [
        DigitalProduct(name or "(model)", type(module).__name__, reason)
        for name, module in model.named_modules()
        if not isinstance(module, NO_PRODUCT)
        and leaf_product(module) is None
        and any(p.ndim > 1 for p in module.parameters(recurse=False))
    ]


def _unchosen(model: nn.Module, found: Discovery) -> list[DigitalProduct]:
    """The parts of a weight, such as experts, of which the example inputs chose others."""
    keys = [site.used.whole.key for site in found.direct if site.used is not None]
    left: list[DigitalProduct] = []
    for name in dict.fromkeys(n for s in found.direct if s.used for n in s.used.whole.names):
        one = re.compile(rf"(?:__getitem__|select)\({re.escape(name)}, (?:0, )?(-?\d+)\)")
        mine = [key for key in keys if name in key]
        if any(name in one.sub("", key) for key in mine):
            continue
        weight = attrgetter(name)(model)
        chosen = {int(n) % len(weight) for key in mine for n in one.findall(key)}
        others = [str(n) for n in range(len(weight)) if n not in chosen]
        if others:
            shown = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
            left.append(DigitalProduct(f"{name}[{shown}]", "parameter", _UNREACHED))
    return left


_UNREACHED = "the example inputs do not reach it"


def _held_elsewhere(model: nn.Module, sites: list[Site]) -> list[DigitalProduct]:
    """Whoever holds a layer's weight past torch's register, and can use it unseen."""
    weights = {id(model.get_parameter(s.weight)): s for s in sites if _is_parameter(model, s)}
    found: list[DigitalProduct] = []
    for name, module in model.named_modules():
        others = {k: v for k, v in module.__dict__.items() if k not in _REGISTERS}
        for key, value in others.items():
            for site in {s.name: s for s in held(value, weights)}.values():
                reason = f"it holds the weight of '{site.name}' as '{key}'; example_inputs are "
                reason += "needed to find whether its Python uses that"
                found.append(DigitalProduct(name or "(model)", type(module).__name__, reason))
    return found


_REGISTERS = ("_parameters", "_buffers", "_modules")


def _lookups(model: nn.Module, choices: Choices) -> list[nn.Module]:
    """The embeddings that nobody wants digital; models multiply by their weights at their end."""
    found: list[nn.Module] = []
    for name, module in model.named_modules():
        if type(module) is nn.Embedding:
            weight = f"{name}.weight".lstrip(".")
            record = choices.decide(Selected(name, "linear", weight), enclosing(model, weight))
            if not isinstance(record, Declined):
                found.append(module)
    return found


def _read_by_nobody(model: nn.Module, found: Discovery, layers: list[nn.Module]) -> list[nn.Module]:
    """Those of ``layers`` whose weight no Python but their own read, as far as is known."""
    used = {n for s in found.direct if s.used is not None for n in s.used.whole.names}
    used |= set(found.distances)
    read = {id(p) for n, p in model.named_parameters(remove_duplicate=False) if n in used}
    return [m for m in layers if id(m._parameters.get("weight")) not in read]


def _is_parameter(model: nn.Module, site: Site) -> bool:
    path, _, name = site.weight.rpartition(".")
    return name in model.get_submodule(path)._parameters


def _why_not(model: nn.Module, site: Site, target: Target) -> str | None:
    weight = StoredWeight(model, site.weight, site.expression).value()
    if (reason := unmappable(weight)) is not None:
        return reason
    granularity = settings_of(target, site.name).weights.granularity
    if site.part is not None and site.part.moves and granularity == "channel":
        return "its part is chosen at run time, which has no per-channel range"
    return None


def _lower(model: nn.Module, sites: list[Site], target: Target) -> list[tuple[Site, str]]:
    """Give every site its operator; returns those that no array can hold, each with its reason."""
    arrays = Arrays(target)
    made: list[tuple[Site, AnalogOp]] = []
    declined: list[tuple[Site, str]] = []
    for site in sites:
        weight = StoredWeight(model, site.weight, site.expression).value()
        source = site.expression.key if site.expression is not None else id(weight)
        try:
            array, settings = arrays.of(weight, site.product, site.name, source)
        except NoRange as error:
            declined.append((site, error.reason))
            continue
        op = AnalogOp(array, site.product, settings, _region(site, weight, len(made)))
        made.append((site, op.bind(model, site.expression)))
    for site, op in made:
        path, _, name = site.weight.rpartition(".")
        owner = model.get_submodule(path)
        owner.add_module(free_name(owner, name), op.train(owner.training))
        site.operator_module = op
        whole = site.part is not None and site.part.key == site.weight
        if site.module is not None:
            rewrite_leaf(site.module, op)
        elif whole and name == "weight" and leaf_product(owner) == site.product:
            # The example reads this layer's weight and never calls it; someone else may.
            rewrite_leaf(owner, op)
    return declined


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


def _intercept(model: nn.Module, found: Discovery, sites: list[Site]) -> None:
    """Give every module that uses weights directly, and those around it, the shared scope."""
    scope = Scope()
    names: dict[str, None] = {}
    for site in sites:
        assert site.used is not None
        assert site.operator_module is not None
        scope.operators[site.used.key, site.product] = site.operator_module
        names |= dict.fromkeys(site.used.whole.names)
    # Those that nobody prepared an operator for are followed to tell when they are used.
    names |= dict.fromkeys(found.idle)
    scope.follow(model, tuple(names))
    scope.told = {s.used.key for s in found.direct if s.used is not None and s not in sites}
    scope.told |= set(found.distances)
    around = {""}
    for user in found.users:
        steps = user.split(".")
        around |= {".".join(steps[:n]) for n in range(len(steps) + 1)}
    for name in around:
        module = model.get_submodule(name)
        module.__dict__["_analog_scope"] = scope
        own = [n for n in names if _keeper(n, around) == name]
        start = len(name) + 1 if name else 0
        module.__dict__["_analog_names"] = tuple((n, n[start:]) for n in own)
        module.__class__ = kept_class(type(module))


def _keeper(name: str, around: set[str]) -> str:
    """The innermost module of ``around`` that holds the parameter ``name``."""
    path = name
    while path not in around:
        path = path.rpartition(".")[0]
    return path


def kept_class(original: type[nn.Module]) -> type[nn.Module]:
    """A subclass of ``original`` whose calls, hooks included, run under an interception.

    So do the methods that its authors wrote: whoever calls one by itself, or checkpoints it, gets
    the products that a call of the whole model gets.
    """
    members = {name: _method(function) for name, function in own_methods(original).items()}
    members["forward"] = _method(original.forward)
    members["__call__"] = _method(original.__call__)

    def replace(self: Any, name: str, value: Any) -> None:
        original.__setattr__(self, name, value)
        if isinstance(value, nn.Parameter) and (run := running(self._analog_scope)) is not None:
            run.meet(self, self._analog_names)

    members["__setattr__"] = replace
    return subclass(original, members, kept_class)


def _method(function: Any) -> Any:
    @wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _intercepted(self, function, args, kwargs)

    return method


def _intercepted(module: Any, function: Any, args: Any, kwargs: Any) -> Any:
    """Run a method of ``module`` under the model's interception, a new one if there is none.

    torch.compile leaves this to Python: it cannot follow which tensors are weights.
    """
    if torch.compiler.is_dynamo_compiling():
        return _uncompiled(module, function, args, kwargs)
    scope: Scope = module._analog_scope
    if (run := running(scope)) is not None:
        # Sharding gathers a module's parameters just before its forward.
        run.meet(module, module._analog_names)
        return function(module, *args, **kwargs)
    with one_pass(module), reading(), Interception(scope) as run:
        # A replica's parameters are not those that the scope knows.
        run.meet(module, module._analog_names)
        with run.announced():
            return function(module, *args, **kwargs)


_uncompiled = _disable_dynamo(_intercepted)
