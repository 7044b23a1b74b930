"""The census: every product with stored weights that a model computes, counted independently.

One eager forward pass runs below autograd, under a dispatch mode that follows three kinds of
values through every operator:

    fixed     computed from buffers alone, such as weights of integers and their scales
    stored    computed from parameters (and buffers), and not from the input
    computed  the output of a product that does not depend on the input
    active    anything that depends on the input

Every matrix product, convolution or recurrent kernel with a stored operand is counted, whatever
Python computes it and however the weight got there; so is one of something active with a fixed
operand, or with rows of a stored one that the input chose. Attention scores and embeddings are not
products with stored weights. The census knows nothing of how models are rewritten, which is what
makes it a check.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from analogize.errors import CaptureError
from analogize.model.calls import Call, device_of, example_call
from analogize.model.copying import copied
from analogize.model.running import innermost
from analogize.model.snapshot import unchanged
from analogize.model.unfused import unfused
from analogize.model.work import products

aten = torch.ops.aten

_FIXED, _STORED, _COMPUTED, _ACTIVE = 1, 2, 3, 4
# Functions that pick out elements of their first operand, and those that keep what was picked.
_PICKS = {aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.take.default}
_KEEPS = {
    aten._to_copy.default,
    aten.clone.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.default,
    aten.expand.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.detach.default,
    aten.alias.default,
}


@dataclass(frozen=True)
class StoredProduct:
    """A product with a stored operand, summed over all its calls.

    Attributes:
        module: qualified name of the innermost module that computes it; "" for the model itself.
        operator: the ATen operator.
        macs: multiply-accumulates of all calls.
        calls: how many times it ran.
        region: the analog region that stands for it in a rewritten model, or None.
        index: that region's index, or None.
    """

    module: str
    operator: str
    macs: int
    calls: int
    region: str | None = None
    index: int | None = None


@dataclass(frozen=True)
class Census:
    """All products with stored weights of one forward pass.

    Attributes:
        products: in the order of their first call.
        output: what the model returned.
    """

    products: tuple[StoredProduct, ...]
    output: Any

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all products."""
        return sum(p.macs for p in self.products)

    @property
    def analog_macs(self) -> int:
        """Those that an analog region stands for."""
        return sum(p.macs for p in self.products if p.region is not None)

    @property
    def left(self) -> tuple[StoredProduct, ...]:
        """The products for which no analog region stands."""
        return tuple(p for p in self.products if p.region is None)


