"""The analog operator: DAC -> array -> ADC, as one differentiable function.

Forward, with zero-centred codes (see quantize.py)::

    x_code = clamp(round(x / s_x))                       DAC
    w_hat  = clamp(round(clip(w) / s_w)) + noise         array
    acc    = product(x_code, w_hat)
    y      = clamp(round(acc / y_step)) * s_y            ADC, y_step = float32(s_y / (s_x s_w))

A stage without bits is skipped. Backward: straight through every rounding, zero where a converter
or the weight clipping saturates, and with the *clean* weights, not the noisy ones (Noisy Machines,
section 5.1). Codes and clean weights are computed again on the way back instead of being kept, so
that training needs hardly more memory than the digital model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from analogize.array import WeightArray
from analogize.converter import Converter
from analogize.errors import CalibrationError
from analogize.product import Convolution, Product
from analogize.quantize import Bound
from analogize.targets.spec import Target

aten = torch.ops.aten

NoiseMode = Literal["off", "fresh", "programmed"]

# Zero-centred codes up to this magnitude are exact in bfloat16 (8 significant bits).
_EXACT_IN_BFLOAT16_BITS = 8


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


class Stages(NamedTuple):
    """The fixed parts of one operator, as tensors and numbers; scales are None where there is none.

    ``x_*`` belong to the DAC, ``step`` and ``y_*`` to the ADC. ``gain`` rescales the accumulated
    array units where there is no ADC. ``dtype`` is what the product runs in, ``output_dtype`` what
    the digital operator would return.
    """

    product: Product
    x_scale: Tensor | None
    x_low: float
    x_high: float
    step: Tensor | None
    y_scale: Tensor | None
    y_low: float
    y_high: float
    gain: Tensor | None
    dtype: torch.dtype
    output_dtype: torch.dtype


class AnalogOp(nn.Module):
    """One product with stored weights, as an analog array computes it; the bias stays outside.

    The weight is an argument of the call, not a member: it keeps its place and its name in the
    model, tied weights stay tied, and computed weights work as they are.

    Attributes:
        dac: input converter.
        array: the weights' array; operators that share a weight share it.
        adc: output converter.
        mode: ``"off"``, ``"fresh"`` or ``"programmed"``, or None for the default: fresh noise in
            training, and in evaluation until a chip is programmed.
        region: what this operator stands for.
        observer: while calibrating, receives (input, output) of the digital product.
    """

    step: Tensor | None
    gain: Tensor | None

    def __init__(
        self, array: WeightArray, product: Product, target: Target, region: Region
    ) -> None:
        super().__init__()
        self.product = product
        self.region = region
        self.dac, self.array, self.adc = Converter(target.dac), array, Converter(target.adc)
        self.tile_size = target.array
        self.mode: NoiseMode | None = None
        self.observer: Callable[[Tensor, Tensor], None] | None = None
        self.register_buffer("step", None, persistent=False)
        self.register_buffer("gain", None, persistent=False)
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]
        self.refresh()

    def refresh(self) -> None:
        """Compute the ADC's step or the gain anew; needed whenever a range was changed."""
        device = self.array.range.device
        factor = torch.ones((), dtype=torch.float64, device=device)
        scales = [s for s in (self.dac.scale, self.array.output_scale) if s is not None]
        for scale in scales:
            factor = factor * scale.double()
        self.step = self.gain = None
        if self.adc.scale is not None:
            self.step = (self.adc.scale.double() / factor).float()
        elif scales:
            self.gain = factor.float()

    @property
    def is_calibrated(self) -> bool:
        """Whether every converter that has bits has its range."""
        return all(c.bits is None or c.scale is not None for c in (self.dac, self.adc))

    @property
    def is_exact(self) -> bool:
        """Whether no stage changes anything: then the operator is the digital product itself."""
        converts = self.dac.scale is not None or self.adc.scale is not None
        return not converts and not self.array.clips and self.array.is_silent

    def forward(
        self, x: Tensor, weight: Tensor, output_padding: tuple[int, ...] | None = None
    ) -> Tensor:
        """The array's output before the bias, in the model's own units.

        Shapes: as the digital operator's, without the bias. A transposed convolution called with
        an ``output_size`` passes the ``output_padding`` that makes it.

        Raises:
            CalibrationError: a converter has bits and no range.
            ChipError: mode ``"programmed"`` and no valid chip.
        """
        product = self.product
        if output_padding is not None and isinstance(product, Convolution):
            product = replace(product, output_padding=output_padding)
        if self.observer is not None:
            y = product.forward(x, weight)
            self.observer(x, y)
            return y
        if not self.is_calibrated:
            self._refuse_uncalibrated()
        if self.is_exact:
            return product.forward(x, weight)
        used = self._weights(weight)
        stages = self._stages(product, x)
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            result: Tensor = _Analog.apply(x, weight, used, self.array, stages)[0]
            return result
        return _convert_output(_accumulate(x, used, stages), stages)

    def _weights(self, weight: Tensor) -> Tensor:
        """The weights of this forward pass in array units."""
        mode = self.mode
        if mode is None:
            has_chip = not self.training and self.array.chip is not None
            mode = "programmed" if has_chip else "fresh"
        if mode == "programmed":
            return self.array.programmed(weight)
        with torch.no_grad():
            clean = self.array.clean(weight.detach())
            return clean if mode == "off" else self.array.noisy(clean)

    def _stages(self, product: Product, x: Tensor) -> Stages:
        dac, adc = self.dac, self.adc
        native = x.dtype
        if torch.is_autocast_enabled(x.device.type) and native != torch.float64:
            native = torch.get_autocast_dtype(x.device.type)
        return Stages(
            product,
            dac.scale,
            _number(dac.low),
            _number(dac.high),
            self.step,
            adc.scale,
            _number(adc.low),
            _number(adc.high),
            self.gain,
            self._product_dtype(native),
            native,
        )

    def _product_dtype(self, native: torch.dtype) -> torch.dtype:
        """The dtype to multiply in.

        Codes must stay exact and their sums finite: more than 8 bits do not fit bfloat16, and sums
        of codes overflow float16, so either goes through float32.
        """
        in_codes = self.dac.scale is not None or self.array.output_scale is not None
        bits = max(self.dac.bits or 0, self.array.bits or 0)
        too_fine = native == torch.bfloat16 and bits > _EXACT_IN_BFLOAT16_BITS
        return torch.float32 if in_codes and (too_fine or native == torch.float16) else native

    def _refuse_uncalibrated(self) -> None:
        missing = " and ".join(
            name
            for name, c in (("DAC", self.dac), ("ADC", self.adc))
            if c.bits is not None and c.scale is None
        )
        raise CalibrationError(
            f"region '{self.region.name}': the range of its {missing} was never calibrated; pass "
            "calibration=loader to analogize(), call calibrate(model, loader), or give the target "
            "a fixed range"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.refresh()
        return self

    def extra_repr(self) -> str:
        """Operator and mode, for ``print(model)``."""
        return f"{self.region.operator}, noise {self.mode or 'default'}"


def operators(model: nn.Module) -> tuple[AnalogOp, ...]:
    """Every analog operator of ``model`` once, in the order of its graph."""
    found = [m for m in model.modules() if isinstance(m, AnalogOp)]
    return tuple(sorted(found, key=lambda op: op.region.index))


@contextmanager
def bypassed(
    model: nn.Module, observe: Callable[[AnalogOp, Tensor, Tensor], None] | None = None
) -> Iterator[None]:
    """Run the digital products instead of the analog ones, and let ``observe`` see (op, x, y)."""

    def watcher(op: AnalogOp) -> Callable[[Tensor, Tensor], None]:
        return lambda x, y: None if observe is None else observe(op, x, y)

    ops = operators(model)
    try:
        for op in ops:
            op.observer = watcher(op)
        yield
    finally:
        for op in ops:
            op.observer = None


def _refresh(op: AnalogOp, incompatible_keys: object) -> None:
    op.refresh()


def _number(bound: Bound) -> float:
    assert isinstance(bound, float), "a converter's range is one for all channels"
    return bound


def _accumulate(x: Tensor, weights: Tensor, stages: Stages) -> Tensor:
    """DAC and product: accumulated array units."""
    codes = _input_codes(x, stages)
    dtype = stages.dtype
    with torch.autocast(x.device.type, enabled=False):
        return stages.product.forward(codes.to(dtype), weights.to(dtype))


def _input_codes(x: Tensor, stages: Stages) -> Tensor:
    if stages.x_scale is None:
        return x
    return (x / stages.x_scale).round_().clamp_(stages.x_low, stages.x_high)


def _convert_output(acc: Tensor, stages: Stages) -> Tensor:
    """ADC on accumulated array units, in place; back in the model's units."""
    if stages.step is not None and stages.y_scale is not None:
        acc = acc.div_(stages.step).round_().clamp_(stages.y_low, stages.y_high)
        acc = acc.mul_(stages.y_scale)
    elif stages.gain is not None:
        acc = acc.mul_(stages.gain)
    return acc.to(stages.output_dtype)


class _Analog(torch.autograd.Function):
    """The operator with its explicit backward pass; returns (y, where the ADC saturates)."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, used: Tensor, array: WeightArray, stages: Stages
    ) -> tuple[Tensor, Tensor | None]:
        acc = _accumulate(x, used, stages)
        if stages.step is None or stages.y_scale is None:
            return _convert_output(acc, stages), None
        rounded = acc.div_(stages.step).round_()
        codes = rounded.clamp(stages.y_low, stages.y_high)
        # One byte an element instead of four: 0 where the ADC is in range.
        saturated = rounded.sub_(codes).clamp_(-1, 1).to(torch.int8)
        return codes.mul_(stages.y_scale).to(stages.output_dtype), saturated

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        x, weight, _, ctx.array, ctx.stages = inputs
        saturated = output[1]
        if saturated is not None:
            ctx.mark_non_differentiable(saturated)
        ctx.save_for_backward(x, weight, saturated)
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None, None
        x, weight, saturated = ctx.saved_tensors
        stages: Stages = ctx.stages
        array: WeightArray = ctx.array
        if saturated is not None:
            grad = aten.hardtanh_backward(grad, saturated.to(grad.dtype), -0.5, 0.5)
        grad = _output_gradient(grad, stages)
        codes = _input_codes(x, stages).to(stages.dtype)
        clean = array.clean(weight).to(stages.dtype)
        grad_x, grad_w = stages.product.backward(
            grad.to(stages.dtype), codes, clean, (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        )
        if grad_x is not None:
            grad_x = _input_gradient(grad_x.to(x.dtype), x, stages)
        if grad_w is not None:
            grad_w = array.weight_gradient(grad_w.to(weight.dtype), weight)
        return grad_x, grad_w, None, None, None


def _output_gradient(grad: Tensor, stages: Stages) -> Tensor:
    """From the model's units to array units: y = acc * gain, or y = round(acc / step) * s_y."""
    if stages.step is not None and stages.y_scale is not None:
        return grad * (stages.y_scale / stages.step)
    return grad if stages.gain is None else grad * stages.gain


def _input_gradient(grad: Tensor, x: Tensor, stages: Stages) -> Tensor:
    """Straight through the DAC's rounding; zero where it saturates."""
    if stages.x_scale is None:
        return grad
    # The codes' own limits plus the half step that still rounds onto them.
    low = stages.x_scale * (stages.x_low - 0.5)
    high = stages.x_scale * (stages.x_high + 0.5)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        grad = aten.hardtanh_backward(grad, x, float(low), float(high))
    else:
        grad = grad * ((x > low) & (x < high))
    return grad.div_(stages.x_scale)
