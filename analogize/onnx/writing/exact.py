"""What a file promises about its numbers: equal to torch's bit for bit, or why not."""

from __future__ import annotations

import onnx_ir as ir

from analogize.onnx.manifest import REGION_KEY, Arithmetic, Promise
from analogize.onnx.writing.plan import RegionPlan
from analogize.onnx.writing.runtime_noise import products_are_noisy

# Float32 holds every integer up to this.
_EXACT_SUMS = 2**24

# One correctly rounded operation an element, or none: any implementation gives the same bits.
_EXACT_OPERATORS = frozenset(
    {
        *("Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape"),
        *("DepthToSpace", "Div", "Dropout", "Equal", "Expand", "Flatten", "Floor", "Gather"),
        *("Greater", "GreaterOrEqual", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Max"),
        *("MaxPool", "Min", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Range", "Relu"),
        *("ReduceMax", "ReduceMin", "Reshape"),
        *("Round", "Shape", "Sign", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub"),
        *("Tile", "Transpose", "Unsqueeze", "Where"),
    }
)


# These are exact too where they reduce a single element.
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum"})


def promise(graph: ir.Graph, plans: tuple[RegionPlan, ...], arithmetic: Arithmetic) -> Promise:
    """Judge the final graph."""
    reasons = [reason for plan in plans for reason in doubts(plan, arithmetic)]
    inexact = {
        node.op_type: node.name
        for node in reversed(list(graph.all_nodes()))
        if REGION_KEY not in node.metadata_props and not _is_exact(node)
    }
    reasons += [
        f"digital operator {operator} (first: '{name}') rounds float32 in an order of its own; "
        "the next DAC absorbs that except at the edge of a code"
        for operator, name in sorted(inexact.items())
    ]
    return Promise(exact=not reasons, reasons=tuple(reasons))


def _is_exact(node: ir.Node) -> bool:
    return node.op_type in _EXACT_OPERATORS or (
        node.op_type in _REDUCTIONS and _reduces_one_element(node)
    )


def _reduces_one_element(node: ir.Node) -> bool:
    x, axes = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    known = None if axes is None else ir.convenience.get_const_tensor(axes)
    if x is None or x.shape is None or known is None:
        return False
    sizes = [x.shape[int(axis)] for axis in known.numpy().ravel()]
    return all(isinstance(size, int) and size == 1 for size in sizes)


def doubts(plan: RegionPlan, arithmetic: Arithmetic) -> list[str]:
    """Why a region's outputs may differ from torch's although its inputs are equal."""
    if plan.kind != "none":
        kind = "draws noise" if plan.kind == "runtime" else "holds a chip's analog weights"
        reasons = [f"region '{plan.id}' {kind}: its sums are no integers"]
        if plan.kind == "programmed" and products_are_noisy(plan.op):
            reasons.append(
                f"region '{plan.id}': noise that every product draws anew (read, output) is no "
                "part of a chip, and the file leaves it out"
            )
        return reasons
    if plan.max_accumulator is None:
        missing = "DAC" if plan.op.dac.scale is None else "weights"
        return [f"region '{plan.id}': its {missing} have no bits, so its sums are no integers"]
    if plan.max_accumulator >= _EXACT_SUMS:
        return [
            f"region '{plan.id}': sums of codes may reach {plan.max_accumulator:.0f}, beyond 2^24, "
            "and float32 rounds them"
        ]
    if arithmetic == "qdq" and plan.op.tiles is None:
        return [
            f"region '{plan.id}': qdq arithmetic; a fused integer kernel multiplies by the "
            "reciprocal of the ADC's step, which may round to the neighbouring code"
        ]
    return []
