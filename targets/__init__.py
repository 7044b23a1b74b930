"""Targets: what an analog device and its converters can do, as YAML.

Enters: a name, a file, or keys. Leaves: a checked ``Target``, or an error that names file and line.
May use: errors.
"""

from analogize.targets.load import load_target, names
from analogize.targets.spec import Target

__all__ = ["Target", "load_target", "names"]
