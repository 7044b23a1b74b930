"""Targets: what an analog device and its converters can do, as YAML."""

from analogize.targets.spec import Target

__all__ = ["Target"]
