"""analogize: a compiler for analog in-memory-computing hardware.

Rewrite a model for an analog target, look at what happened, program chips::

    from analogize import analogize, program, summary

    analog = analogize(model, target="pcm_4bit", calibration=loader)
    print(summary(analog))
    program(analog, seed=0)
"""

from analogize.api import analogize
from analogize.calibrate import calibrate
from analogize.chip import clip_weights, erase, noise_level, noise_mode, program, regions
from analogize.distillation import Distillation, TrainingNoise
from analogize.errors import AnalogizeError
from analogize.evaluation import Evaluation
from analogize.loss import distillation_loss
from analogize.module import AnalogModule
from analogize.montecarlo import evaluate
from analogize.recalibrate import recalibrate
from analogize.summary import Summary, summary
from analogize.targets.spec import Target
from analogize.train import distill, train_robust

__all__ = [
    "AnalogModule",
    "AnalogizeError",
    "Distillation",
    "Evaluation",
    "Summary",
    "Target",
    "TrainingNoise",
    "analogize",
    "calibrate",
    "clip_weights",
    "distill",
    "distillation_loss",
    "erase",
    "evaluate",
    "noise_level",
    "noise_mode",
    "program",
    "recalibrate",
    "regions",
    "summary",
    "train_robust",
]
