"""The record of one analog operator: what it computes, and from where in the model."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Region:
    """What one analog operator is, and where it comes from.

    Attributes:
        name: the module's path, or the parameter's for a functional call.
        operator: ``linear``, ``conv2d``, ``conv_transpose1d``, ...
        weight: the parameter's qualified name.
        weight_shape: the parameter's shape.
        bias: the qualified name of the parameter added digitally, or None.
        index: position in the graph.
        calls: how many calls the graph makes to this operator.
        macs: multiply-accumulates on the example inputs, or None where none were given.
        input_shape: shape of the operator's input on the example, or None.
        output_shape: shape of its output, or None.
    """

    name: str
    operator: str
    weight: str
    weight_shape: tuple[int, ...]
    bias: str | None
    index: int
    calls: int = 1
    macs: int | None = None
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None

    def within(self, prefix: str, index: int) -> Region:
        """The same region, as number ``index`` of a model in which its names follow ``prefix``."""
        return replace(
            self,
            name=prefix + self.name,
            weight=prefix + self.weight,
            bias=None if self.bias is None else prefix + self.bias,
            index=index,
        )
