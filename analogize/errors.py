"""Every error that analogize raises on purpose.

    AnalogizeError
    ├── TargetError        a target file or value that cannot be used
    ├── CaptureError       a model that cannot be turned into a graph
    ├── PassError          a rewrite that cannot be done, or did not preserve the model
    ├── CalibrationError   converter ranges that are missing or cannot be found
    ├── ChipError          a chip that is missing, stale or cannot be programmed
    ├── EvaluationError    a Monte Carlo evaluation that cannot start or go on
    ├── TrainingError      a training run that cannot start or go on
    ├── SavingError        a model that cannot be saved, or a file that is not this model
    ├── OffloadError       a model whose weights accelerate keeps elsewhere
    └── ExportError        a file that cannot be written or read

Each message names what is at fault (node, region, file, key or value), what is allowed, and the
way out. Errors that stem from another are raised ``from`` it.
"""

from __future__ import annotations


class AnalogizeError(Exception):
    """Base class: ``except AnalogizeError`` catches everything analogize raises on purpose."""


class TargetError(AnalogizeError):
    """A target that is unknown, malformed or inconsistent."""


class CaptureError(AnalogizeError):
    """A model that no front end could turn into a graph, or that has nothing to rewrite."""


class PassError(AnalogizeError):
    """A pass that met a node it must not rewrite, or changed what the model computes."""


class CalibrationError(AnalogizeError):
    """Converter ranges that were never calibrated, or data that cannot calibrate them."""


class ChipError(AnalogizeError):
    """A programmed chip that is missing, or that no longer matches the weights."""


class EvaluationError(AnalogizeError):
    """An evaluation whose arguments, data or saved state do not fit."""


class TrainingError(AnalogizeError):
    """A training run that cannot start or go on."""


class SavingError(AnalogizeError):
    """A rewritten model that cannot be saved, or a file that cannot give the model back."""


class OffloadError(AnalogizeError):
    """A model whose weights are not in place, because accelerate has offloaded them."""


class ExportError(AnalogizeError):
    """A model that cannot be exported, or a file that cannot be read back."""
