"""Random graphs, modules and functions on parameters mixed, against eager and a plain reference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, noise_mode, program, summary
from analogize.targets.spec import Target

BATCH, STEPS, WIDTH = 2, 3, 4
BITS = {"dac": 6, "weights": 5, "adc": 7}
LOW, HIGH = -2.0, 3.0

# One step: (what to do, which weights); products are given as functions, so that the reference can
# put its own in their place: linear(x, matrix of shape (N, K)) and conv(x, kernel of (N, C, 3)).
Step = tuple[str, int, int]


class Products:
    """The steps as a user would write them."""

    def __init__(self, model: Mixed) -> None:
        self.model = model

    def run(self, kind: str, x: Tensor, i: int, j: int) -> Tensor:
        m = self.model
        w, v = m.pool[i], m.pool[j]
        steps: dict[str, Callable[[], Tensor]] = {
            "module": lambda: m.layers[i](x),
            "functional": lambda: F.linear(x, w, m.bias),
            "operator": lambda: x @ w,
            "transposed": lambda: torch.matmul(x, w.t()),
            "einsum": lambda: torch.einsum("bti,io->bto", x, w),
            "tensordot": lambda: torch.tensordot(x, w, ([2], [1])),
            "addmm": lambda: torch.addmm(m.bias, x.reshape(-1, WIDTH), w).view_as(x),
            "expanded": lambda: torch.bmm(x, w.expand(len(x), WIDTH, WIDTH)),
            "sliced": lambda: F.linear(x, m.wide[:WIDTH]) + F.linear(x, m.wide.chunk(2)[1]),
            "arithmetic": lambda: F.linear(x, w * 0.5 + v),
            "conv module": lambda: m.conv(x.mT).mT,
            "conv": lambda: F.conv1d(x.mT, m.kernel, padding=1).mT,
        }
        return steps[kind]()


PRODUCTS = [
    "module",
    "functional",
    "operator",
    "transposed",
    "einsum",
    "tensordot",
    "addmm",
    "expanded",
    "sliced",
    "arithmetic",
    "conv module",
    "conv",
]


class Mixed(nn.Module):
    """A chain of steps over weights that several of them share; the layers' weights are tied."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        super().__init__()
        self.steps = steps
        self.pool = nn.ParameterList([torch.randn(WIDTH, WIDTH) / 2 for _ in range(3)])
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.layers[1].weight = self.pool[1]
        self.layers[2].weight = self.layers[0].weight
        self.wide = nn.Parameter(torch.randn(2 * WIDTH, WIDTH) / 2)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(WIDTH, WIDTH, 3) / 3)
        self.bias = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.follow(x, Products(self).run)

    def follow(self, x: Tensor, run: Callable[[str, Tensor, int, int], Tensor]) -> Tensor:
        first = x
        for kind, i, j in self.steps:
            if kind == "relu":
                x = F.relu(x)
            elif kind == "residual":
                x = x + first
            else:
                x = run(kind, x, i, j)
        return x


