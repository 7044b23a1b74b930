"""Linear and convolution modules become function calls on their parameters.

    y = self.fc(x)   ->   w = self.fc.weight; b = self.fc.bias; y = F.linear(x, w, b)

After this pass the module form and the functional form of a product look the same, and a module
that is called twice shows as one weight with two calls.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn
from torch.nn import functional as F

from analogize.targets.spec import Target

_CONV: dict[type[nn.Module], Callable[..., object]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}
_CONV_TRANSPOSE: dict[type[nn.Module], Callable[..., object]] = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


def functionalize(module: fx.GraphModule, target: Target) -> int:
    """Replace calls of stock Linear, Conv and ConvTranspose modules; returns how many."""
    count = 0
    for node in list(module.graph.nodes):
        if node.op != "call_module" or len(node.args) + len(node.kwargs) == 0:
            continue
        owner = module.get_submodule(str(node.target))
        if has_hooks(owner):
            continue
        with module.graph.inserting_before(node):
            replacement = _call(module.graph, node, owner)
        if replacement is None:
            continue
        replacement.meta = dict(node.meta, module=node.target)
        node.replace_all_uses_with(replacement)
        module.graph.erase_node(node)
        count += 1
    return count


def has_hooks(module: nn.Module) -> bool:
    """Whether calling ``module`` runs hooks of the user's, which a function call would lose."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in names)


def _call(graph: fx.Graph, node: fx.Node, owner: nn.Module) -> fx.Node | None:
    if isinstance(owner, nn.Linear) and type(owner).forward is nn.Linear.forward:
        return graph.call_function(F.linear, (_input(node), *_parameters(graph, node, owner)))
    for kind, function in _CONV.items():
        if isinstance(owner, kind) and _is_stock_conv(owner, kind):
            return _convolution(graph, node, owner, function)
    for kind, function in _CONV_TRANSPOSE.items():
        if isinstance(owner, kind) and type(owner).forward is kind.forward:
            return _transposed_convolution(graph, node, owner, function)
    return None


def _is_stock_conv(owner: nn.Module, kind: type[nn.Module]) -> bool:
    same_forward = type(owner).forward is kind.forward
    return same_forward and type(owner)._conv_forward is kind._conv_forward  # type: ignore[attr-defined]


def _input(node: fx.Node) -> fx.node.Argument:
    return node.args[0] if node.args else node.kwargs["input"]


def _parameters(graph: fx.Graph, node: fx.Node, owner: nn.Module) -> tuple[fx.Node, fx.Node | None]:
    weight = graph.get_attr(f"{node.target}.weight")
    bias = None if owner.bias is None else graph.get_attr(f"{node.target}.bias")
    return weight, bias


def _convolution(
    graph: fx.Graph, node: fx.Node, owner: nn.Module, function: Callable[..., object]
) -> fx.Node:
    assert isinstance(owner, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    x, padding = _input(node), owner.padding
    if owner.padding_mode != "zeros":
        # nn.Conv keeps the amounts, last dimension first, for exactly this F.pad.
        amounts = tuple(owner._reversed_padding_repeated_twice)
        x = graph.call_function(F.pad, (x, amounts), {"mode": owner.padding_mode})
        padding = (0,) * len(owner.stride)
    weight, bias = _parameters(graph, node, owner)
    arguments = (x, weight, bias, owner.stride, padding, owner.dilation, owner.groups)
    return graph.call_function(function, arguments)


def _transposed_convolution(
    graph: fx.Graph, node: fx.Node, owner: nn.Module, function: Callable[..., object]
) -> fx.Node | None:
    assert isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
    weight, bias = _parameters(graph, node, owner)
    output_padding: object = owner.output_padding
    if size is not None:
        output_padding = graph.call_function(
            output_padding_for,
            (
                _input(node),
                size,
                owner.stride,
                owner.padding,
                owner.kernel_size,
                owner.dilation,
            ),
        )
    arguments = (
        _input(node),
        weight,
        bias,
        owner.stride,
        owner.padding,
        output_padding,
        owner.groups,
        owner.dilation,
    )
    return graph.call_function(function, arguments)  # type: ignore[arg-type]


def output_padding_for(
    x: object,
    output_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    kernel_size: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """The output padding that makes a transposed convolution return ``output_size``.

    Args:
        x: the input, shape (B, C, *spatial) or unbatched.
        output_size: wanted spatial size, or a whole output shape that ends in it.
        stride: of the convolution, one value a spatial dimension; the others likewise.
        padding: of the convolution.
        kernel_size: of the convolution.
        dilation: of the convolution.

    Raises:
        ValueError: no output padding below the stride gives that size.
    """
    dimensions = len(stride)
    spatial, wanted = x.shape[-dimensions:], tuple(output_size)[-dimensions:]  # type: ignore[attr-defined]
    sizes = zip(spatial, stride, padding, kernel_size, dilation, strict=True)
    least = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, k, d in sizes]
    result = tuple(w - m for w, m in zip(wanted, least, strict=True))
    if any(not 0 <= r < s for r, s in zip(result, stride, strict=True)):
        raise ValueError(
            f"output_size {tuple(output_size)} cannot be made: each dimension must lie between "
            f"{least} and {[m + s - 1 for m, s in zip(least, stride, strict=True)]}"
        )
    return result
