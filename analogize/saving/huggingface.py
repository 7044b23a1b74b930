"""Hugging Face's folders: ``config.json``, the weights, and what makes an analog model of them.

An analog model's own ``save_pretrained``, and so the Trainer, writes such a folder by itself.
Transformers' ``from_pretrained`` would make a digital model of it; the configuration refuses that
in every process, whether analogize is installed there or not, and says what to call instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from analogize.errors import SavingError
from analogize.files.writing import writing
from analogize.model.parts import unwrapped
from analogize.saving.container import DESCRIPTION, read, write
from analogize.saving.restore import rebuilt
from analogize.saving.store import description

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
# Transformers takes this for the name of a file of weights, and shows it when it refuses it.
_MARK = "transformers_weights"
_WAY = "none: this model is analog; load it by analogize.saving.huggingface.from_pretrained"
_ATTENTION = "analogize_attention"


def save_pretrained(
    model: nn.Module, folder: str | os.PathLike[str], *, chip: bool = False, **options: Any
) -> Path:
    """Write a transformers model with analog parts as a folder, from which it comes back.

    ``model.save_pretrained(folder)`` writes the same, without a chip, of a rewritten model and of
    one of which a part was rewritten (``model.bert = analogize(model.bert)``).

    Args:
        model: what ``analogize`` made of a ``PreTrainedModel``, or one with rewritten parts.
        folder: where to; made if there is none.
        chip: whether the programmed chip is saved with it.
        options: for transformers' own ``save_pretrained``, such as ``max_shard_size``.

    Returns:
        The folder.

    Raises:
        SavingError: it is no transformers model, nothing is analog, no chip is programmed, or a
            file cannot be written.
    """
    model = unwrapped(model)
    save: Any = getattr(model, "save_pretrained", None)
    if save is None:
        raise SavingError(
            f"{type(model).__name__} has no save_pretrained; write one file with "
            "analogize.save(model, path)"
        )
    if options.get("push_to_hub"):
        raise SavingError(
            "save to a folder, then call huggingface_hub.upload_folder(folder_path=folder, "
            "repo_id=...), since what describes the analog parts is written last"
        )
    described = description(model, chip)
    save(folder, **{"save_original_format": False} | options)
    if options.get("is_main_process", True):
        _complete(model, Path(folder), *described)
    return Path(folder)


def describe_folder(model: nn.Module, folder: Path) -> None:
    """Complete what transformers wrote of a rewritten model.

    Raises:
        SavingError: as ``save_pretrained``.
    """
    _complete(model, folder, *description(model, chip=False))


def _complete(model: nn.Module, folder: Path, tensors: dict[str, Tensor], manifest: Any) -> None:
    write(folder / DESCRIPTION, tensors, manifest)
    file = folder / _CONFIG
    config = json.loads(file.read_text())
    config[_MARK] = _WAY
    config[_ATTENTION] = getattr(getattr(model, "config", None), "_attn_implementation", None)
    with writing(file, "the configuration", SavingError) as draft:
        draft.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def from_pretrained(
    folder: str | os.PathLike[str],
    kind: type[nn.Module] | None = None,
    *,
    device: torch.device | str = "cpu",
    example_inputs: Any = None,
    allow_functions: bool | Collection[str] = False,
) -> nn.Module:
    """The model that ``save_pretrained`` wrote, bit for bit: analog, and with its chip.

    It is in eval mode, as transformers' own are. A checkpoint of the Trainer's is such a folder.
    For one on the hub, give what ``huggingface_hub.snapshot_download(repo_id)`` returns.

    Args:
        folder: where it is.
        kind: its class; by default the one of transformers that ``config.json`` names.
        device: where the result is to be.
        example_inputs: how the model is called, where the folder could not keep it.
        allow_functions: whether noise functions that the targets name may be imported and run.

    Raises:
        SavingError: a file is missing, damaged or foreign, or the class is another.
    """
    place = Path(folder)
    if not (place / DESCRIPTION).is_file():
        raise SavingError(
            f"{place}: no folder of an analog model, as it has no '{DESCRIPTION}'; digital ones "
            "load with transformers' own from_pretrained"
        )
    manifest, tensors = read(place / DESCRIPTION)
    config = _config(place, kind)
    model_class: Any = _named_class(config, place) if kind is None else kind
    held = _weights(place) | tensors

    def make() -> nn.Module:
        model: nn.Module = model_class(config)
        _complete_state(model, held)
        return model

    model: Any = rebuilt(manifest, held, make, place, device, example_inputs, allow_functions)
    if (place / "generation_config.json").is_file() and hasattr(model, "generation_config"):
        model.generation_config = type(model.generation_config).from_pretrained(place)
    return model.eval()  # type: ignore[no-any-return]


def _config(folder: Path, kind: Any) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError as cause:
        raise SavingError(f"{folder}: needs transformers: pip install transformers") from cause
    reader = getattr(kind, "config_class", None) or AutoConfig
    try:
        config = reader.from_pretrained(folder)
    except (OSError, ValueError) as cause:
        raise SavingError(f"{folder / _CONFIG}: cannot be read: {cause}") from cause
    if (attention := getattr(config, _ATTENTION, None)) is not None:
        config._attn_implementation = attention
    for name in (_MARK, _ATTENTION):
        if hasattr(config, name):
            delattr(config, name)
    return config


def _named_class(config: Any, folder: Path) -> type[nn.Module]:
    import transformers

    (name,) = config.architectures or (None,)
    found = None if name is None else getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise SavingError(
            f"{folder}: its class '{name}' is none of transformers'; give it: "
            "from_pretrained(folder, MyModel)"
        )
    return found


def _weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the one file, or of those that the index names."""
    index = folder / f"{_WEIGHTS}.index.json"
    try:
        names = [_WEIGHTS]
        if index.is_file():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as cause:
        raise SavingError(f"{index}: a damaged index: {cause}") from cause
    state: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise SavingError(f"{folder}: there is no file '{name}' of weights")
        try:
            state |= load_file(folder / name)
        except (OSError, SafetensorError) as cause:
            raise SavingError(f"{folder / name}: a damaged file of weights: {cause}") from cause
    return state


def _complete_state(model: Any, state: dict[str, Tensor]) -> None:
    """Add what transformers leaves out on purpose, since whoever makes the model computes it."""
    for name in getattr(model, "_keys_to_ignore_on_save", None) or ():
        if name not in state and name in (own := model.state_dict()):
            state[name] = own[name]
