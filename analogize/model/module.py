"""The rewritten model: a GraphModule that keeps everything its original had."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import fx, nn

from analogize.errors import CaptureError, OffloadError
from analogize.model.calls import Call
from analogize.model.one_pass import called_as_one_pass, leave_to_python
from analogize.targets.spec import Target


@dataclass(frozen=True)
class DigitalProduct:
    """A product that stays digital, and why.

    Attributes:
        name: the graph node, or the module, that computes it.
        operator: what it computes.
        reason: why it was not rewritten.
        macs: multiply-accumulates on the example inputs, or None where none were given.
        chosen: the user or the target wants it digital.
    """

    name: str
    operator: str
    reason: str
    macs: int | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Report:
    """What the rewriting did, for ``summary()`` and the exporters.

    Attributes:
        target: name of the target.
        digital: every product left digital.
        total_macs: multiply-accumulates of all products with stored weights that the census finds
            in the original on the example inputs, or None without any.
        log: one line a pass.
        capture: the front end that was used.
        declined: front ends that were tried or skipped before it, each with its reason.
        settings: the target in full; None where a file had only parts of it.
        example: how the model was called for it, of one sample where that is enough; or None.
        samples: how many samples the example inputs were.
    """

    target: str
    digital: tuple[DigitalProduct, ...]
    total_macs: int | None
    log: tuple[str, ...] = ()
    capture: str = "fx"
    declined: tuple[str, ...] = ()
    settings: Target | None = field(default=None, repr=False)
    example: Call | None = field(default=None, repr=False, compare=False)
    samples: int = 1


class _NoHooks(OrderedDict[int, Any]):
    """In place of the hooks of a module that a graph dissolved: they would never run."""

    def __setitem__(self, key: int, hook: Any) -> None:
        raise CaptureError(
            "this module is part of a graph, which computes what it did and would never call its "
            "hooks; register them before analogize(), or use capture='hierarchical', which keeps "
            "every module"
        )


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def refuse_hooks(module: nn.Module) -> None:
    """Make registering a hook on ``module`` an error."""
    module.__dict__.update({name: _NoHooks() for name in _HOOKS})


def allow_hooks(module: nn.Module) -> None:
    """Undo ``refuse_hooks``."""
    for name in _HOOKS:
        if isinstance(module.__dict__.get(name), _NoHooks):
            module.__dict__[name] = OrderedDict()


def is_dissolved(module: nn.Module) -> bool:
    """Whether a graph computes what ``module`` did, so that it is never called."""
    return isinstance(module.__dict__.get("_forward_hooks"), _NoHooks)


_GRAPH_OFFLOADED = (
    "accelerate has offloaded this graph's weights, and brings them in for calls of modules, which "
    "a graph does not call; rewrite with capture='hierarchical', or do not offload"
)


class AnalogModule(fx.GraphModule):
    """A captured graph over the original's own modules, parameters and buffers.

    A plain GraphModule drops whatever its graph does not mention, and turns named modules into
    bare containers; this one keeps every name, so that a ``state_dict`` fits both ways, and
    survives ``copy.deepcopy`` and pickling with its graph as it is.
    """

    report: Report | None = None

    @classmethod
    def over(cls, root: nn.Module, graph: fx.Graph) -> Self:
        """Wrap ``graph`` around the members of ``root``, which are shared, not copied."""
        module = cls(root, graph, type(root).__name__)
        for members in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            setattr(module, members, copy.copy(getattr(root, members)))
        module.training = root.training
        for name, value in root.__dict__.items():
            # Plain attributes too: a configuration, a list of classes.
            module.__dict__.setdefault(name, value)
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph, hooks included, as one pass.

        Raises:
            CaptureError: what the graph holds as it was is another now.
        """
        frozen = self.__dict__.get("_analog_frozen")
        if frozen is not None and not torch.compiler.is_compiling():
            frozen.require_unchanged()
        try:
            return called_as_one_pass(super().__call__, self, *args, **kwargs)
        except NotImplementedError as error:
            if any(p.is_meta for p in self.parameters()):
                raise OffloadError(_GRAPH_OFFLOADED) from error
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, where the graph does not hold another value of it.

        Raises:
            CaptureError: it does, and would go on computing with that.
        """
        frozen = self.__dict__.get("_analog_frozen")
        if frozen is not None:
            frozen.refuse(self, name, value)
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # Members are state, not arguments: operators among them refer back to this module.
        return _without_members, (_bare(self.graph), type(self).__name__), self._members()

    def __deepcopy__(self, memo: dict[int, Any]) -> AnalogModule:
        twin = _without_members(copy.deepcopy(self.graph), type(self).__name__)
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self._members(), memo))
        return twin

    def _members(self) -> dict[str, Any]:
        """Everything of this instance that GraphModule does not make from the graph."""
        return {k: v for k, v in self.__dict__.items() if k not in _made_from_graph()}


leave_to_python(AnalogModule.__call__, with_callees=False)


def _made_from_graph() -> frozenset[str]:
    empty = fx.GraphModule(nn.Module(), fx.Graph())
    return frozenset(empty.__dict__.keys() - nn.Module().__dict__.keys())


def _without_members(graph: fx.Graph, name: str) -> AnalogModule:
    module = AnalogModule(nn.Module(), fx.Graph(), name)
    module.graph = graph
    return module


def _bare(graph: fx.Graph) -> fx.Graph:
    """A copy without node metadata, which may hold anything."""
    bare = fx.Graph()
    bare.output(bare.graph_copy(graph, {}))
    for node in bare.nodes:
        node.meta = {}
    return bare
