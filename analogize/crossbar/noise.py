"""Weight noise models: pure functions with an explicit random generator.

Every function returns the *deviation* of the programmed from the intended weights, in the units of
the weights it is given: weight units or integer codes, as long as the range is in the same units.
``generator=None`` draws from torch's global generator on the weights' device; a generator is
always a CPU one, so that a chip is the same on every device; ``Draws`` are those of a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from analogize.devices.custom import Site, call
from analogize.devices.random import NORMAL, Draws, chip_draw
from analogize.quantize import Bound
from analogize.targets.noise import (
    ADCMismatchNoise,
    CustomNoise,
    FixedSNRNoise,
    GaussianNoise,
    INLNoise,
    IRDropNoise,
    NoiseModel,
    OutputNoise,
    ReadNoise,
    ScaledModel,
    StuckNoise,
    VariationNoise,
    acts_on_devices,
    acts_on_signals,
    scale_of,
)

Source = torch.Generator | Draws | None


def standard_normal(like: Tensor, generator: Source, name: str = NORMAL) -> Tensor:
    """Independent N(0, 1) values with the shape, dtype and device of ``like``."""
    if isinstance(generator, Draws):
        return generator.normal(name, like)
    if generator is None:
        return _eager_randn_like(like) if torch.compiler.is_compiling() else torch.randn_like(like)
    return chip_draw(like, generator)


@torch.library.custom_op(
    "analogize::randn_like", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def _eager_randn_like(like: Tensor) -> Tensor:
    """``torch.randn_like`` that torch.compile leaves alone.

    Inductor's own generator for CPUs is scalar, an order of magnitude slower than eager torch's,
    and draws other values for the same seed; this one draws the eager ones.
    """
    return torch.randn_like(like)


@_eager_randn_like.register_fake
def _(like: Tensor) -> Tensor:
    return torch.empty_like(like)


def gaussian(
    weights: Tensor,
    w_min: Bound,
    w_max: Bound,
    eta: float,
    eta_std: float = 0.0,
    generator: Source = None,
) -> Tensor:
    """Additive Gaussian noise referenced to the range of representable weights.

    sigma = eta (W_max - W_min), equation 8 of Noisy Machines, section 5.1; with ``eta_std`` the
    level itself is drawn once a call from N(eta, eta_std), section 5.2. A negative draw needs no
    special case: the noise is symmetric.

    Args:
        weights: the intended weights, any shape.
        w_min: lower end of the range; a number or a tensor that broadcasts with ``weights``.
        w_max: upper end, likewise.
        eta: noise level, a fraction of the range.
        eta_std: standard deviation of the level from draw to draw.
        generator: CPU generator, a pass's draws, or None for torch's global one.
    """
    noise = standard_normal(weights, generator)
    if eta_std == 0:
        return noise.mul_((w_max - w_min) * eta)
    level = standard_normal(weights.new_empty(()), generator, "level").mul_(eta_std).add_(eta)
    return noise.mul_(w_max - w_min).mul_(level)


def fixed_snr(weights: Tensor, ratio: float, generator: Source = None) -> Tensor:
    """Additive Gaussian noise with a fixed signal-to-noise ratio in each layer.

    sigma_N = ratio * sigma_W with sigma_W the standard deviation of the layer's current weights:
    section 4.1 of Noisy Machines, where the ratio sigma_N / sigma_W is the axis of Fig. 2.

    Args:
        weights: the intended weights, any shape.
        ratio: sigma_N / sigma_W.
        generator: CPU generator, a pass's draws, or None for torch's global one.
    """
    return standard_normal(weights, generator).mul_(weights.std(correction=0)).mul_(ratio)


def _draw_gaussian(
    model: GaussianNoise, weights: Tensor, w_min: Bound, w_max: Bound, g: Source
) -> Tensor:
    return gaussian(weights, w_min, w_max, model.eta, model.eta_std, g)


def _draw_fixed_snr(
    model: FixedSNRNoise, weights: Tensor, w_min: Bound, w_max: Bound, g: Source
) -> Tensor:
    return fixed_snr(weights, model.ratio, g)


def _draw_custom(
    model: CustomNoise,
    weights: Tensor,
    w_min: Bound,
    w_max: Bound,
    g: Source,
    site: Site | None = None,
) -> Tensor:
    if isinstance(g, Draws):
        g = g.generator(NORMAL)
    deviation = call(model, "deviations", weights, w_min, w_max, g, site=site)
    return deviation.clone()  # the caller adds in place, and the function may keep its result


_DRAW: dict[type, Callable[..., Tensor]] = {
    GaussianNoise: _draw_gaussian,
    FixedSNRNoise: _draw_fixed_snr,
    CustomNoise: _draw_custom,
}
_LEVEL: dict[type, str] = {GaussianNoise: "eta", FixedSNRNoise: "ratio"}
# A model with these fields is silent where all of them are zero; any other is never known to be.
_SILENT: dict[type, tuple[str, ...]] = {
    GaussianNoise: ("eta", "eta_std"),
    FixedSNRNoise: ("ratio",),
    VariationNoise: ("std",),
    StuckNoise: ("at_min", "at_max"),
    IRDropNoise: ("row_segment", "column_segment"),
    ReadNoise: ("additive", "multiplicative", "sigma"),
    OutputNoise: ("std",),
    ADCMismatchNoise: ("gain", "offset"),
}


def draw(
    model: NoiseModel,
    weights: Tensor,
    w_min: Bound,
    w_max: Bound,
    generator: Source = None,
    site: Site | None = None,
) -> Tensor | None:
    """Draw one instance of ``model``; None where it is silent, so that sigma = 0 is exact.

    None as well for a model that acts on devices, signals or products instead of weights.
    """
    function = _DRAW.get(type(model))
    if function is None or is_silent(model) or acts_on_devices(model) or acts_on_signals(model):
        return None
    if isinstance(model, CustomNoise):
        return _draw_custom(model, weights, w_min, w_max, generator, site)
    return function(model, weights, w_min, w_max, generator)


def is_silent(model: NoiseModel) -> bool:
    """Whether every draw of ``model`` is zero."""
    if scale_of(model) == 0:
        return True
    if isinstance(model, INLNoise):
        return not any(model.deviation)
    fields = _SILENT.get(type(model))
    return fields is not None and not any(getattr(model, field) for field in fields)


def has_level(model: NoiseModel) -> bool:
    """Whether the model's strength is one number that ``at_level`` can set."""
    return type(model) in _LEVEL


def level(model: NoiseModel) -> float:
    """The model's noise level: ``eta``, or ``ratio`` for the fixed-SNR form."""
    return float(getattr(model, _LEVEL[type(model)]))


def at_level(model: NoiseModel, value: float) -> NoiseModel:
    """The same model at another level, validated like a target's."""
    fields = model.model_dump() | {_LEVEL[type(model)]: value}
    return type(model).model_validate(fields)


def all_at_level(models: tuple[NoiseModel, ...], value: float) -> tuple[NoiseModel, ...] | None:
    """The models of one array at another level; None where a level has no meaning for them.

    One Gaussian or fixed-SNR model has a level of its own. Of device models it is the ``scale``,
    a factor on what the target says; models without one stay as they are.
    """
    levels = [model for model in models if has_level(model)]
    if not levels and any(isinstance(model, ScaledModel) for model in models):
        return tuple(
            model.model_copy(update={"scale": float(value)})
            if isinstance(model, ScaledModel)
            else model
            for model in models
        )
    if len(models) == len(levels) == 1:
        return (at_level(models[0], value),)
    return models if value == 0 and not models else None
