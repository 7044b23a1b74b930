"""Find every product with stored weights in a model whose Python is kept, by running it once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._pytree import tree_leaves

from analogize.capture.intercept import Interception
from analogize.capture.leaf import leaf_product
from analogize.capture.scope import Part, Scope
from analogize.crossbar.ops import AnalogOp
from analogize.model.calls import Call
from analogize.model.counting import eval_mode
from analogize.model.expression import Expression
from analogize.model.snapshot import unchanged
from analogize.product import Product


@dataclass
class Site:
    """A weight and the product it is used in; one analog region if it is selected.

    Attributes:
        name: the region's name.
        operator: what is computed.
        weight: the parameter's qualified name, or the first of those that the weight is made of.
        product: the attributes of the product.
        module: the stock module that computes it, or None where Python uses the weight directly.
        part: how the weight is computed from parameters, for direct uses.
        bias: the bias' qualified name, or None.
        calls: how often the example calls it.
        input_shape: of the first call.
        shared_part: the same weight, where Python uses that of a stock module directly as well.
        operator_module: the analog operator, once it is made.
    """

    name: str
    operator: str
    weight: str
    product: Product
    module: nn.Module | None = None
    part: Part | None = None
    bias: str | None = None
    calls: int = 0
    input_shape: tuple[int, ...] | None = None
    shared_part: Part | None = None
    operator_module: AnalogOp | None = None

    @property
    def used(self) -> Part | None:
        """What Python uses directly, if it does."""
        return self.part or self.shared_part

    @property
    def expression(self) -> Expression | None:
        """What a chip holds, where that is no parameter."""
        if self.part is None or self.part.whole.function is None:
            return None
        return self.part.whole


@dataclass
class Discovery:
    """What a model does with its weights.

    Attributes:
        sites: stock modules and direct uses, in the order of their first call.
        uncalled: stock modules that the example does not reach.
        users: names of the modules whose Python uses or derives weights.
        unmet: matrices outside of stock modules that no function of the example touches.
        distances: names of weights that inputs are compared with, and by which operator.
        idle: matrices outside of stock modules that the example multiplies nothing by, those too.
    """

    sites: list[Site] = field(default_factory=list)
    uncalled: list[Site] = field(default_factory=list)
    users: set[str] = field(default_factory=set)
    unmet: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    distances: dict[str, str] = field(default_factory=dict)

    @property
    def direct(self) -> list[Site]:
        """Uses of weights that no stock module makes."""
        return [s for s in self.sites if s.used is not None]


def discover(model: nn.Module, example: Call | None) -> Discovery:
    """Run ``example`` and note every product; without one, list the stock modules."""
    leaves = {
        id(module): _leaf_site(model, name, module, product)
        for name, module in model.named_modules()
        if (product := leaf_product(module)) is not None
    }
    if example is None:
        mine = [s for s in leaves.values() if not _is_read_by_parent(s)]
        return Discovery(sites=mine)
    watcher = _Notes(model, leaves)
    scope = Scope()
    scope.follow(model, [n for n, _ in model.named_parameters()])
    scope.follow(model, [n for n, _ in model.named_buffers()])
    with ExitStack() as stack:
        stack.enter_context(unchanged(model))
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(watcher.following())
        stack.enter_context(Interception(scope, watcher))
        example(model)
    return watcher.result()


def _leaf_site(model: nn.Module, name: str, module: nn.Module, product: Product) -> Site:
    prefix = f"{name}." if name else ""
    bias = f"{prefix}bias" if isinstance(module.bias, Tensor) else None
    return Site(name or "weight", product.operator, f"{prefix}weight", product, module, bias=bias)


def _is_read_by_parent(site: Site) -> bool:
    """nn.MultiheadAttention never calls its output projection; it reads the weight."""
    return type(site.module).__name__ == "NonDynamicallyQuantizableLinear"


class _Notes:
    """The watcher: which module is running, and what it does."""

    def __init__(self, model: nn.Module, leaves: dict[int, Site]) -> None:
        self.model, self.leaves = model, leaves
        self.paths: dict[int, str] = {id(m): name for name, m in model.named_modules()}
        self.names = {id(p): n for n, p in model.named_parameters()}
        self.stack: list[nn.Module] = []
        self.called: dict[int, Site] = {}
        self.direct: dict[tuple[str, Product], Site] = {}
        self.order: list[Site] = []
        self.users: set[str] = set()
        self.seen: set[int] = set()
        self.distances: dict[str, str] = {}

    def result(self) -> Discovery:
        """What was noted."""
        uncalled = [
            site
            for key, site in self.leaves.items()
            if key not in self.called and site.weight not in self._directly_used()
        ]
        used = {s.weight for s in self.leaves.values()} | self._directly_used()
        idle = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.ndim > 1 and name not in used
        }
        unmet = [name for name, parameter in idle.items() if id(parameter) not in self.seen]
        unused = [name for name in idle if name not in self.distances]
        return Discovery(self.order, uncalled, self.users, unmet, unused, self.distances)

    def _directly_used(self) -> set[str]:
        return {n for s in self.direct.values() if s.used for n in s.used.whole.names}

    def met(self, values: tuple[Any, ...]) -> None:
        self.seen |= {id(leaf) for leaf in tree_leaves(values)}

    def derived(self) -> None:
        if not self._in_leaf():
            self.users.add(self._here())

    def distance(self, part: Part, operator: str) -> None:
        for name in part.whole.names:
            self.distances.setdefault(name, operator)

    def product(
        self, part: Part, product: Product, operator: str, weight: Tensor, arguments: dict[str, Any]
    ) -> None:
        if self._in_leaf():
            return
        self.users.add(self._here())
        site = self.direct.get((part.key, product)) or self._same_as_a_leaf(part, product)
        if site is None:
            name = self._name(part)
            bias = self.names.get(id(arguments.get("bias")))
            site = Site(name, operator, part.whole.names[0], product, part=part, bias=bias)
            site.input_shape = tuple(arguments["input"].shape)
            self.direct[part.key, product] = site
            self.order.append(site)
        site.calls += 1

    def _same_as_a_leaf(self, part: Part, product: Product) -> Site | None:
        """The stock module, called before, that computes this very product: one operator."""
        for site in self.called.values():
            if (site.weight, site.product) == (part.key, product):
                site.shared_part = part
                self.direct[part.key, product] = site
                return site
        return None

    def _name(self, part: Part) -> str:
        """The parameter's path; a number tells several uses of one parameter apart."""
        wanted = part.whole.names[0].removesuffix(".weight")
        taken = {s.name for s in self.direct.values()} | {s.name for s in self.leaves.values()}
        owner = part.whole.names[0].rpartition(".")[0]
        if wanted not in taken or (part.whole.function is None and self._is_uncalled(owner)):
            return wanted
        number = 2
        while f"{wanted}.{number}" in taken:
            number += 1
        return f"{wanted}.{number}"

    def _is_uncalled(self, path: str) -> bool:
        return id(self.model.get_submodule(path)) not in self.called

    def _here(self) -> str:
        for module in reversed(self.stack):
            if id(module) in self.paths:
                path: str = self.paths[id(module)]
                return path
        return ""

    def _in_leaf(self) -> bool:
        return any(id(m) in self.leaves for m in self.stack)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Keep the stack of running modules while the block runs."""

        def enter(module: nn.Module, args: Any) -> None:
            self.stack.append(module)
            site = self.leaves.get(id(module))
            if site is None:
                return
            if id(module) not in self.called:
                self.called[id(module)] = site
                self.order.append(site)
                site.input_shape = tuple(args[0].shape) if args else None
            site.calls += 1

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self.stack.pop()

        handles = (
            module_hooks.register_module_forward_pre_hook(enter),
            module_hooks.register_module_forward_hook(leave, always_call=True),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
