"""What a model's Python asks or sets of torch's global modes while it is traced.

A graph would hold the answer, and drop the setting. Calls are seen by Python's profiler, so that it
does not matter by which name the model's file imported a function.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch.amp import autocast_mode
from torch.autograd import grad_mode

from analogize.capture.frozen import Noticed

# Contexts, which are Python, by the code that enters them.
_ENTERED: dict[CodeType, str] = {
    kind.__enter__.__code__: f"runs a part under {name}"
    for kind, name in (
        (grad_mode.no_grad, "torch.no_grad()"),
        (grad_mode.enable_grad, "torch.enable_grad()"),
        (grad_mode.inference_mode, "torch.inference_mode()"),
        (autocast_mode.autocast, "torch.autocast()"),
    )
}
_ENTERED |= {
    grad_mode.set_grad_enabled.__init__.__code__: "runs a part under torch.set_grad_enabled()",
}
# Questions about modes that change while a model lives, builtin or Python.
_ASKED: dict[Any, str] = {
    function: f"asks {name}()"
    for name in (
        "is_grad_enabled",
        "is_inference_mode_enabled",
        "is_autocast_enabled",
        "is_autocast_cpu_enabled",
        "is_autocast_cache_enabled",
        "get_autocast_dtype",
        "are_deterministic_algorithms_enabled",
        "is_deterministic_algorithms_warn_only_enabled",
        "get_default_dtype",
        "get_default_device",
        "get_float32_matmul_precision",
    )
    if (function := getattr(torch, name, None)) is not None
}
_ASKED_CODE = {f.__code__: words for f, words in _ASKED.items() if hasattr(f, "__code__")}


@contextmanager
def noticing() -> Iterator[Noticed]:
    """In the block, note what code outside of torch runs, and asks or sets of global modes."""
    noticed = Noticed()

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            words, asker = _ASKED.get(arg) if _hashable(arg) else None, frame
        elif event == "call" and frame.f_back is not None:
            code = frame.f_code
            words, asker = _ENTERED.get(code) or _ASKED_CODE.get(code), frame.f_back
            if _is_users(frame):
                noticed.ran(frame)
        else:
            return
        if words is not None and _is_users(asker):
            noticed.words.append(words)

    # What the garbage collector calls back in between is nobody's model, and may count its calls.
    collects, before = gc.isenabled(), sys.getprofile()
    gc.disable()
    sys.setprofile(profile)
    try:
        yield noticed
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()


def _hashable(function: Any) -> bool:
    # A method of an object that has no hash has none either.
    owner = getattr(function, "__self__", None)
    return owner is None or isinstance(owner, type) or type(owner).__name__ == "module"


def _is_users(frame: FrameType) -> bool:
    """Whether torch's own library did not ask; its decorators do so for whom they decorate."""
    name = str(frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] != "torch" or name == "torch.utils._contextlib"
