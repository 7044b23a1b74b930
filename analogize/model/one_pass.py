"""One outermost forward call is one pass, and has one seed.

An array is one piece of hardware: however often a forward pass uses it, it holds the same weights.
What draws noise asks here which pass is running, and derives its draw from the pass's seed; the
first draw of a pass takes the seed from torch's global CPU generator, so that
``torch.manual_seed`` decides it. Every thread and every asynchronous task has a pass of its own.

Activation checkpointing runs parts of a pass again while gradients are computed, when the pass is
over. Such a part is recognised by the autograd node that asks for it: autograd numbers its nodes,
and a pass remembers which numbers its nodes have. Of a pass that is over nothing else is kept.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, cast

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes


class Pass:
    """One forward pass.

    Attributes:
        kept: what is to live as long as the pass, by any key; emptied at its end.
        claims: what an accelerator is still computing, true or not, each with what makes the error
            if it is not; ``prove`` waits for all of them at once.
        is_over: whether its end was reached; then it is being run again, in part.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._model = None if model is None else weakref.ref(model)
        self.kept: dict[Any, Any] = {}
        self.claims: list[tuple[torch.Tensor, Callable[[], Exception]]] = []
        self.is_over = False
        self._seed: int | None = None
        self._met: dict[str, list[weakref.ref[Any]]] = {}
        self._thread, self._task = threading.get_ident(), torch._C._current_graph_task_id()
        self._first = torch._C._autograd._get_sequence_nr()
        self._last: int | None = None

    @property
    def seed(self) -> int:
        """63 bits; drawn when first asked for, and another one on every process of a group."""
        if self._seed is None:
            self._seed = _draw_seed()
        return self._seed

    def name_of(self, name: str, owner: Any) -> str:
        """``name``, made different where another ``owner`` of that name was met in this pass."""
        owners = self._met.setdefault(name, [])
        for index, known in enumerate(owners):
            if known() is owner:
                return name if index == 0 else f"{name}#{index}"
        owners.append(weakref.ref(owner))
        return name if len(owners) == 1 else f"{name}#{len(owners) - 1}"

    def prove(self) -> None:
        """Raise the error of the first claim that is not true."""
        claims, self.claims = self.claims, []
        for place in dict.fromkeys(flag.device for flag, _ in claims):
            here = [(flag, fail) for flag, fail in claims if flag.device == place]
            holds = torch.stack([flag for flag, _ in here]).tolist()
            for is_true, (_, fail) in zip(holds, here, strict=True):
                if not is_true:
                    raise fail()

    def end(self) -> None:
        """Let go of everything but what a part that runs again needs."""
        self.kept.clear()
        self.claims.clear()
        self.is_over = True
        self._last = torch._C._autograd._get_sequence_nr()
        if self._seed is not None and torch.is_grad_enabled():
            _recent.append(self)

    def made(self, number: int) -> bool:
        """Whether this pass made the autograd node of that number."""
        return self._first <= number and (self._last is None or number < self._last)

    @property
    def is_of_running_backward(self) -> bool:
        """Whether it began within the backward pass that is running, or none is running."""
        task = torch._C._current_graph_task_id()
        return task == -1 or task == self._task

    def is_of(self, model: nn.Module | None) -> bool:
        """Whether it is that of a call of ``model``."""
        return self._model is not None and self._model() is model

    @property
    def is_of_this_thread(self) -> bool:
        """Whether this thread runs it."""
        return self._thread == threading.get_ident()


# Enough for any accumulation of gradients; a pass that is over is a few hundred bytes.
_recent: deque[Pass] = deque(maxlen=4096)
_running: ContextVar[Pass | None] = ContextVar("pass", default=None)


@contextmanager
def one_pass(model: nn.Module | None = None) -> Iterator[None]:
    """Within the block all forward calls are one pass: every array draws its noise once.

    A call of a rewritten model is one pass by itself. Use this where several calls belong
    together: a siamese network's two inputs, or a module with several rewritten parts, each of
    which would draw for itself. Blocks within blocks belong to the outermost. Do not ``yield``
    from within the block.

    Args:
        model: what will be called; where it draws noise, the pass's seed is drawn at once.

    Example::

        with one_pass(model):
            loss = contrastive(model(left), model(right))
    """
    opened = begin(model)
    try:
        yield
        _prove(opened)
    finally:
        end(opened)


