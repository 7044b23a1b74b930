"""``analogize load``: whether a saved model's file loads into a digital model, and what came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from analogize.cli.options import AllowFunctions, AsJson, Device, ModelArguments

if TYPE_CHECKING:
    from torch import nn

    from analogize.saving.manifest import Manifest


def load_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="What analogize.save() wrote; a checkpoint of distill's, or one that "
            "DescribeAnalog described; or a folder of save_pretrained of Hugging Face's.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="FILE.py:NAME",
            help="The digital model or what makes it, as package.module:name or file.py:name. Only "
            "a folder of a class of transformers' does without.",
        ),
    ] = None,
    model_arg: ModelArguments = None,
    device: Device = "cpu",
    allow_functions: AllowFunctions = False,
    as_json: AsJson = False,
) -> None:
    """Load a saved model into a digital one, and tell what came; or the first difference.

    Nothing is written. As weights of another command the file makes its model analog as well.

    For example:

      analogize load analog.safetensors --model net.py:Net

      analogize evaluate net.py:Net --weights analog.safetensors --loader net.py:batches
    """
    # Imported here, so that other commands do not wait for torch and safetensors.
    from analogize.cli.prepare import load_saved, parse_device
    from analogize.cli.show import headline, print_parts
    from analogize.display.tables import width
    from analogize.saving.container import DESCRIPTION, read_manifest

    place = parse_device(device)
    manifest = read_manifest(file / DESCRIPTION if file.is_dir() else file)
    loaded = load_saved(file, model, model_arg or [], place, allow_functions)
    if as_json:
        typer.echo(json.dumps(_described(loaded, manifest, file, device), indent=2))
        return
    console = Console(width=width())
    where = f"on {device}, in {'train' if loaded.training else 'eval'} mode"
    kind = type(loaded).__name__ if model is None else model
    known = f"{file} loads into {kind}, {where}, {_calibrated(loaded)}"
    console.print(known, highlight=False, markup=False)
    console.print(headline(manifest), soft_wrap=True, highlight=False, markup=False)
    print_parts(console, manifest)


def _calibrated(model: nn.Module) -> str:
    from analogize.crossbar.ops import operators

    waiting = [op.region.name for op in operators(model) if not op.is_calibrated]
    return f"not calibrated yet ({', '.join(waiting[:3])})" if waiting else "calibrated"


def _described(model: nn.Module, manifest: Manifest, file: Path, device: str) -> dict[str, Any]:
    from analogize.crossbar.ops import operators

    chip = next(iter(manifest.chips.values()), None)
    return {
        "file": str(file),
        "loads": True,
        "model": manifest.model,
        "device": device,
        "training": model.training,
        "calibrated": all(op.is_calibrated for op in operators(model)),
        "versions": dict(manifest.versions),
        "chip": None
        if chip is None
        else {
            "arrays": len(manifest.chips),
            "seed": chip.seed,
            "drift_time": chip.drift_time,
            "cycle": chip.cycle,
            "conditions": dict(chip.conditions),
        },
        "parts": [
            {
                "path": part.path,
                "target": part.target.get("name"),
                "front_end": part.front_end,
                "regions": [
                    {"name": r.name, "operator": r.operator, "weight_shape": list(r.weight_shape)}
                    for r in part.regions
                ],
                "digital": [
                    {"name": d.name, "operator": d.operator, "reason": d.reason}
                    for d in part.digital
                ],
            }
            for part in manifest.parts
        ],
    }
