"""Hugging Face's models save themselves; no folder of an analog one may be read as a digital one.

``from_pretrained`` builds the class anew, digital, and only warns of entries that it does not know.
So a rewritten model's own ``save_pretrained`` (the Trainer's checkpoints come from it too) is
followed by whoever can describe analog parts. Of a model inside of a rewritten one, it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from torch import nn

from analogize.crossbar.ops import AnalogOp
from analogize.errors import SavingError
from analogize.model.parts import parts

_FOLLOWERS: list[Callable[[nn.Module, Path], None]] = []


def follow_saving(follower: Callable[[nn.Module, Path], None]) -> None:
    """Have ``follower`` called with every rewritten model that was saved, and its folder."""
    _FOLLOWERS.append(follower)


def is_pretrained(kind: type) -> bool:
    """Whether ``kind`` is a class of transformers' models, which need not be installed."""
    return any(
        (base.__module__, base.__name__) == ("transformers.modeling_utils", "PreTrainedModel")
        for base in kind.__mro__
    )


def saving_methods(original: type[nn.Module]) -> dict[str, Any]:
    """What a subclass of ``original`` needs besides, to save itself as what it is."""
    if not is_pretrained(original):
        return {}
    inherited: Any = original
    save = inherited.save_pretrained

    @wraps(save)
    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        if not any(isinstance(m, AnalogOp) for m in self.modules()):
            save(self, save_directory, *args, **kwargs)
            return
        _require_whole(self)
        if kwargs.get("push_to_hub"):
            raise SavingError(
                f"{type(self).__name__} is analog, and what describes it is written after "
                "save_pretrained uploads: save to a folder, then call "
                "huggingface_hub.upload_folder(folder_path=folder, repo_id=...)"
            )
        # The names of the modules, by which the Trainer and analogize load again.
        kwargs.setdefault("save_original_format", False)
        save(self, save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            for follow in _FOLLOWERS:
                follow(self, Path(save_directory))

    return {"save_pretrained": save_pretrained}


def _require_whole(model: nn.Module) -> None:
    if parts(model):
        return
    kind = type(model).__name__
    raise SavingError(
        f"this {kind} is inside of the model that was rewritten, and its save_pretrained would "
        "write what loads as a digital one: save the whole with analogize.save(model, path), "
        f"rewrite the {kind} itself, or save analogize.to_digital(model)"
    )
