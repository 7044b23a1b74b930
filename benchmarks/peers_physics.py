"""Device statistics of the built-in targets against aihwkit's and CrossSim's for the same devices.

    python benchmarks/peers_physics.py measure aihwkit.json      in an environment with aihwkit 1.1
    python benchmarks/peers_physics.py measure crosssim.json --crosssim DIR      with a checkout
    python benchmarks/peers_physics.py compare aihwkit.json crosssim.json        in analogize's own

Peers need other versions of torch, so each is measured where it is installed; ``measure`` imports
nothing of analogize. Every target that a peer has too, at every time that both allow: mean and
standard deviation of devices that were programmed to a conductance and read. Fits of the same
figure that differ (CrossSim's of Joshi's and of Wan's) are listed as such. Exits with 1 where a
shared model is off by more than 1 %, of a standard deviation or of the mean, or more than chance.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

COUNT = 400_000
SHARES = (0.1, 0.25, 0.5, 0.75, 0.95)
DAY, YEAR = 86400.0, 31_536_000.0
PCM_TIMES = (0.0, 60.0, 3600.0, DAY, YEAR)
TIMES = {
    "pcm_joshi2020": PCM_TIMES,
    "pcm_hermes": PCM_TIMES,
    "reram_wan2022": (1.0, DAY, 2 * DAY),
    "reram_cmo": (0.0, 1.0, 3600.0, DAY, YEAR, 10 * YEAR),
    "sonos_tcas2022": (0.0, DAY, 1.5 * DAY, 2 * DAY, 3 * DAY, 4 * DAY, 5 * DAY),
    "reram_milo2021": (0.0,),
}
ENDS = {
    "pcm_joshi2020": (0.0, 25.0),
    "pcm_hermes": (0.0, 20.7),
    "reram_wan2022": (0.0, 40.0),
    "reram_cmo": (9.0, 88.2),
    "sonos_tcas2022": (0.0, 1799.0),
    "reram_milo2021": (50.0, 225.0),
}
# Other fits of the same published figure, whose differences device-data sheets of both state.
OTHER_FITS = ("crosssim pcm_joshi2020", "crosssim reram_wan2022")


def targets(name: str) -> Iterator[float]:
    """The conductances that devices of the target ``name`` are programmed to."""
    low, high = ENDS[name]
    for share in SHARES:
        yield low + share * (high - low)


def row(peer: str, name: str, time: float, target: float, read: Any) -> dict[str, Any]:
    """One line of a peer's file."""
    values = np.asarray(read, np.float64)
    mean, std = float(values.mean()), float(values.std())
    return {"peer": peer, "target": name, "time": time, "g": target, "mean": mean, "std": std}


def measure_aihwkit() -> Iterator[dict[str, Any]]:
    """Statistics of aihwkit's noise models."""
    from aihwkit.inference.noise.hermes import HermesNoiseModel
    from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
    from aihwkit.inference.noise.reram import ReRamCMONoiseModel, ReRamWan2022NoiseModel

    models = {
        "pcm_joshi2020": PCMLikeNoiseModel(g_max=25.0),
        "pcm_hermes": HermesNoiseModel(num_devices=2),
        "reram_wan2022": ReRamWan2022NoiseModel(g_max=40.0),
        "reram_cmo": ReRamCMONoiseModel(g_max=88.2, g_min=9.0, acceptance_range=2),
    }
    torch.manual_seed(0)
    for name, model in models.items():
        for time in TIMES[name]:
            for target in targets(name):
                aim = torch.full((COUNT,), target)
                programmed = model.apply_programming_noise_to_conductance(aim)
                nu = model.generate_drift_coefficients(aim)
                # PCM reads at time 0 after the first reading time t_0, as analogize does.
                read = model.apply_drift_noise_to_conductance(programmed, nu, time)
                yield row("aihwkit", name, time, target, read)


