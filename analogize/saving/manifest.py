"""What a saved model's file says beside its tensors, as JSON in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from analogize.crossbar.region import Region
from analogize.model.module import DigitalProduct
from analogize.targets.spec import Target

FORMAT: Final = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Chip(_Record):
    """The programmed chip of one array.

    Attributes:
        seed: the chip's number, as ``program`` was called with.
        drift_time: seconds between programming and reading.
        cycle: which programming of the chip it was.
        conditions: under which it was read, by name.
        corrected: whether a digital correction of drift is in the file as well.
        key: what its draws derive from: the seed and the region's name.
        noise: the noise models that it was drawn with, where they are not the target's.
        given: the header of a chip that was given as data (``analogize.chips``).
    """

    seed: int | None = None
    key: str | None = None
    drift_time: float = 0.0
    cycle: int = 0
    conditions: Mapping[str, float] = {}
    corrected: bool = False
    noise: tuple[dict[str, Any], ...] | None = None
    given: Any = None


class Part(_Record):
    """One rewritten module.

    Attributes:
        path: where it is in the saved model; "" for the model itself.
        target: the target in full.
        front_end: how it was captured.
        declined: front ends that were not taken, with their reasons.
        digital: the products left digital.
        chosen: those of them that a user chose, to choose again.
        total_macs: multiply-accumulates of the part on its example, or None.
        samples: how many samples that example was.
        log: what the passes did.
        regions: every analog operator, in order.
        example: how the part was called when it was rewritten, see ``container``; or None.
    """

    path: str
    target: dict[str, Any]
    front_end: str
    declined: tuple[str, ...] = ()
    digital: tuple[DigitalProduct, ...] = ()
    chosen: tuple[str, ...] = ()
    total_macs: int | None = None
    samples: int = 1
    log: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    example: Any = None

    def read_target(self) -> Target:
        """The target as it was, checked again."""
        return Target.model_validate(self.target)


class Manifest(_Record):
    """A file's contents.

    Attributes:
        format: the version of this schema.
        versions: of analogize and torch that wrote the file.
        model: the saved model's class, for messages.
        training: whether it was in train mode.
        own: the entries of the state dict that the digital model has as well, with their shapes.
        tied: names of the state dict that share another one's tensor.
        unsaved: types of the floating-point buffers that no state dict has.
        extra: entries of the state dict that are no tensors.
        parts: every rewritten module.
        chips: what is known of the programmed arrays, by number; empty where none was saved.
        fitted: paths of operators and BatchNorm layers that were fitted on a chip, each with
            digests of it.
    """

    format: Literal[1] = FORMAT
    versions: Mapping[str, str]
    model: str
    training: bool
    own: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str] = {}
    unsaved: Mapping[str, str] = {}
    extra: Mapping[str, Any] = {}
    parts: tuple[Part, ...]
    chips: Mapping[int, Chip] = {}
    fitted: Mapping[str, tuple[str, ...]] = {}
