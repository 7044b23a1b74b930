"""The first call of a kind: are weights multiplied by past their operator, unseen by an example?

A stand-in (watched.py) sees a weight that Python reads from its layer. It does not see one that
comes from a register of parameters, a state dict, a global variable, or as a copy, nor a parameter
of no layer. So the first call of each kind runs below autograd under a dispatch mode that follows
the weights of analog layers and such parameters, by their memory, through every ATen operator. A
product of one with something that depends on the call's inputs is refused; told, where it is a
parameter of no layer. Where Python reads the values of tensors, and so may branch on them, every
call is a first one. Compiled code is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from analogize.capture.idle import Idle, idle
from analogize.errors import CaptureError
from analogize.model import transforms
from analogize.model.one_pass import leave_to_python
from analogize.model.work import products

_OTHER, _STORED, _ACTIVE = 0, 1, 2

# More kinds of calls than anyone's Python tells apart.
_MOST = 64

aten = torch.ops.aten
# What hands values of tensors, or how many are so or so, to Python.
_READS = (
    *(aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default),
    *(aten.nonzero.default, aten.masked_select.default, aten._unique2.default),
)
_LEAVES = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)
_BRANCHES = "Python reads values in it"


def refusal(path: str, function: str) -> CaptureError:
    """Why a product past the operator of ``path`` is refused, and the way out."""
    return CaptureError(
        f"the model's Python multiplies by the weight of '{path}' itself, with {function}, which "
        "would run digitally without a word: pass example_inputs or calibration data to "
        "analogize() that lead to it, or name a layer that is to stay digital in digital="
    )


def looked_at(
    module: nn.Module, method: str, args: Any, kwargs: Any, is_reading: Callable[[], bool]
) -> AbstractContextManager[None] | None:
    """What a call of ``module`` is to run in: nothing, or what follows its weights.

    Args:
        module: rewritten, or a part; it keeps which kinds of calls were looked at.
        method: what is called.
        args: with what.
        kwargs: likewise, by name.
        is_reading: whether the model's own Python runs, and no analog layer's.
    """
    seen: set[Any] = module.__dict__.setdefault("_analog_seen", set())
    kind = (method, module.training, torch.is_grad_enabled(), *map(_kind_of, args))
    kind = (*kind, *((name, _kind_of(value)) for name, value in kwargs.items()))
    if kind in seen or len(seen) >= _MOST:
        return None
    is_first = (kind, _BRANCHES) not in seen
    if transforms.are_active() or _get_current_dispatch_mode_stack():
        return None
    weights = _watched(module)
    unused = list(idle(module))
    weights |= {name: tensor for name, tensor, _ in unused}
    if not _plain(weights):
        seen.add(kind)  # of shards and of models without values nothing is to be seen
    if not weights or kind in seen:
        return None
    following = _Following(weights, (args, kwargs), is_reading, is_first)
    following.idle = {name: owner for name, _, owner in unused}
    return _looking(seen, kind, following)


def is_looking() -> bool:
    """Whether this is the first call of its kind."""
    modes = _get_current_dispatch_mode_stack()
    return any(isinstance(mode, _Following) and mode.is_first for mode in modes)


leave_to_python(looked_at, with_callees=True)


@contextmanager
def _looking(seen: set[Any], kind: Any, following: _Following) -> Iterator[None]:
    try:
        with following, _Leaving(following):
            yield
    except Exception as error:
        # TorchScript makes an error of its own of any.
        if following.refused is None or error is following.refused:
            raise
        raise following.refused from error
    # Once it branched, a call that reads no values is no proof that the next reads none.
    branches = following.may_branch or not following.is_first
    seen.add((kind, _BRANCHES) if branches else kind)


def _kind_of(value: Any) -> Any:
    """What a model's Python may branch on without looking at a tensor's values."""
    if value is None or isinstance(value, bool | str):
        return value
    return type(value), getattr(value, "ndim", None)


def _watched(module: nn.Module) -> dict[str, Tensor]:
    """The matrices of watched layers, or what they are computed from, by name."""
    found: dict[str, Tensor] = {}
    for layer in module.modules():
        path = layer.__dict__.get("_analog_path")
        if path is not None:
            for name, tensor in layer.named_parameters():
                if tensor.ndim > 1 and "analog" not in name.split("."):
                    found[f"{path}\0{name}"] = tensor
    return found


def _plain(weights: dict[str, Tensor]) -> bool:
    plain = (Tensor, nn.Parameter)
    return all(type(w) in plain and not w.is_meta for w in weights.values())


class _Following(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the weights through every ATen call.

    Attributes:
        is_first: whether no call of the kind was looked at before.
        may_branch: whether Python read the values of tensors.
        idle: of the weights those that are told and not refused.
        refused: why the call is refused, or None.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        inputs: Any,
        is_reading: Callable[[], bool],
        is_first: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._table, self.is_reading, self.is_first = products(), is_reading, is_first
        self.refused: CaptureError | None = None
        self.may_branch = False
        self.idle: dict[str, Idle] = {}
        self._kinds: dict[int, int] = {}
        self._paths: dict[int, str] = {}
        # What is computed from weights lives on, so that nothing else gets its memory.
        self._alive: list[Tensor] = list(weights.values())
        for leaf in tree_leaves(inputs):
            if isinstance(leaf, Tensor):
                self._kinds[_place(leaf)] = _ACTIVE
        for name, weight in weights.items():
            self._kinds[_place(weight)] = _STORED
            self._paths[_place(weight)] = name.partition("\0")[0]
        self._own = {_place(w) for w in weights.values()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operator, and give its results their kind.

        Raises:
            CaptureError: it is a product of a weight with something that depends on an input.
        """
        result = func(*args, **(kwargs or {}))
        if torch._C._current_graph_task_id() != -1:
            return result  # gradients are computed: products with weights as they should be
        operands = _tensors((args, tuple((kwargs or {}).values())))
        if not self.is_reading():
            self._mark(result, _ACTIVE, None)
            return result
        self.may_branch |= func in _READS or (func is aten.index.Tensor and _picks(operands))
        kinds = [self._kinds.get(_place(t), _OTHER) for t in operands]
        path = next((self._paths[_place(t)] for t in operands if _place(t) in self._paths), None)
        kind = max(kinds, default=_OTHER)
        if func in self._table:
            places = [_place(args[i]) for i in self._table[func][0] if isinstance(args[i], Tensor)]
            of = {self._kinds.get(p, _OTHER) for p in places}
            if of == {_STORED, _ACTIVE}:
                self._meet(next(self._paths[p] for p in places if p in self._paths), func)
            kind = kind if of == {_STORED} else _ACTIVE
        elif path is not None and _ACTIVE in kinds and _is_outer(func, operands, result):
            self._meet(path, func)
            kind = _ACTIVE
        self._mark(result, kind, path)
        return result

    def _meet(self, path: str, func: Any) -> None:
        if path in self.idle:
            self.idle[path].tell(path, str(func))
            return
        self.refused = refusal(path, str(func))
        raise self.refused

    def _mark(self, result: Any, kind: int, path: str | None) -> None:
        for tensor in _tensors((result,)):
            place = _place(tensor)
            if place in self._own or (path is None and self._kinds.get(place) == _STORED):
                continue
            self._kinds[place] = kind
            self._paths.pop(place, None)
            if kind == _STORED and path is not None:
                self._paths[place] = path
                self._alive.append(tensor)