def census(model: nn.Module, example_inputs: Any) -> Census:
    """Count every product whose operand derives from a parameter, in one eval-mode forward pass.

    The model, all that its Python keeps, and every random state are left as they were; a model with
    lazy modules is initialized as a copy.

    Args:
        model: any module, rewritten or not.
        example_inputs: a tensor, a tuple of positional or a mapping of named arguments.

    Raises:
        CaptureError: the model itself fails on the example inputs.
    """
    call = example_call(example_inputs).to(device_of(model))
    if is_lazy(model):
        model = copied(model)
    counter = _Counter(model, call)
    try:
        running = _module_names(model, counter.stack)
        # Weights that autocast keeps from an earlier pass would come from nowhere.
        torch.clear_autocast_cache()
        with unchanged(model), eval_mode(model), torch.no_grad(), running, counter:
            output = call(model)
    except Exception as error:
        raise CaptureError(
            f"the model itself fails on the example inputs: {type(error).__name__}: {error}"
        ) from error
    return Census(counter.products(), output)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within the block ``model`` is in eval mode with a fixed seed; both are restored.

    So are buffers that its forward writes to, whatever the mode. What hides products is off.
    """
    modes = [(m, m.training) for m in model.modules()]
    buffers = [(b, b.detach().clone()) for b in model.buffers() if not is_uninitialized(b)]
    try:
        model.eval()
        with torch.random.fork_rng(devices=[]), unfused():
            torch.manual_seed(0)
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                if not buffer.is_meta and not _identical(buffer, before):
                    buffer.copy_(before)


def is_lazy(model: nn.Module) -> bool:
    """Whether ``model`` has parameters or buffers whose shape its first call decides."""
    return any(is_uninitialized(t) for t in (*model.parameters(), *model.buffers()))


def is_uninitialized(tensor: Tensor) -> bool:
    """Whether ``tensor`` waits for a shape."""
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)


def _identical(a: Tensor, b: Tensor) -> bool:
    """Equal, where NaN equals itself: the range of a converter may still be unknown."""
    if a.layout is not torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return bool(((a == b) | ((a != a) & (b != b))).all())


class _Counted:
    """One call of a product, added to its entry's work and calls until it is taken back."""

    def __init__(self, entry: list[int], macs: int) -> None:
        self._entry, self._macs = entry, macs
        self._add(1)

    def _add(self, sign: int) -> None:
        self._entry[0] += sign * self._macs
        self._entry[1] += sign

    def take_back(self) -> None:
        """Uncount it, once."""
        if self._macs:
            self._add(-1)
            self._macs = 0


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows stored values through every ATen call, and counts."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack: list[str] = [""]
        self._table = products()
        self._kinds = WeakIdKeyDictionary()
        self._counts: dict[tuple[str, str, str | None, int | None], list[int]] = {}
        # What was counted to compute a value that does not depend on the input.
        self._behind = WeakIdKeyDictionary()
        # Rows of stored values that the input chose; as values they are active.
        self._chosen = WeakIdKeyDictionary()
        for buffer in model.buffers():
            self._kinds[buffer] = _FIXED
        for parameter in model.parameters():
            self._kinds[parameter] = _STORED
        for leaf in tree_leaves((call.args, dict(call.kwargs))):
            if isinstance(leaf, Tensor):
                self._kinds[leaf] = _ACTIVE

    def products(self) -> tuple[StoredProduct, ...]:
        """What was counted."""
        return tuple(
            StoredProduct(module, operator, macs, calls, region, index)
            for (module, operator, region, index), (macs, calls) in self._counts.items()
            if calls
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operator, count it, and give its results their kind."""
        kwargs = kwargs or {}
        operands = _tensors(args) + _tensors(tuple(kwargs.values()))
        kinds = [self._kind(t) for t in operands]
        result = func(*args, **kwargs)
        kind = max(kinds, default=0)
        behind = [event for t in operands for event in self._behind.get(t, ())]  # type: ignore[no-untyped-call]
        if func in self._table and self._is_stored_product(func, args):
            kind = max(kind, _COMPUTED)
            behind += self._product(func, args, kwargs, result)
        elif kind == _COMPUTED:
            kind = self._sum(func, operands, result)
        if kind == _STORED:
            # These products made a weight; they are not computed with one.
            for event in behind:
                event.take_back()
        if kind:
            self._mark(result, kind)
            if func._schema.is_mutable:
                self._mark(args[0], kind)
        self._note_choice(func, args, result)
        if kind == _COMPUTED and behind:
            for tensor in _tensors((result,)):
                self._behind[tensor] = behind
        return result

    def _product(
        self, func: Any, args: tuple[Any, ...], kwargs: Any, result: Any
    ) -> list[_Counted]:
        _, macs = self._table[func]
        place = innermost()
        named = (None, None) if place is None else (place.name, place.index)
        entry = self._counts.setdefault((self.stack[-1], str(func), *named), [0, 0])
        return [_Counted(entry, macs(*args, out=result, **kwargs))]

    def _is_stored_product(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether a product has a stored operand; see the module."""
        positions, _ = self._table[func]
        kinds = [self._kind(args[i]) for i in positions]
        if _STORED in kinds:
            return True
        chosen = [args[i] in self._chosen for i in positions]
        # Where one operand is looked at, the other is an input of the operator.
        others = len(kinds) == 1 or _ACTIVE in kinds
        return (others and _FIXED in kinds) or (any(chosen) and not all(chosen))

    def _note_choice(self, func: Any, args: tuple[Any, ...], result: Any) -> None:
        if not isinstance(result, Tensor) or not args or not isinstance(args[0], Tensor):
            return
        picks = func in _PICKS and self._kind(args[0]) in (_FIXED, _STORED)
        if self._kind(result) == _ACTIVE and (
            picks or (func in _KEEPS and args[0] in self._chosen)
        ):
            self._chosen[result] = True

    def _sum(self, func: Any, operands: list[Tensor], result: Any) -> int:
        """A stored weight with an update or a computed scale stays one; a bias does not.

        Low-rank updates are added at full size; spectral norm divides by one computed number.
        """
        if not isinstance(result, Tensor):
            return _COMPUTED
        stored = (_FIXED, _STORED)
        full = any(t.shape == result.shape and self._kind(t) in stored for t in operands)
        computed = [t for t in operands if self._kind(t) == _COMPUTED]
        updates = func in (aten.add.Tensor, aten.sub.Tensor)
        scales = func in (aten.mul.Tensor, aten.div.Tensor)
        if full and (updates or (scales and all(t.numel() == 1 for t in computed))):
            return _STORED
        return _COMPUTED

    def _kind(self, tensor: Any) -> int:
        if not isinstance(tensor, Tensor):
            return 0
        found: int = self._kinds.get(tensor, 0)  # type: ignore[no-untyped-call]
        return found

    def _mark(self, values: Any, kind: int) -> None:
        for tensor in _tensors((values,)):
            for alias in (tensor, tensor._base):
                if isinstance(alias, Tensor) and not isinstance(alias, nn.Parameter):
                    self._kinds[alias] = max(kind, self._kind(alias))


def _tensors(values: tuple[Any, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(_tensors(tuple(value)))
    return found


@contextmanager
def _module_names(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the name of the innermost running module at the end of ``stack``."""
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(names.get(id(module), stack[-1]))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    handles = (
        module_hooks.register_module_forward_pre_hook(enter),
        module_hooks.register_module_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
