"""analogize: a compiler for analog in-memory-computing hardware.

Rewrite a model for an analog target, look at what happened, program chips::

    from analogize import analogize, program, summary

    analog = analogize(model, target="pcm_4bit", calibration=loader)
    print(summary(analog))
    program(analog, seed=0)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from analogize.api import analogize
from analogize.calibrate import calibrate
from analogize.chip import clip_weights, erase, noise_level, noise_mode, program, regions
from analogize.counting import Census, census
from analogize.errors import AnalogizeError
from analogize.frontends.operators import register_operator
from analogize.loss import distillation_loss
from analogize.module import AnalogModule
from analogize.recalibrate import recalibrate
from analogize.summary import Summary, summary
from analogize.targets.spec import Target

if TYPE_CHECKING:
    from analogize.analyze import (
        assign,
        bias_variance,
        compare,
        mismatch,
        mutual_information,
        sensitivity,
    )
    from analogize.distillation import Distillation
    from analogize.evaluation import Evaluation
    from analogize.export import Exported, export_onnx
    from analogize.montecarlo import evaluate
    from analogize.onnx.load import load_onnx
    from analogize.onnx.read import OnnxRegion, read_regions
    from analogize.train import distill, train_robust
    from analogize.training_noise import TrainingNoise

__all__ = [
    "AnalogModule",
    "AnalogizeError",
    "Census",
    "Distillation",
    "Evaluation",
    "Exported",
    "OnnxRegion",
    "Summary",
    "Target",
    "TrainingNoise",
    "analogize",
    "assign",
    "bias_variance",
    "calibrate",
    "census",
    "clip_weights",
    "compare",
    "distill",
    "distillation_loss",
    "erase",
    "evaluate",
    "export_onnx",
    "load_onnx",
    "mismatch",
    "mutual_information",
    "noise_level",
    "noise_mode",
    "program",
    "read_regions",
    "recalibrate",
    "regions",
    "register_operator",
    "sensitivity",
    "summary",
    "train_robust",
]

# Imported on first use, because Lightning and torchmetrics take longer to import than torch. No
# name here may be a file's own name: importing that file would hide the name behind the module.
_ON_FIRST_USE = {
    "Distillation": "analogize.distillation",
    "Evaluation": "analogize.evaluation",
    "Exported": "analogize.export",
    "OnnxRegion": "analogize.onnx.read",
    "TrainingNoise": "analogize.training_noise",
    "assign": "analogize.analyze",
    "bias_variance": "analogize.analyze",
    "compare": "analogize.analyze",
    "distill": "analogize.train",
    "evaluate": "analogize.montecarlo",
    "export_onnx": "analogize.export",
    "load_onnx": "analogize.onnx.load",
    "mismatch": "analogize.analyze",
    "mutual_information": "analogize.analyze",
    "read_regions": "analogize.onnx.read",
    "sensitivity": "analogize.analyze",
    "train_robust": "analogize.train",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'analogize' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_ON_FIRST_USE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
