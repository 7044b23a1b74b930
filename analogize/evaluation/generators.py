"""Torch's global random generators: read, put back, and started from a seed."""

from __future__ import annotations

import torch
from torch import Tensor


def generator_states(device: torch.device) -> list[Tensor]:
    """States of torch's global generators on the CPU and on ``device``."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(*_named(device)))
    return states


def set_generator_states(device: torch.device, states: list[Tensor]) -> None:
    """Put back what ``generator_states`` gave."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], *_named(device))


def seed_generators(device: torch.device, seed: int) -> None:
    """Start torch's global generators on the CPU and on ``device`` from ``seed``."""
    # torch.manual_seed would reseed every device there is, and only these are put back.
    places = {"cpu", str(device)}
    seeded = {place: torch.Generator(place).manual_seed(seed).get_state() for place in places}
    set_generator_states(device, [seeded["cpu"], seeded[str(device)]])


def _named(device: torch.device) -> tuple[torch.device, ...]:
    # MPS has one device, and its functions take no name.
    return () if device.type == "mps" else (device,)
