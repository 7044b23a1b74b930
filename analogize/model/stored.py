"""Weights as a chip sees them: parameters, or what a model computes from parameters alone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from analogize.model.expression import Expression
from analogize.model.sharding import own_part


class StoredWeight:
    """A weight, known by the modules that own what it is made of: names change, owners stay.

    It is found wherever its model is put, and under whatever wrapper. Owners are held past
    ``nn.Module``'s register, so that no parameter gets a second name; copied or pickled together
    with them, the copy belongs to the copied owners.

    Args:
        root: the model that ``path`` and the expression's names belong to.
        path: the weight's qualified name.
        expression: how it is computed, or None where the owner's attribute is it.
    """

    def __init__(self, root: nn.Module, path: str, expression: Expression | None = None) -> None:
        self.expression = expression
        names = (path,) if expression is None else expression.names
        self._owners = {name: _owner(root, name) for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        """What the parameters and buffers were called in the model that was rewritten."""
        return tuple(self._owners)

    def owners(self) -> tuple[tuple[str, nn.Module], ...]:
        """Those names, each with the module that owns it."""
        return tuple((name, owner) for name, (owner, _) in self._owners.items())

    def value(self) -> Tensor:
        """The weight as it is now; differentiable, and with no step of an iteration."""
        if self.expression is not None:
            return self.expression.evaluate(self._leaf)
        ((owner, name),) = self._owners.values()
        if is_parametrized(owner, name):
            return _parametrized(owner, name)
        for hook in owner._forward_pre_hooks.values():
            # Torch's old forms compute the attribute before each call.
            if isinstance(hook, WeightNorm) and hook.name == name:
                setattr(owner, name, hook.compute_weight(owner))
            elif isinstance(hook, SpectralNorm) and hook.name == name:
                setattr(owner, name, hook.compute_weight(owner, do_power_iteration=False))
        return self._attribute(owner, name)

    def plain(self) -> nn.Parameter | None:
        """The weight where it is a parameter that nothing computes; None otherwise."""
        if self.expression is not None:
            return None
        ((owner, name),) = self._owners.values()
        return owner._parameters.get(name)

    def sources(self) -> tuple[Tensor, ...]:
        """Parameters and buffers behind a computed weight; () where the weight is one itself."""
        if self.expression is not None:
            return tuple(map(self._leaf, self.expression.names))
        ((owner, name),) = self._owners.values()
        if is_parametrized(owner, name):
            behind: nn.Module = owner.parametrizations[name]  # type: ignore[index, assignment]
            return (*behind.parameters(), *behind.buffers())
        if name in owner._parameters:
            return ()
        own = (*owner._parameters.items(), *owner._buffers.items())
        return tuple(t for key, t in own if key.startswith(f"{name}_") and t is not None)

    def is_computed(self) -> bool:
        """Whether the weight is a tensor of its own, that writing to would change nothing."""
        places = {own_part(t).untyped_storage().data_ptr() for t in self.sources()}
        if not places and self.expression is None:
            return False
        return own_part(self.value()).untyped_storage().data_ptr() not in places

    def _leaf(self, name: str) -> Tensor:
        return self._attribute(*self._owners[name])

    @staticmethod
    def _attribute(owner: nn.Module, name: str) -> Tensor:
        value: Tensor = getattr(owner, name)
        return value


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
