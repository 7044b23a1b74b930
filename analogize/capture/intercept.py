"""Interception: products with stored weights, found and replaced while a model's Python runs.

A torch-function mode sees every call of the Python that was kept. It follows parameters through
views, slices, transposes and arithmetic (see expression.py), decomposes composite operators (see
composites.py), and hands each product with a stored weight to its analog operator. A product that
nobody prepared an operator for, in a branch that the example did not take, runs digitally.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from analogize.capture import recurrent
from analogize.capture.functional import add_bias, normalized
from analogize.capture.known import ATTENTION, CHOICES, EXPANSIONS, MOVES, stable, tensors, writes
from analogize.capture.repeats import Repeats
from analogize.capture.scope import RUNNING, Part, Scope, Watcher
from analogize.crossbar.seeds import version
from analogize.model.expression import (
    applied,
    expanded,
    function_name,
    item,
    leaf,
)
from analogize.model.module import DigitalProduct
from analogize.model.transforms import plain
from analogize.passes.choice import DISTANCE
from analogize.passes.signature import DISTANCES, PRODUCTS, RULES
from analogize.product import BatchedLinear, Convolution, Product

logger = logging.getLogger("analogize")

__all__ = ["Interception", "recurrent", "running"]

_UNREACHED = "it runs, and the example inputs did not lead to it; give others that do"


def running(scope: Scope) -> Interception | None:
    """The interception of a model's weights within which this code runs, or None."""
    return next((run for run in reversed(RUNNING.get()) if run.scope is scope), None)