class _Leaving(TorchFunctionMode):
    """Notes what hands the values of tensors to Python by no operator."""

    def __init__(self, following: _Following) -> None:
        super().__init__()
        self._following = following

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run ``func``."""
        if func in _LEAVES and self._following.is_reading():
            self._following.may_branch = True
        return func(*args, **(kwargs or {}))


def _picks(operands: list[Tensor]) -> bool:
    """Whether an index is a mask, so that the result's size depends on values."""
    return any(t.dtype in (torch.bool, torch.uint8) for t in operands[1:])


def _place(tensor: Tensor) -> int:
    """Where the memory of a tensor, or of its values, begins."""
    try:
        held = tensor if tensor.layout is torch.strided else tensor._values()
        return held.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError, AttributeError):
        return id(tensor)


def _is_outer(func: Any, operands: list[Tensor], result: Any) -> bool:
    """Whether every input is multiplied by every weight, to be summed by hand."""
    if func is not aten.mul.Tensor:
        return False
    most: int = max(map(_elements, operands))
    return bool(result.numel() > most)


def _elements(tensor: Tensor) -> int:
    """How many there are in memory: without those that a dimension repeats."""
    if tensor.layout is not torch.strided:
        return tensor.numel()
    return prod(n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step)


def _tensors(values: tuple[Any, ...]) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
