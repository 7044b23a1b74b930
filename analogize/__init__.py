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
from analogize.errors import AnalogizeError
from analogize.summary import Summary, summary
from analogize.targets.spec import Target

__all__ = [
    "AnalogizeError",
    "Summary",
    "Target",
    "analogize",
    "calibrate",
    "clip_weights",
    "erase",
    "noise_level",
    "noise_mode",
    "program",
    "regions",
    "summary",
]
