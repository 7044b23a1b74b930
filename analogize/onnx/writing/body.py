"""The nodes of one analog call while they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import Tensor

from analogize.onnx.manifest import ROLE_KEY

Array = npt.NDArray[Any]
ONE = np.array(1, np.float32)


class Body:
    """The nodes of one call as they are made, each with its role.

    Args:
        constant: makes a value of a name within the region and an array.
    """

    def __init__(self, constant: Callable[[str, Array], ir.Value]) -> None:
        self.constant = constant
        self.nodes: list[tuple[str, ir.Node]] = []
        self._integers: dict[tuple[int, ...] | int, ir.Value] = {}

    def add(
        self,
        role: str,
        step: str,
        operator: str,
        inputs: Sequence[ir.Value],
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        """Append a node; ``role/step`` becomes the end of its name."""
        node = ir.node(
            operator, list(inputs), attributes=attributes or {}, metadata_props={ROLE_KEY: role}
        )
        self.nodes.append((f"{role}/{step}" if step else role, node))
        return node.outputs[0]

    def number(self, name: str, value: float) -> ir.Value:
        """A float32 scalar, an initializer of the region."""
        return self.constant(name, np.array(value, np.float32))

    def integers(self, values: tuple[int, ...] | int) -> ir.Value:
        """Indices, which the graph's structure needs: a Constant node, made once a call."""
        if values not in self._integers:
            attribute = "value_int" if isinstance(values, int) else "value_ints"
            step = f"index{len(self._integers)}"
            plain = values if isinstance(values, int) else list(values)
            made = self.add("mac", step, "Constant", [], {attribute: plain})
            self._integers[values] = made
        return self._integers[values]


def array(values: Tensor) -> Array:
    """A tensor as numpy has it, on the CPU."""
    found: Array = values.detach().cpu().numpy()
    return found
