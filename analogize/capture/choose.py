"""Choose a front end: by what it covers and by equal results, never because it happened to trace.

fx            the whole model as one graph; then the pipeline of passes
hierarchical  the model's Python, with its stock modules rewritten
intercept     the same, and weights that this Python uses directly are intercepted
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from analogize.capture.capture import capture as trace
from analogize.capture.frozen import Frozen
from analogize.capture.kept import keep
from analogize.capture.pipeline import run
from analogize.capture.root import call_as_one_pass
from analogize.crossbar.fresh import arrange
from analogize.crossbar.loading import watch_loading
from analogize.crossbar.ops import AnalogOp, bypassed, operators
from analogize.errors import CaptureError
from analogize.model.calls import Call
from analogize.model.counting import Census, StoredProduct, census, eval_mode
from analogize.model.module import DigitalProduct, Report, allow_hooks, refuse_hooks
from analogize.passes import PIPELINE
from analogize.passes.choice import ACTIVATIONS, NEEDS_A_RULE, Declined
from analogize.passes.request import Request
from analogize.passes.verify import require_equal
from analogize.targets.spec import Target

Capture = Literal["auto", "fx", "hierarchical", "intercept"]
FrontEnd = Literal["fx", "hierarchical", "intercept"]

# What a graph would freeze is not in its nodes: attributes set later, contexts, branches on modes,
# the class with its methods. Nothing proves that a model's Python has none of it.
_WHY_NO_GRAPH = "fx: a graph would freeze what the model's Python decides; ask for it by name"


def rewrite(
    model: nn.Module, target: Target, request: Request, original: Census | None, capture: Capture
) -> nn.Module:
    """Rewrite ``model``, which may be changed, by the front end asked for, or the best one.

    Args:
        model: the copy to rewrite.
        target: the device.
        request: example inputs and the user's choices.
        original: the census of the original, or None without example inputs.
        capture: a front end's name, or ``"auto"``.

    Raises:
        CaptureError: an unknown front end, or none fits.
        PassError: a choice that matches nothing, or a weight that cannot be mapped.
    """
    if capture not in get_args(Capture):
        allowed = ", ".join(map(repr, get_args(Capture)))
        raise CaptureError(f"capture={capture!r} is unknown; allowed are {allowed}")
    if capture == "intercept" and request.example is None:
        raise CaptureError(
            "capture='intercept' finds weights by running the model; pass example_inputs or "
            "calibration data"
        )
    second = _second_call(model, request.example) if capture == "fx" else None
    if capture == "auto":
        kept: FrontEnd = "hierarchical" if request.example is None else "intercept"
        return _attempt(kept, model, target, request, original, (_WHY_NO_GRAPH,))
    rewritten = _attempt(capture, model, target, request, original, ())
    if capture == "fx" and second is not None:
        _require_equal_again(rewritten, *second)
    return rewritten


_OWN = (
    *("_analog_scope", "_analog_names", "_analog_name", "_analog_path", "_analog_idle"),
    *("_analog_met", "_analog_seen"),
)


def restore(model: nn.Module) -> None:
    """Undo what a front end did to ``model``'s modules."""
    for module in model.modules():
        if (origin := getattr(type(module), "_analog_origin", None)) is not None:
            module.__class__ = origin()[0]
        for name in _OWN:
            module.__dict__.pop(name, None)
        allow_hooks(module)
        for name, child in list(module._modules.items()):
            if isinstance(child, AnalogOp):
                del module._modules[name]


def _attempt(
    name: FrontEnd,
    model: nn.Module,
    target: Target,
    request: Request,
    original: Census | None,
    declined: tuple[str, ...],
) -> nn.Module:
    """One front end, checked against the original's results and its census."""
    rewritten: nn.Module
    if name == "fx":
        rewritten, digital, log = _trace_whole(model, target, request)
    else:
        rewritten, digital, log = keep(model, target, request, name == "intercept")
        if name == "intercept" and not any("_analog_scope" in m.__dict__ for m in model.modules()):
            name = "hierarchical"
        elif name == "intercept":
            reason = "hierarchical: its Python uses weights directly"
            declined = (*declined, reason)
    total = None if original is None else original.macs
    if original is not None and operators(rewritten):
        digital, total = _audit(rewritten, request, original, digital, compare=name != "fx")
    elif original is not None:
        digital = _with_left(digital, original.left)
    example, samples = None, 1
    if request.example is not None:
        example, samples = request.example.of_one_sample(), request.example.samples
    left = tuple(digital)
    report = Report(target.name, left, total, log, name, declined, target, example, samples)
    rewritten.report = report  # type: ignore[assignment]
    arrange(operators(rewritten))
    call_as_one_pass(rewritten)
    watch_loading(rewritten)
    return rewritten


