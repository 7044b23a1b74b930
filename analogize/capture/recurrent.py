"""LSTM, GRU and RNN, and their cells, as input and recurrent linear products.

The gates and their order are PyTorch's (the documentation of nn.LSTM and nn.GRU). The input product
runs once over the whole sequence; the recurrent one once a step, on the same array. Where products
alone have to be seen, ``stored`` computes them itself (``Products``), and no mode looks at the
gates' arithmetic, step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from analogize.capture.composites import Stored
from analogize.passes.signature import RULES

# (gates of the input, states, recurrent product with its bias, projection) -> states
State = tuple[Tensor, ...]
Map = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, State, Map, Map | None], State]
# (inputs, weight, bias) -> outputs
LinearProduct = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _lstm_step(gates: Tensor, state: State, recurrent: Map, projection: Map | None) -> State:
    hidden, cell = state
    i, f, g, o = (gates + recurrent(hidden)).chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    return (hidden if projection is None else projection(hidden)), cell


def _gru_step(gates: Tensor, state: State, recurrent: Map, projection: Map | None) -> State:
    (hidden,) = state
    r, z, n = gates.chunk(3, -1)
    r_h, z_h, n_h = recurrent(hidden).chunk(3, -1)
    update = torch.sigmoid(z + z_h)
    new = torch.tanh(n + torch.sigmoid(r + r_h) * n_h)
    return (new + update * (hidden - new),)


def _rnn_step(activation: Callable[[Tensor], Tensor]) -> Step:
    def step(gates: Tensor, state: State, recurrent: Map, projection: Map | None) -> State:
        return (activation(gates + recurrent(state[0])),)

    return step


_STEPS: dict[str, Step] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": _rnn_step(torch.tanh),
    "rnn_relu": _rnn_step(torch.relu),
}


class Products:
    """Which tensors are weights, and products with them, computed past the mode that runs.

    Args:
        is_weight: says which tensors are.
        product: of a function, its positional and its named arguments.
    """

    def __init__(self, is_weight: Stored, product: Callable[..., Any]) -> None:
        self._is_weight, self._product = is_weight, product

    def __call__(self, value: Any) -> bool:
        """Whether ``value`` is a weight."""
        return self._is_weight(value)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``F.linear``, on an array where the weight has one."""
        y: Tensor = self._product(F.linear, (x, weight, bias), {})
        return y


class _Weights:
    """The flat list of parameters, one layer and direction at a time."""

    def __init__(self, flat: Any, biases: bool, projected: bool, linear: LinearProduct) -> None:
        self.flat, self.biases, self.projected = list(flat), biases, projected
        self.linear = linear

    def of(self, index: int) -> tuple[Map, Map, Map | None]:
        """The products with input and recurrent weight, with their biases, and the projection."""
        size = 2 + 2 * self.biases + self.projected
        part = self.flat[index * size : (index + 1) * size]
        b_ih, b_hh = part[2:4] if self.biases else (None, None)
        projection = self._product(part[-1], None) if self.projected else None
        return self._product(part[0], b_ih), self._product(part[1], b_hh), projection

    def _product(self, weight: Tensor, bias: Tensor | None) -> Map:
        linear = self.linear
        return lambda x: linear(x, weight, bias)


def _linear(stored: Stored) -> LinearProduct:
    """How products are computed: by what sees the weights itself, or by the mode that runs."""
    linear: LinearProduct = getattr(stored, "linear", F.linear)
    return linear


def _rule(kind: str) -> Callable[..., Any]:
    def rule(stored: Stored, x: Tensor, *rest: Any) -> Any:
        packed = isinstance(rest[0], Tensor) and not isinstance(rest[1], bool | int)
        packed = packed and isinstance(rest[2], list | tuple)
        sizes, rest = (rest[0], rest[1:]) if packed else (None, rest)
        initial, flat, biases, layers, dropout, training, bidirectional = rest[:7]
        if not any(map(stored, flat)):
            return NotImplemented
        states = tuple(initial) if kind == "lstm" else (initial,)
        projected = kind == "lstm" and states[0].shape[-1] != states[1].shape[-1]
        weights = _Weights(flat, biases, projected, _linear(stored))
        batch_first = bool(rest[7]) if sizes is None and len(rest) > 7 else False
        x = x.transpose(0, 1) if batch_first else x
        run = _run_packed if sizes is not None else _run
        finals: list[State] = []
        for layer in range(layers):
            outputs = []
            for direction in range(1 + bidirectional):
                index = layer * (1 + bidirectional) + direction
                start = tuple(s[index] for s in states)
                y, end = run(_STEPS[kind], x, start, weights.of(index), bool(direction), sizes)
                outputs.append(y)
                finals.append(end)
            x = torch.cat(outputs, -1) if bidirectional else outputs[0]
            if dropout and training and layer < layers - 1:
                x = F.dropout(x, dropout, training=True)
        x = x.transpose(0, 1) if batch_first else x
        return (x, *(torch.stack(parts) for parts in zip(*finals, strict=True)))

    return rule


def _run(
    step: Step, x: Tensor, state: State, weights: Any, backwards: bool, sizes: None
) -> tuple[Tensor, State]:
    """Shapes: x (T, B, K), state (B, H) each; returns (T, B, H) and the last state."""
    product, recurrent, projection = weights
    gates = product(x)
    outputs: list[Tensor] = []
    for now in (gates.flip(0) if backwards else gates).unbind(0):
        state = step(now, state, recurrent, projection)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


def _run_packed(
    step: Step, x: Tensor, state: State, weights: Any, backwards: bool, sizes: Any
) -> tuple[Tensor, State]:
    """A packed sequence: x (sum of sizes, K), whose step t holds the ``sizes[t]`` longest.

    Each step updates the rows that are alive; the others keep their state.
    """
    product, recurrent, projection = weights
    counts = sizes.tolist()
    steps = list(torch.split(product(x), counts))
    outputs: list[Tensor] = []
    for now in steps[::-1] if backwards else steps:
        alive = len(now)
        new = step(now, tuple(s[:alive] for s in state), recurrent, projection)
        state = tuple(torch.cat([n, s[alive:]]) for n, s in zip(new, state, strict=True))
        outputs.append(new[0])
    return torch.cat(outputs[::-1] if backwards else outputs), state


def _cell_rule(kind: str) -> Callable[..., Any]:
    def rule(
        stored: Stored,
        x: Tensor,
        hx: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Any:
        if not stored(w_ih) and not stored(w_hh):
            return NotImplemented
        state = tuple(hx) if kind == "lstm" else (hx,)
        linear = _linear(stored)
        gates = linear(x, w_ih, b_ih)
        new = _STEPS[kind](gates, state, lambda hidden: linear(hidden, w_hh, b_hh), None)
        return new if kind == "lstm" else new[0]

    return rule


for _kind in _STEPS:
    RULES[getattr(torch._VF, _kind)] = _rule(_kind)
    RULES[getattr(torch._VF, f"{_kind}_cell")] = _cell_rule(_kind)
# What is to be seen of them is products alone.
LAYERS = frozenset(getattr(torch._VF, f"{kind}{c}") for kind in _STEPS for c in ("", "_cell"))
