"""A target in words: one line for each of its parts."""

from __future__ import annotations

from analogize.targets.dialect import dump_inline
from analogize.targets.formula import formula
from analogize.targets.spec import (
    AbsMaxRange,
    Array,
    BoundRange,
    CalibratedRange,
    Conductance,
    Converter,
    ConverterRange,
    Cost,
    Digital,
    FixedRange,
    FullRange,
    LearnedRange,
    LeastSquaresRange,
    MinMaxRange,
    PercentileRange,
    StdRange,
    Target,
    VectorRange,
    WeightRange,
    Weights,
)

_FIGURES = {
    "adc": "pJ an ADC conversion",
    "dac": "pJ a DAC conversion",
    "mac": "pJ an analog MAC",
    "mvm": "pJ an MVM of a tile",
    "tops_per_watt": "TOPS/W of full tiles",
    "mvm_power": "mW a tile at work",
    "mvm_latency": "ns an MVM",
    "tile_area": "mm2 a tile",
    "digital_mac": "pJ a digital MAC",
}


def settings(target: Target) -> list[tuple[str, str]]:
    """What a target says, part by part, in plain words."""
    said = [("weights", _weights(target.weights))]
    if target.conductance is not None:
        said.append(("conductance", _conductance(target.conductance)))
        said.append(("compensation", target.compensation))
    unit = "" if target.conductance is None else target.conductance.unit
    said += [
        ("noise", "\n".join(formula(m, unit) for m in target.noise) or "none"),
        ("DAC", _converter(target.dac)),
        ("ADC", _converter(target.adc)),
        ("array", _array(target.array)),
        ("cost", _cost(target.cost)),
        ("digital", _digital(target.digital)),
    ]
    for override in target.overrides:
        given = override.model_dump(mode="json", exclude_unset=True, exclude={"regions"})
        said.append(("but", f"{', '.join(override.regions)}: {dump_inline(given)}"))
    return said


def bits(count: int | None) -> str:
    """A number of bits, or a dash."""
    return "-" if count is None else str(count)


def _array(array: Array | None) -> str:
    if array is None:
        return "unlimited"
    parts = [f"tiles of {array.rows} x {array.cols}"]
    if array.tiling:
        parts.append("each converts its own sums")
    if array.transposable:
        parts.append("read from either side")
    if array.cell_bits is not None:
        parts.append(f"{array.cell_bits} bits a cell")
    if array.input_bits is not None:
        parts.append(f"inputs {array.input_bits} bits at a time")
    return "; ".join(parts)


def _cost(cost: Cost | None) -> str:
    figures = {} if cost is None else cost.model_dump(exclude_none=True)
    return ", ".join(f"{value:g} {_FIGURES[key]}" for key, value in figures.items()) or "not known"


def _conductance(mapping: Conductance) -> str:
    ratio = f", on/off {mapping.on_off_ratio:.3g}" if mapping.g_min else ""
    pairs = "one differential pair" if mapping.pairs == 1 else f"{mapping.pairs} pairs"
    if mapping.encoding == "offset":
        devices = "one device" if mapping.pairs == 1 else f"{mapping.pairs} devices"
        pairs = f"a reference column a tile, {devices}"
    if mapping.significance is not None:
        pairs += f" ({', '.join(f'{factor:g}' for factor in mapping.significance)} times)"
    ends = f"{mapping.g_min:g} to {mapping.g_max:g} {mapping.unit}{ratio}"
    return f"{ends}; {pairs} a weight, scaled per {mapping.scale}"


def _weights(weights: Weights) -> str:
    each = "layer" if weights.granularity == "tensor" else "output channel"
    clipping = (
        f"clipped to {_range(weights.range)} of each {each}" if weights.range else "unclipped"
    )
    return f"{clipping}; {_grid(weights)}"


def _converter(converter: Converter) -> str:
    if converter.bits is None:
        return "none"
    is_of_data = isinstance(converter.range, CalibratedRange | LearnedRange)
    data = " of the calibration data" if is_of_data else ""
    each = ", one per output channel" if converter.granularity == "channel" else ""
    return f"{_grid(converter)} over {_range(converter.range)}{data}{each}"


def _grid(part: Weights | Converter) -> str:
    return f"{part.bits} bits, {part.grid} grid" if part.bits else "not quantized"


def _range(values: WeightRange | ConverterRange) -> str:
    match values:
        case StdRange() | PercentileRange() | MinMaxRange() | LeastSquaresRange():
            return _rule(values)
        case AbsMaxRange():
            return "± the largest magnitude"
        case LearnedRange():
            return _learned(values)
        case FullRange():
            return "every sum a tile can produce"
        case BoundRange():
            return f"±{values.bound:g} full-scale inputs times weights"
        case VectorRange():
            return "the values of each vector"
        case FixedRange():
            return f"[{values.min:g}, {values.max:g}]"


def _rule(rule: CalibratedRange) -> str:
    match rule:
        case StdRange():
            return f"±{rule.multiple:g} standard deviations"
        case PercentileRange():
            return f"percentiles {rule.low:g} to {rule.high:g}"
        case MinMaxRange():
            return "the smallest to the largest value"
        case LeastSquaresRange():
            return "the range of least squared error"


def _learned(values: LearnedRange) -> str:
    how = "with the gradient of lsq" if values.gradient == "lsq" else "pushed out by values beyond"
    pull = ""
    if values.decay:
        pull = f", decaying by {values.decay:g} while more than {values.inside:.3g} are inside"
    return f"a learned range ({how}{pull}) that starts at {_rule(values.start)}"


def _digital(digital: Digital) -> str:
    parts = [*digital.operators, *(f"layers named {pattern}" for pattern in digital.names)]
    return ", ".join(parts) or "nothing that an array can hold"