class Reference:
    """The operators' arithmetic in numpy, code by code as the targets' documentation has it."""

    def __init__(self, model: Mixed) -> None:
        self.model = model

    def run(self, kind: str, x: Tensor, i: int, j: int) -> Tensor:
        m = self.model
        w, v = m.pool[i], m.pool[j]
        if kind == "sliced":
            return self.linear(x, m.wide[:WIDTH]) + self.linear(x, m.wide[WIDTH:])
        if kind in ("conv", "conv module"):
            own = kind == "conv module"
            return self.conv(x, m.conv.weight if own else m.kernel, m.conv.bias if own else None)
        matrix = {
            "module": m.layers[i].weight,
            "functional": w,
            "transposed": w,
            "tensordot": w,
            "arithmetic": w * 0.5 + v,
        }.get(kind, w.t())
        y = self.linear(x, matrix)
        if kind == "module":
            return y + m.layers[i].bias
        return y + m.bias if kind in ("functional", "addmm") else y

    def linear(self, x: Tensor, matrix: Tensor) -> Tensor:
        return torch.from_numpy(crossbar(x.numpy(), matrix.detach().numpy()))

    def conv(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """The columns that a crossbar is fed with: three neighbouring steps, zeros at the ends."""
        padded = F.pad(x, (0, 0, 1, 1))
        columns = torch.stack([padded[:, t : t + STEPS] for t in range(3)], -1)
        y = self.linear(columns.flatten(2).contiguous(), kernel.flatten(1))
        return y if bias is None else y + bias


def crossbar(x: np.ndarray[Any, Any], w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """DAC, array and ADC with explicit zero points; inputs (..., K), weights (N, K)."""
    x_codes, x_zero, x_step = codes(x, LOW, HIGH, BITS["dac"])
    largest = float(np.abs(w).max())
    w_codes, w_zero, w_step = codes(w, -largest, largest, BITS["weights"])
    sums = np.zeros((*x.shape[:-1], w.shape[0]))
    for k in range(w.shape[1]):
        sums += (x_codes[..., k, None] - x_zero) * (w_codes[:, k] - w_zero)
    y_step = np.float32((HIGH - LOW) / (2 ** BITS["adc"] - 1))
    y_zero = np.round(-LOW / (HIGH - LOW) * (2 ** BITS["adc"] - 1))
    unit = np.float32(np.float64(y_step) / (np.float64(x_step) * np.float64(w_step)))
    y_codes = np.clip(np.round(sums.astype(np.float32) / unit) + y_zero, 0, 2 ** BITS["adc"] - 1)
    result: np.ndarray[Any, Any] = (y_codes - y_zero).astype(np.float32) * y_step
    return result


def codes(values: np.ndarray[Any, Any], low: float, high: float, bits: int) -> tuple[Any, Any, Any]:
    """Codes from 0 to 2^bits - 1, the code of zero, and the step."""
    last = 2**bits - 1
    exact = (high - low) / last
    zero, step = np.round(-low / exact), np.float32(exact)
    return np.clip(np.round(values / step) + zero, 0, last), zero, step


def steps(products: list[str]) -> st.SearchStrategy[tuple[Step, ...]]:
    kinds = st.sampled_from([*products, "relu", "residual"])
    index = st.integers(0, 2)
    others = st.lists(st.tuples(kinds, index, index), max_size=5)
    first = st.tuples(st.sampled_from(products), index, index)
    return st.builds(lambda a, b: (a, *b), first, others)


def quantized() -> Target:
    converter = {"range": {"kind": "fixed", "min": LOW, "max": HIGH}}
    return Target.model_validate(
        {
            "schema": 1,
            "name": "quantized",
            "weights": {"range": {"kind": "absmax"}, "bits": BITS["weights"]},
            "dac": {**converter, "bits": BITS["dac"]},
            "adc": {**converter, "bits": BITS["adc"]},
            "noise": [{"model": "gaussian", "eta": 0.05}],
        }
    )


@settings(max_examples=15)
@given(steps=steps(PRODUCTS), seed=st.integers(0, 1000))
def test_ideal_is_eager_with_its_gradients(steps: tuple[Step, ...], seed: int) -> None:
    torch.manual_seed(seed)
    model = Mixed(steps).double()
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=torch.float64)
    analog = analogize(model, "ideal", example_inputs=x)
    assert summary(analog).converted_share == 1
    for batch in (BATCH, 5):
        x = torch.randn(batch, STEPS, WIDTH, dtype=torch.float64)
        reference = copy.deepcopy(model)
        analog.zero_grad()
        actual, expected = analog(x), reference(x)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
        actual.square().sum().backward()
        expected.square().sum().backward()
        for name, parameter in reference.named_parameters():
            grad = analog.get_parameter(name).grad
            # A graph has no gradient where eager has none; the tied names are one parameter.
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-8, atol=1e-8)


@settings(max_examples=15)
@given(steps=steps(PRODUCTS), seed=st.integers(0, 1000))
def test_quantized_is_the_plain_reference(steps: tuple[Step, ...], seed: int) -> None:
    torch.manual_seed(seed)
    model = Mixed(steps).eval()
    analog = analogize(model, quantized(), example_inputs=torch.randn(BATCH, STEPS, WIDTH))
    for batch in (BATCH, 5):
        x = torch.randn(batch, STEPS, WIDTH)
        with torch.no_grad():
            with noise_mode(analog, "off"):
                actual = analog(x)
            expected = model.follow(x, Reference(model).run)
            program(analog, 0)
            chip = analog(x)
        # Bit for bit, but for sums whose order is not fixed: those of biases and slices.
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        assert chip.shape == actual.shape


@pytest.mark.parametrize("kind", PRODUCTS)
def test_every_kind_is_noisy_at_any_batch_size(kind: str) -> None:
    torch.manual_seed(0)
    model = Mixed(((kind, 0, 1),)).eval()
    target = quantized().model_copy(update={"adc": Target(name="none").adc})
    analog = analogize(model, target, example_inputs=torch.randn(BATCH, STEPS, WIDTH))
    for batch in (BATCH, 5):
        x = torch.randn(batch, STEPS, WIDTH)
        with torch.no_grad():
            assert not torch.equal(analog(x), analog(x))
