"""What ties a chip to its number, its regions and the weights it was programmed from."""

from __future__ import annotations

import hashlib
from operator import index

import torch
from torch import Tensor

from analogize.errors import AnalogizeError, ChipError


def integer(seed: object, error: type[AnalogizeError] = ChipError) -> int:
    """``seed`` as a plain integer, whatever type holds it: one of NumPy's, or a tensor's element.

    Raises:
        error: it is none: 3.0 would be another chip than 3, and True was meant for something else.
    """
    if not (isinstance(seed, bool) or getattr(seed, "dtype", None) == torch.bool):
        try:
            return index(seed)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise error(f"seed {seed!r} is a {type(seed).__name__}; give an integer")


def region_seed(seed: int, name: str) -> int:
    """The seed of one region's draw: a hash, so that no order of visiting matters."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def chip_seed(seed: int, index: int) -> int:
    """The seed of chip ``index`` of the run ``seed``: a hash, so neighbours share nothing.

    Args:
        seed: The run's seed.
        index: The chip's number, from 0.

    Returns:
        63 bits, for ``program``.
    """
    digest = hashlib.blake2b(f"chip {index} of {seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def version(weight: Tensor) -> int:
    """How often ``weight`` was written to; -1 for inference tensors, which do not count.

    Compiled code cannot ask, and torch.compile itself knows what is written to.
    """
    if torch.compiler.is_compiling() or weight.is_inference():
        return -1
    return weight._version


def no_chip(region: str) -> ChipError:
    """The error of a region that should read its chip and has none."""
    return ChipError(f"region '{region}': no chip is programmed; call program(model, seed) first")


def untied(first: str, second: str) -> ChipError:
    """The error of regions that share an array, whose weights are no longer one."""
    return ChipError(
        f"regions '{first}' and '{second}' share one array because their weights were tied, and "
        "the weights differ now; tie them again (load_state_dict(assign=True) and new parameters "
        "untie), or rewrite the model anew"
    )


def outdated(region: str, difference: str) -> ChipError:
    """The error of a region whose weights are others than its chip was made from."""
    return ChipError(
        f"region '{region}': its weights changed after the chip was programmed, {difference}; "
        "call program(model, seed) again"
    )
