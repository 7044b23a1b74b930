"""Targets: what an analog device and its converters can do, as YAML."""

from analogize.targets.load import load_target, names
from analogize.targets.spec import Target

__all__ = ["Target", "load_target", "names"]