def begin(model: nn.Module | None = None) -> Token[Pass | None] | None:
    """Open a pass for calls of ``model``; None where one is running."""
    if torch.compiler.is_compiling():
        return None
    again = None if _running.get() is not None else _run_again()
    if _running.get() is not None or (again is not None and not again.is_of(model)):
        return None  # a part of the pass that is running, or of one that runs again
    this = Pass(model)
    if model is not None and _draws_noise(model):
        # Now, and not inside a checkpoint, which would find the generator advanced the second time.
        _ = this.seed
    return _running.set(this)


def _draws_noise(model: nn.Module) -> bool:
    """Whether a module within it says so, looked for past ``modules()``: every pass asks."""
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if not hasattr(type(module), "draws_noise"):
            waiting += [m for m in module._modules.values() if m is not None]
        elif module.draws_noise:
            return True
    return False


def _prove(opened: Token[Pass | None] | None) -> None:
    """Look at what the pass that ``begin`` opened has claimed."""
    this = None if opened is None else _running.get()
    if this is not None and this.claims:
        this.prove()


def end(opened: Token[Pass | None] | None) -> None:
    """Close what ``begin`` opened."""
    if opened is None:
        return
    this = _running.get()
    _running.reset(opened)
    if this is not None:
        this.end()


def called_as_one_pass(function: Any, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call ``function``, a method of ``model`` bound to it, as one pass."""
    if torch.compiler.is_compiling():
        return _compiled_call(function, *args, **kwargs)
    opened = begin(model)
    try:
        result = function(*args, **kwargs)
        _prove(opened)
        return result
    finally:
        end(opened)


def leave_to_python(function: Any, *, with_callees: bool) -> None:
    """Keep torch.compile from beginning a graph at ``function``; within a graph it is traced.

    What all models share would be compiled for each of them anew, until torch.compile gives up.
    """
    frames: Any = torch._C._dynamo.eval_frame
    skip, default = frames._FrameAction.SKIP, frames._FrameAction.DEFAULT
    strategy = frames._FrameExecStrategy(skip, skip if with_callees else default)
    frames.set_code_exec_strategy(function.__code__, strategy)


leave_to_python(called_as_one_pass, with_callees=False)
leave_to_python(begin, with_callees=True)
leave_to_python(_prove, with_callees=True)
leave_to_python(end, with_callees=True)


def running_pass() -> Pass | None:
    """The pass that this thread runs or, within a backward pass, runs a part of again."""
    this = _running.get()
    if this is not None and this.is_of_running_backward:
        return this
    return _run_again() or this


def _run_again() -> Pass | None:
    """The pass that made the autograd node which a running backward pass is at."""
    if torch._C._current_graph_task_id() == -1:
        return None
    node: Any = torch._C._current_autograd_node()
    if node is None:
        return None
    number = node._sequence_nr()
    found = [p for p in reversed(_recent) if p.made(number)]
    here = [p for p in found if p.is_of_this_thread]
    return next(iter(here or found), None)


class _Traced:
    """The pass that torch.compile traces: its seed is a part of the graph.

    Attributes:
        depth: how many calls of rewritten models are being traced.
        seed: of the outermost of them, or None before its first draw.
    """

    depth = 0
    seed: torch.Tensor | None = None


_traced = _Traced()


def _compiled_call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` as one pass of compiled code."""
    _traced.depth += 1
    try:
        return function(*args, **kwargs)
    finally:
        _traced.depth -= 1
        if _traced.depth == 0:
            _traced.seed = None


def compiled_seed() -> torch.Tensor:
    """The pass's seed in compiled code: 0-d, on the CPU."""
    seed = _traced.seed
    if seed is None:
        seed = cast(torch.Tensor, _pass_seed())
        if _traced.depth:
            _traced.seed = seed
    return seed


@torch.library.custom_op(
    "analogize::pass_seed", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def _pass_seed() -> torch.Tensor:
    """The seed of the pass that this thread runs when compiled code runs; else a new one."""
    this = running_pass()
    return torch.tensor(_draw_seed() if this is None else this.seed)


@_pass_seed.register_fake
def _() -> torch.Tensor:
    return torch.empty((), dtype=torch.int64)


def _draw_seed() -> int:
    with _disable_current_modes(), torch._C._DisableFuncTorch():
        drawn = int(torch.randint(2**63 - 1, (), device="cpu"))
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return drawn
    digest = hashlib.blake2b(f"{drawn}/{distributed.get_rank()}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 1
