"""Models of libraries that save themselves; nothing analog may be read as a digital model.

``from_pretrained`` of transformers, diffusers and huggingface_hub's mixin builds the class anew,
digital, and at most warns of entries that it does not know. A rewritten part cannot see in which
model it is put, so the three methods that write such files look, from the first rewriting on, at
the model they are called on. One without analog operators they save as ever. One of transformers'
(the Trainer's checkpoints come from it too) is followed by whoever can describe analog parts; what
lies inside of a rewritten model, and the other libraries' models, are refused.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from torch import nn

from analogize.crossbar.ops import AnalogOp
from analogize.errors import SavingError
from analogize.model.parts import parts

_FOLLOWERS: list[Callable[[nn.Module, Path], None]] = []
_GUARD = "_analog_guard"


def follow_saving(follower: Callable[[nn.Module, Path], None]) -> None:
    """Have ``follower`` called with every analog model that was saved, and its folder."""
    _FOLLOWERS.append(follower)


def guard() -> None:
    """Have the models of the libraries that are loaded look whether they are analog.

    Raises:
        SavingError: one of them is saving an analog model right now, unguarded.
    """
    fresh = [
        _guarded(kind, method, guarding)
        for (module, name), (method, guarding) in _KINDS.items()
        if (kind := getattr(sys.modules.get(module), name, None)) is not None
        and not is_guard(kind.__dict__.get(method))
    ]
    if fresh and _running([code for code in fresh if code is not None]):
        raise SavingError(
            "this library was imported after the model was rewritten, and its from_pretrained "
            "would make a digital one of the folder: save again, which is looked at now"
        )


def is_guard(function: Any) -> bool:
    """Whether ``function`` is a method that ``guard`` put in place."""
    return hasattr(function, _GUARD)


def _guarded(kind: type, method: str, guarding: Callable[[Any], Any]) -> Any:
    """Put the guard in place; returns the code that it stands before."""
    original = kind.__dict__.get(method)
    if original is None:
        return None
    made = wraps(original)(guarding(original))
    setattr(made, _GUARD, True)
    setattr(kind, method, made)
    return getattr(inspect.unwrap(original), "__code__", None)


def _running(codes: list[Any]) -> bool:
    frame: Any = sys._getframe()
    while frame is not None and frame.f_code not in codes:
        frame = frame.f_back
    return frame is not None


def _followed(save: Callable[..., Any]) -> Callable[..., Any]:
    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        # With an adapter of transformers' own, it writes that alone, which is digital.
        if not _is_analog(self) or getattr(self, "_hf_peft_config_loaded", False):
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

    return save_pretrained


def _refusing(save: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_analog(self):
            raise SavingError(
                f"this {type(self).__name__} has analog parts, and from_pretrained would make a "
                "digital one of what it writes: call analogize.save(model, path) and "
                "analogize.load(path, model), also in a _save_pretrained of your own, or save "
                "analogize.to_digital(model)"
            )
        return save(self, *args, **kwargs)

    return refuse


# Who writes files that load as digital models: class, method, and what is done about it.
_KINDS: dict[tuple[str, str], tuple[str, Callable[[Any], Any]]] = {
    ("transformers.modeling_utils", "PreTrainedModel"): ("save_pretrained", _followed),
    ("diffusers.models.modeling_utils", "ModelMixin"): ("save_pretrained", _refusing),
    ("huggingface_hub.hub_mixin", "PyTorchModelHubMixin"): ("_save_pretrained", _refusing),
}


def _is_analog(model: Any) -> bool:
    return any(isinstance(m, AnalogOp) for m in model.modules())


def _require_whole(model: nn.Module) -> None:
    if parts(model):
        return
    kind = type(model).__name__
    raise SavingError(
        f"this {kind} is inside of the model that was rewritten, and its save_pretrained would "
        "write what loads as a digital one: save the whole with analogize.save(model, path), "
        f"rewrite the {kind} itself, or save analogize.to_digital(model)"
    )