def measure_crosssim(folder: Path) -> Iterator[dict[str, Any]]:
    """Statistics of CrossSim's device models; its times are days."""
    sys.path.insert(0, str(folder))
    from simulator.backend import ComputeBackend
    from simulator.devices.custom.PCM_Joshi import PCMJoshi
    from simulator.devices.custom.RRAM_Milo import RRAMMilo
    from simulator.devices.custom.RRAM_Wan import RRAMWan
    from simulator.devices.custom.SONOS import SONOS

    kinds = {
        "sonos_tcas2022": (SONOS, 1e-9),
        "reram_milo2021": (RRAMMilo, 1e-6),
        "pcm_joshi2020": (PCMJoshi, 1e-6),
        "reram_wan2022": (RRAMWan, 1e-6),
    }
    ComputeBackend(use_gpu=False)
    np.random.seed(0)
    for name, (kind, unit) in kinds.items():
        low, high = ENDS[name]
        high = 39.26 if kind is RRAMWan else high
        norm = low / high
        params = SimpleNamespace(
            Gmin_norm=norm,
            Gmax_norm=1.0,
            Grange_norm=1.0 - norm,
            clip_conductance=False,
            cell_bits=0,
            time=0,
            Rmin=1 / (high * unit),
            Rmax=math.inf if not low else 1 / (low * unit),
            Vread=1.0,
            nonlinear_IV=SimpleNamespace(enable=False),
        )
        device = kind(params, SimpleNamespace(magnitude=1.0))
        times = TIMES[name] if kind is SONOS else TIMES[name][:1]
        for time in times:
            for target in targets(name):
                aim = np.full(COUNT, target / high)
                if time and kind is SONOS:
                    read = device.drift_error(aim, time / DAY)
                else:
                    read = device.programming_error(aim)
                yield row("crosssim", name, time, target, read * high)
        if kind is SONOS:
            for target in targets(name):
                read = device.read_noise(np.full(COUNT, target / high)) * high
                yield row("crosssim", f"{name} read", 0.0, target, read)


def here(name: str, time: float, target: float, alone: bool) -> tuple[float, float]:
    """Mean and standard deviation of the same devices here; ``alone``: as programmed, not read."""
    from analogize.devices.cells import Reading, read_cells
    from analogize.devices.curves import evaluate
    from analogize.devices.random import Draws
    from analogize.targets import load_target
    from analogize.targets.noise import ProgrammingNoise, ReadNoise, RelaxationNoise

    found = load_target(name.removesuffix(" read"))
    mapping = found.conductance
    assert mapping is not None
    if name.endswith(" read"):
        (read,) = (m for m in found.noise if isinstance(m, ReadNoise))
        assert read.sigma is not None
        return target, float(evaluate(read.sigma, torch.tensor(target).double()))
    share = (target - mapping.g_min) / (mapping.g_max - mapping.g_min)
    weights = torch.full((COUNT,), share, dtype=torch.float64)
    reading = Reading(Draws(f"peers {target}"), time)
    noise = found.noise
    if alone:
        noise = tuple(m for m in noise if isinstance(m, ProgrammingNoise | RelaxationNoise))
    cells = read_cells(weights, 1.0, mapping, noise, reading, name)[0]
    return float(cells.mean()), float(cells.std())


def compare(files: list[Path]) -> bool:
    """Print the tables; whether every shared model agrees."""
    agrees = True
    rows = [row for file in files for row in json.loads(file.read_text())]
    shared: dict[str, list[float]] = {}
    print("| peer | target | time, s | G | mean | here | off | sd | here | off |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for told in rows:
        pair = f"{told['peer']} {told['target']}"
        # CrossSim's PCM has no 1/f noise, which analogize's has at its first reading.
        mean, std = here(told["target"], told["time"], told["g"], pair in OTHER_FITS)
        of_mean = mean / told["mean"] - 1
        of_std = std / told["std"] - 1
        chance = 4 * math.sqrt(1 / COUNT)
        off = max(
            abs(of_std) - chance,
            abs(of_mean) - chance * math.sqrt(2) * told["std"] / told["mean"],
        )
        if pair not in OTHER_FITS:
            agrees &= off <= 0.01
        shared.setdefault(pair, []).extend((abs(of_mean), abs(of_std)))
        print(
            f"| {told['peer']} | {told['target']} | {told['time']:g} | {told['g']:.4g} "
            f"| {told['mean']:.4g} | {mean:.4g} | {of_mean:+.2%} "
            f"| {told['std']:.4g} | {std:.4g} | {of_std:+.2%} |"
        )
    print("\n| peer and target | largest difference of a mean | of a standard deviation |")
    print("|---|---|---|")
    for pair, values in shared.items():
        note = " (another fit)" if pair in OTHER_FITS else ""
        print(f"| {pair}{note} | {max(values[::2]):.2%} | {max(values[1::2]):.2%} |")
    return agrees


def main() -> int:
    """Measure a peer, or compare what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["measure", "compare"])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--crosssim", type=Path, help="measure CrossSim, a checkout of it")
    given = parser.parse_args()
    if given.what == "compare":
        return 0 if compare(given.files) else 1
    source = measure_aihwkit() if given.crosssim is None else measure_crosssim(given.crosssim)
    given.files[0].write_text(json.dumps(list(source), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
