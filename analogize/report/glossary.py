"""The words of a report, each in one sentence."""

from __future__ import annotations

from html import escape
from typing import Final

TERMS: Final = {
    "adc": ("ADC", "Analog-to-digital converter: makes one of so many codes of a column's sum."),
    "chip": ("chip", "One draw of everything that programming leaves to chance."),
    "dac": ("DAC", "Digital-to-analog converter: makes an input one of so many codes."),
    "deviation": ("standard deviation", "From chip to chip; it does not shrink with more chips."),
    "digital": ("left digital", "A product with a stored weight that no array holds, and why."),
    "eta": ("noise level, eta", "Deviation of the weight noise over W_max - W_min."),
    "interval": (
        "95 % interval",
        "Of the mean over chips: narrower with more chips. It does not cover the choice of images.",
    ),
    "region": ("region", "One analog product, between its DAC and its ADC."),
    "share": ("share of the work", "Multiply-accumulates over those of the whole model."),
    "tile": (
        "tile",
        "A crossbar of the target's size; used: the share of its cells with a weight.",
    ),
}

# Which term a table's column is about.
HEADS: Final = {
    "95 % interval": "interval",
    "ADC": "adc",
    "DAC": "dac",
    "chips": "chip",
    "noise level": "eta",
    "region": "region",
    "share of the work": "share",
    "standard deviation": "deviation",
    "tiles (used)": "tile",
}


def glossary() -> str:
    """Every term and its sentence, as HTML."""
    parts = (
        f'<dt id="term-{name}">{escape(word)}</dt><dd>{escape(text)}</dd>'
        for name, (word, text) in TERMS.items()
    )
    return f"<dl>{''.join(parts)}</dl>\n"
