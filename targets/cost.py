"""What hardware takes: the figures that papers publish."""

from __future__ import annotations

from typing import Protocol, Self

from pydantic import Field, model_validator

from analogize.targets.base import Level, Positive, Spec, refuse

# Several ways to say what a tile with all of its converters takes.
_OF_A_TILE = ("mac", "mvm", "tops_per_watt", "mvm_power")


class _Size(Protocol):
    """Of a tile."""

    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...


class Cost(Spec):
    """Figures for the first-order estimate of ``summary``, as they are published.

    The analog part either by its converters (``adc``, ``dac``) or as a whole, by one of ``mac``,
    ``mvm``, ``tops_per_watt`` and ``mvm_power``. All but ``mac`` are about tiles in full use: a
    tile that holds fewer weights takes the same.
    """

    adc: Level | None = Field(default=None, description="Energy of one ADC conversion, pJ.")
    dac: Level | None = Field(default=None, description="Energy of one DAC conversion, pJ.")
    mac: Level | None = Field(
        default=None,
        description="Energy of one analog multiply-accumulate, converters included, "
        "pJ; counted for weights in use.",
    )
    mvm: Level | None = Field(
        default=None, description="Energy of one multiplication of a vector by a tile, pJ."
    )
    tops_per_watt: Positive | None = Field(
        default=None,
        description="Operations (two a multiply-accumulate) of a full tile per joule, in 10^12: "
        "an MVM takes 2 rows cols / tops_per_watt pJ.",
    )
    mvm_power: Level | None = Field(
        default=None, description="Power of a tile while it multiplies, mW; with mvm_latency."
    )
    mvm_latency: Positive | None = Field(
        default=None, description="Duration of one multiplication of a vector by a tile, ns."
    )
    tile_area: Positive | None = Field(default=None, description="Area of a tile, mm2.")
    digital_mac: Level | None = Field(
        default=None, description="Energy of one digital multiply-accumulate, pJ."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in _OF_A_TILE if getattr(self, key) is not None]
        converters = [key for key in ("adc", "dac") if getattr(self, key) is not None]
        if len(given) > 1:
            raise refuse(given[1], f"say it once: '{given[0]}' and '{given[1]}' are of the same")
        if given and converters:
            reason = f"'{given[0]}' includes converters, so it would be counted twice"
            raise refuse(converters[0], reason)
        if self.mvm_power is not None and self.mvm_latency is None:
            raise refuse("mvm_power", "power is energy over time, so give mvm_latency")
        return self

    @property
    def of_a_tile(self) -> bool:
        """Whether the analog part is given as a whole."""
        return any(getattr(self, key) is not None for key in _OF_A_TILE)

    def analog(self, size: _Size | None, mvms: int, macs: int, adc: int, dac: int) -> float | None:
        """Picojoules of the analog part, as far as it is known; None where nothing is.

        Args:
            size: of a tile, or None.
            mvms: multiplications of a vector by a tile.
            macs: multiply-accumulates.
            adc: ADC conversions.
            dac: DAC conversions.
        """
        if self.mac is not None:
            return macs * self.mac
        if size is None and self.of_a_tile:  # without a size there is no tile to speak of
            return None
        if self.mvm is not None:
            return mvms * self.mvm
        if self.mvm_power is not None and self.mvm_latency is not None:  # mW ns = pJ
            return mvms * self.mvm_power * self.mvm_latency
        if self.tops_per_watt is not None and size is not None:
            return mvms * 2 * size.rows * size.cols / self.tops_per_watt
        if self.adc is None and self.dac is None:
            return None
        return adc * (self.adc or 0.0) + dac * (self.dac or 0.0)
