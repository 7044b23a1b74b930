"""Weights as a chip sees them: parameters, or what a model computes from parameters alone."""

from __future__ import annotations

from operator import attrgetter

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from analogize.model.expression import Expression


def stored_weight(model: nn.Module, path: str, expression: Expression | None = None) -> Tensor:
    """The weight that ``model`` computes now; differentiable, and with no step of an iteration.

    Args:
        model: holds the parameters.
        path: the weight's qualified name.
        expression: how it is computed, or None where the owner's attribute is it.
    """
    if expression is not None:
        return expression.evaluate(model)
    owner, name = _owner(model, path)
    if is_parametrized(owner, name):
        return _parametrized(owner, name)
    for hook in owner._forward_pre_hooks.values():
        # Torch's old forms compute the attribute before each call.
        if isinstance(hook, WeightNorm) and hook.name == name:
            setattr(owner, name, hook.compute_weight(owner))
        elif isinstance(hook, SpectralNorm) and hook.name == name:
            setattr(owner, name, hook.compute_weight(owner, do_power_iteration=False))
    weight: Tensor = getattr(owner, name)
    return weight


def _owner(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    owner, _, name = path.rpartition(".")
    return model.get_submodule(owner), name


def _parametrized(owner: nn.Module, name: str) -> Tensor:
    parametrizations: nn.Module = owner.parametrizations[name]  # type: ignore[index, assignment]
    modes = [(m, m.training) for m in parametrizations.modules()]
    try:
        parametrizations.eval()
        weight: Tensor = getattr(owner, name)
        return weight
    finally:
        for module, training in modes:
            module.training = training


def sources(
    model: nn.Module, path: str, expression: Expression | None = None
) -> tuple[nn.Parameter, ...]:
    """The parameters behind a computed weight; () where the weight is one itself."""
    if expression is not None:
        found = [attrgetter(name)(model) for name in expression.names]
        return tuple(p for p in found if isinstance(p, nn.Parameter))
    owner, name = _owner(model, path)
    if is_parametrized(owner, name):
        return tuple(owner.parametrizations[name].parameters())  # type: ignore[index, union-attr]
    if name in owner._parameters:
        return ()
    own = owner.named_parameters(recurse=False)
    return tuple(p for key, p in own if key.startswith(f"{name}_"))
