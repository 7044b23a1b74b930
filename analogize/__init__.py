"""analogize: a compiler for analog in-memory-computing hardware.

Rewrite a model for an analog target, look at what happened, program chips::

    from analogize import analogize, program, summary

    analog = analogize(model, target="pcm_4bit", calibration=loader)
    print(summary(analog))
    program(analog, seed=0)
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from analogize.api import analogize
from analogize.capture.composites import register_operator
from analogize.crossbar.calibrate import calibrate
from analogize.crossbar.chip import clip_weights, erase, noise_level, noise_mode, program, regions
from analogize.crossbar.chip_data import Chip
from analogize.crossbar.loading import renew_ranges
from analogize.crossbar.located import learned_ranges
from analogize.crossbar.on_disk import weights_on_disk
from analogize.crossbar.pretrained import follow_saving as _follow_saving
from analogize.crossbar.reading_back import read_chip
from analogize.errors import AnalogizeError
from analogize.evaluation.adapt import Adaptation, Adapted, adapt
from analogize.evaluation.recalibrate import Recalibration, recalibrate
from analogize.model.counting import Census, census
from analogize.model.module import AnalogModule
from analogize.model.one_pass import one_pass
from analogize.report.summary import Summary, summary
from analogize.targets.spec import Target
from analogize.training.loss import distillation_loss

if TYPE_CHECKING:
    from analogize.analyze import (
        assign,
        bias_variance,
        compare,
        mismatch,
        mutual_information,
        sensitivity,
    )
    from analogize.chips.files import load_chip, save_chip
    from analogize.evaluation.evaluation import Evaluation
    from analogize.evaluation.montecarlo import evaluate
    from analogize.onnx.reading.load import load_onnx
    from analogize.onnx.reading.read import OnnxRegion, read_regions
    from analogize.onnx.writing.export import Exported, export_onnx
    from analogize.report.report import write_report
    from analogize.saving.digital import digital_state, to_digital
    from analogize.saving.restore import load
    from analogize.saving.store import save
    from analogize.training.distillation import Distillation
    from analogize.training.ranges import RangeChoice, choose_range
    from analogize.training.train import distill, train_robust
    from analogize.training.training_noise import TrainingNoise


def _describe(model: nn.Module, folder: Path) -> None:
    from analogize.saving.huggingface import describe_folder

    describe_folder(model, folder)


# Rewriting lies below saving, and an analog model of Hugging Face's saves itself.
_follow_saving(_describe)

__all__ = [
    "Adaptation",
    "Adapted",
    "AnalogModule",
    "AnalogizeError",
    "Census",
    "Chip",
    "Distillation",
    "Evaluation",
    "Exported",
    "OnnxRegion",
    "RangeChoice",
    "Recalibration",
    "Summary",
    "Target",
    "TrainingNoise",
    "adapt",
    "analogize",
    "assign",
    "bias_variance",
    "calibrate",
    "census",
    "choose_range",
    "clip_weights",
    "compare",
    "digital_state",
    "distill",
    "distillation_loss",
    "erase",
    "evaluate",
    "export_onnx",
    "learned_ranges",
    "load",
    "load_chip",
    "load_onnx",
    "mismatch",
    "mutual_information",
    "noise_level",
    "noise_mode",
    "one_pass",
    "program",
    "read_chip",
    "read_regions",
    "recalibrate",
    "regions",
    "register_operator",
    "renew_ranges",
    "save",
    "save_chip",
    "sensitivity",
    "summary",
    "to_digital",
    "train_robust",
    "weights_on_disk",
    "write_report",
]

# Imported on first use, because Lightning and torchmetrics take longer to import than torch. No
# name here may be a file's own name: importing that file would hide the name behind the module.
_ON_FIRST_USE = {
    "Distillation": "analogize.training.distillation",
    "Evaluation": "analogize.evaluation.evaluation",
    "Exported": "analogize.onnx.writing.export",
    "OnnxRegion": "analogize.onnx.reading.read",
    "RangeChoice": "analogize.training.ranges",
    "TrainingNoise": "analogize.training.training_noise",
    "assign": "analogize.analyze",
    "bias_variance": "analogize.analyze",
    "choose_range": "analogize.training.ranges",
    "compare": "analogize.analyze",
    "digital_state": "analogize.saving.digital",
    "distill": "analogize.training.train",
    "evaluate": "analogize.evaluation.montecarlo",
    "load_chip": "analogize.chips.files",
    "save_chip": "analogize.chips.files",
    "export_onnx": "analogize.onnx.writing.export",
    "load": "analogize.saving.restore",
    "load_onnx": "analogize.onnx.reading.load",
    "mismatch": "analogize.analyze",
    "mutual_information": "analogize.analyze",
    "read_regions": "analogize.onnx.reading.read",
    "save": "analogize.saving.store",
    "sensitivity": "analogize.analyze",
    "to_digital": "analogize.saving.digital",
    "train_robust": "analogize.training.train",
    "write_report": "analogize.report.report",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'analogize' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_ON_FIRST_USE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