class Interception(TorchFunctionMode):
    """The mode; it follows the parameters and buffers of its scope."""

    def __init__(self, scope: Scope, watcher: Watcher | None = None):
        super().__init__()
        self.scope, self.watcher = scope, watcher
        self.is_paused = False
        self._parts: dict[int, Part] = {}
        # Tensors are kept alive with their record: a new one could get an old one's id. The number
        # tells whether one was written to since; -1 for parameters, whose values do not matter.
        self._alive: dict[int, tuple[Tensor, int]] = {}
        self._repeats = Repeats()
        for name, (owner, attribute) in scope.owners.items():
            self._meet(name, getattr(owner, attribute, None))

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Within the block, ``running`` finds this interception."""
        token = RUNNING.set((*RUNNING.get(), self))
        try:
            yield
        finally:
            RUNNING.reset(token)

    def meet(self, module: nn.Module, names: tuple[tuple[str, str], ...]) -> None:
        """Follow weights as ``module`` has them now; sharding and replication replace them.

        Args:
            module: whose call begins.
            names: names of weights, each with its path from ``module``.
        """
        for name, path in names:
            steps, _, attribute = path.rpartition(".")
            try:
                owner = attrgetter(steps)(module) if steps else module
            except AttributeError:
                continue
            # A head that was replaced is a digital one, whatever it is called.
            if owner is self.scope.owners[name][0] or hasattr(owner, "_is_replica"):
                self._meet(name, getattr(owner, attribute, None))

    def _meet(self, name: str, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and id(tensor) not in self._parts:
            self._record(tensor, Part(leaf(name)), -1)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run ``func``."""
        kwargs = kwargs or {}
        if self.is_paused:
            return func(*args, **kwargs)
        if not self._any_stored(args) and not (kwargs and self._any_stored(tuple(kwargs.values()))):
            return func(*args, **kwargs)
        if self.watcher is not None:
            self.watcher.met((*args, *kwargs.values()))
        return self._computed(func, args, kwargs)

    def _computed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of weights: decomposed, on an array, or as it is."""
        if kwargs.get("out") is not None and (func in PRODUCTS or func in RULES):
            return self._written(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return ATTENTION(*args, **kwargs)
        if (rule := RULES.get(func)) is not None:
            single = self._repeats.without(args)
            if self.watcher is None and func in recurrent.LAYERS:
                stored = recurrent.Products(self._is_weight, self._product)
                result = rule(stored, *single, **kwargs)
            else:
                with self:
                    result = rule(self._is_weight, *single, **kwargs)
            if result is not NotImplemented:
                return result
        if func in PRODUCTS:
            return self._product(func, args, kwargs)
        if func in DISTANCES:
            self._distance(func, args, kwargs)
        if writes(func, kwargs):
            return self._overwritten(func, args, kwargs)
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, result)
        return result

    def _written(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Run a product that writes its result into a given tensor.

        Raises:
            RuntimeError: something needs gradients, as torch says of any such call.
        """
        out = kwargs.pop("out")
        with self:
            result = func(*args, **kwargs)
        if torch.is_grad_enabled() and (result.requires_grad or out.requires_grad):
            raise RuntimeError(
                f"{function_name(func)}(): functions with out=... arguments don't support "
                "automatic differentiation, but one of the arguments requires grad."
            )
        return out.resize_(result.shape).copy_(result)

    def _overwritten(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Run a function that writes in place; follow what is written over a value of our own.

        A parameter, and whatever shares its memory, must not be written to once more by whoever
        evaluates the expression; views of what was written are told by their version.
        """
        target = args[0] if args else None
        ours = isinstance(target, Tensor) and self._is_weight(target) and not self._is_leaf(target)
        part = self._part_of(func, args, kwargs) if ours and "out" not in kwargs else None
        result = func(*args, **kwargs)
        if part is not None and not part.moves and result is target:
            del self._parts[id(target)]
            self._repeats.forget(target)
            self._record(target, part)
        return result

    def _is_leaf(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` lies in the memory of a parameter or buffer."""
        leaves = (t for t, written in self._alive.values() if written == -1)
        place = _place(tensor)
        return place is not None and any(_place(t) == place for t in leaves)

    def _any_stored(self, values: tuple[Any, ...]) -> bool:
        for value in values:
            if isinstance(value, Tensor):
                if self._is_weight(value):
                    return True
            elif isinstance(value, list | tuple) and self._any_stored(tuple(value)):
                return True
        return False

    def _is_weight(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self._part(value) is not None

    def _part(self, tensor: Tensor) -> Part | None:
        """What ``tensor`` is computed from; None as well if it was written to since."""
        part = self._parts.get(id(tensor))
        if part is None or self._alive[id(tensor)][1] in (-1, version(tensor)):
            return part
        del self._parts[id(tensor)]
        return None

    def _record(self, tensor: Any, part: Part, written: int | None = None) -> None:
        if isinstance(tensor, Tensor) and id(tensor) not in self._parts:
            self._parts[id(tensor)] = part
            self._alive[id(tensor)] = tensor, version(tensor) if written is None else written

    def _product(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        arguments = {**PRODUCTS[func].parameters}
        arguments |= dict(zip(arguments, args, strict=False)) | kwargs
        weight = arguments["weight"]
        part = self._part(weight) if isinstance(weight, Tensor) else None
        if part is None:
            return func(*args, **kwargs)
        x, product = normalized(func, arguments)
        if part.moves and part.blocks and x.ndim > 1 and not isinstance(product, Convolution):
            # The array has the blocks of the whole, however many of them an input chooses.
            product = BatchedLinear(part.blocks)
        if self.watcher is not None:
            operator = PRODUCTS[func].operator
            self.watcher.product(part, product, operator, weight, arguments)
        op, other = self.scope.operators.get((part.key, product)), None
        if op is None:
            # A branch that the example inputs did not take, with another stride or padding.
            op, other = self.scope.beside(part.key, product), product
        if op is None:
            self._tell(part, product)
            return func(*args, **kwargs)
        if op.is_digital:
            return op.digitally(func, *args, **kwargs)
        how: dict[str, Any] = {"through": part.through} if part.moves else {}
        y = op(x, weight, **how) if other is None else op(x, weight, **how, product=other)
        return add_bias(y, arguments.get("bias"), PRODUCTS[func].dimensions)

    def _distance(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> None:
        """Note that inputs are compared with weights, which no array does."""
        known = [self._part(t) for t in tensors((args, tuple(kwargs.values())))]
        for part in known if None in known else ():
            if part is not None and self.watcher is not None:
                self.watcher.distance(part, function_name(func))
            elif part is not None:
                self._say(part, function_name(func), DISTANCE)

    def _tell(self, part: Part, product: Product) -> None:
        """Say once that a product runs digitally, if nobody chose that; the summary says it too.

        Raises:
            CaptureError: it is an array's at another size than the example's.
        """
        told = self.scope.told
        if self.watcher is None and part.key not in told:
            self.scope.refuse_other_size(part, product)
        if self.watcher is None:
            self._say(part, product.operator, _UNREACHED)

    def _say(self, part: Part, operator: str, reason: str) -> None:
        if part.key not in self.scope.told:
            self.scope.told.add(part.key)
            self.scope.met[part.key] = DigitalProduct(part.key, operator, reason)
            logger.warning("a product with '%s' runs digitally: %s", part.key, reason)

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: Any, result: Any) -> None:
        """Give the results of ``func`` their part, if they depend on no input."""
        outputs = result if isinstance(result, list | tuple) else (result,)
        if not any(isinstance(t, Tensor) for t in outputs):
            return
        if function_name(func) in EXPANSIONS:
            part = self._expansion(args[0], result)
        else:
            part = self._part_of(stable(func), args, kwargs)
        if part is None:
            return
        if self.watcher is not None:
            self.watcher.derived()
        if not isinstance(result, list | tuple):
            self._record(result, part)
            self._repeat(func, args, kwargs, result)
            return
        for index, tensor in enumerate(result):
            if part.moves:
                moves: tuple[Callable[[Any], Any], ...] = part.moves[:-1]
                moves = (*moves, _Nth(part.moves[-1], index))
                self._record(tensor, Part(part.whole, moves, part.blocks))
            else:
                self._record(tensor, Part(item(part.whole, index)))

    def _repeat(self, func: Any, args: tuple[Any, ...], kwargs: Any, result: Tensor) -> None:
        """Where ``result`` repeats a weight by copies, follow one that repeats it without."""
        with self:
            self._repeats.note(func, args, kwargs, result)

    def _expansion(self, source: Tensor, result: Tensor) -> Part | None:
        part, sizes = self._part(source), tuple(result.shape)
        if part is None or part.moves:
            return None
        return Part(expanded(part.whole, sizes))

    def _part_of(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Part | None:
        known = [self._part(t) for t in tensors((args, tuple(kwargs.values())))]
        if all(p is not None and not p.moves for p in known):
            if function_name(func).startswith("new_"):
                return None
            replaced = self._replaced(args)
            return Part(applied(func, replaced, {k: self._replaced(v) for k, v in kwargs.items()}))
        first = self._part(args[0]) if args and isinstance(args[0], Tensor) else None
        name = function_name(func)
        others_known = all(p is not None for p in known[1:]) or name in CHOICES
        if first is None or name not in MOVES or not others_known:
            return None
        rest, named = tuple(args[1:]), dict(kwargs)
        blocks = first.blocks if first.moves else tuple(args[0].shape[:-2])
        moves = (*first.moves, lambda chip: func(chip, *rest, **named))
        return Part(first.whole, moves, blocks)

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._parts[id(value)].whole
        if isinstance(value, list | tuple):
            return type(value)(self._replaced(v) for v in value)
        return value


class _Nth:
    def __init__(self, function: Callable[[Any], Any], index: int) -> None:
        self.function, self.index = function, index

    def __call__(self, chip: Any) -> Any:
        return self.function(chip)[self.index]


def _place(tensor: Tensor) -> int | None:
    """Where a tensor's memory begins; None where it has no single one, as a sparse tensor.

    Of a tensor that transforms of torch.func wrap, of the one inside.
    """
    found = plain(tensor)
    if found is None or found.layout is not torch.strided:
        return None
    return found.untyped_storage().data_ptr()