def _trace_whole(
    model: nn.Module, target: Target, request: Request
) -> tuple[nn.Module, list[DigitalProduct], tuple[str, ...]]:
    # Reading a parametrized weight in train mode may be a step of an iteration.
    flags = [(module, module.training) for module in model.modules()]
    try:
        graph_module = trace(model.eval(), request.example)
        graph_module.meta["request"] = request
        traversed = _traversed(graph_module)
        log = run(graph_module, target, PIPELINE)
    finally:
        for module, training in flags:
            module.training = training
    graph_module.training = model.training
    for module in list(graph_module.modules()):
        for child in module.children():
            if isinstance(child, AnalogOp):
                child.train(module.training)
    dissolved = sorted(traversed - _called(graph_module))
    for name in dissolved:
        refuse_hooks(graph_module.get_submodule(name))
    frozen = Frozen(graph_module, type(model), dissolved, graph_module.meta["noticed"])
    graph_module.__dict__["_analog_frozen"] = frozen
    digital = [
        DigitalProduct(d.name, d.operator, d.reason, node.meta.get("macs"), d.chosen)
        for node in graph_module.graph.nodes
        if isinstance(d := node.meta.get("analog"), Declined)
    ]
    graph_module.meta.clear()
    return graph_module, digital, log


def _traversed(module: fx.GraphModule) -> set[str]:
    """The modules that the traced Python called, leaves included."""
    stacks = [node.meta.get("nn_module_stack", {}).values() for node in module.graph.nodes]
    return {path for stack in stacks for path, _ in stack if path}


def _called(module: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in module.graph.nodes if node.op == "call_module"}


def _audit(
    model: nn.Module,
    request: Request,
    original: Census,
    digital: list[DigitalProduct],
    compare: bool,
) -> tuple[list[DigitalProduct], int]:
    """Count what became analog, and name every stored product that did not.

    Raises:
        PassError: the rewritten model returns something else.
    """
    with bypassed(model):
        counted = census(model, request.example)
    if compare:
        require_equal(counted.output, request.expected)
    macs: dict[int | None, int] = {}
    for product in counted.products:
        macs[product.index] = macs.get(product.index, 0) + product.macs
    for op in operators(model):
        op.region = replace(op.region, macs=macs.get(op.region.index, 0))
    return _with_left(digital, counted.left), max(original.macs, counted.macs)


def _with_left(
    digital: list[DigitalProduct], left: tuple[StoredProduct, ...]
) -> list[DigitalProduct]:
    """The declined products with their work, and those of the census nobody gave a reason for."""
    work = {p.module: 0 for p in left}
    for product in left:
        work[product.module] += product.macs
    # The flop counter of a graph sees no recurrent kernels: zero is not trusted either.
    named = [d if d.macs else replace(d, macs=work.get(d.name, 0)) for d in digital]
    known = {d.name for d in digital}
    # In a graph every function call belongs to the graph itself.
    explained = sum(d.macs or 0 for d in named if d.reason != ACTIVATIONS)
    if sum(work.values()) <= explained:
        return named
    reason = "no front end reached the weight, or it is computed anew from other products"
    extra = [
        DigitalProduct(p.module or "(model)", p.operator, reason, p.macs)
        for p in left
        if p.module not in known
    ]
    return named + extra


def _what_is_missing(model: nn.Module) -> str | None:
    """Why a traced model leaves products digital that nobody chose to, or None."""
    report: Report = model.report  # type: ignore[assignment]
    missing = [d for d in report.digital if not d.chosen and d.reason != ACTIVATIONS]
    missing = [d for d in missing if d.macs != 0 or d.reason == NEEDS_A_RULE]
    unmeasured = report.total_macs is None and bool(operators(model))
    if not missing or unmeasured:
        return None
    return "; ".join(f"{d.name}: {d.reason}" for d in missing[:3])


def _left(model: nn.Module) -> int:
    """Multiply-accumulates that are not analog."""
    report: Report = model.report  # type: ignore[assignment]
    return (report.total_macs or 0) - sum(op.region.macs or 0 for op in operators(model))


def _second_call(model: nn.Module, example: Call | None) -> tuple[Call, Any] | None:
    """The example at batch size 1, and what the original returns for it, where both exist."""
    if example is None:
        return None
    leaves, structure = tree_flatten((example.args, dict(example.kwargs)))
    tensors = [t for t in leaves if isinstance(t, Tensor)]
    sizes = {t.shape[0] if t.ndim else 0 for t in tensors}
    if len(sizes) != 1 or min(sizes) < 2:
        return None
    first = [t[:1] if isinstance(t, Tensor) else t for t in leaves]
    call = Call(*tree_unflatten(first, structure))
    try:
        with eval_mode(model), torch.no_grad():
            return call, call(model)
    except Exception:
        return None  # the model does not take this size; nothing to compare with


def _require_equal_again(model: nn.Module, call: Call, expected: Any) -> None:
    try:
        with eval_mode(model), torch.no_grad(), bypassed(model):
            actual = call(model)
    except Exception as error:
        raise CaptureError(f"the graph fails at another batch size: {error}") from error
    require_equal(actual, expected)
