"""Weights in files while a chip of them is in memory, so that nothing is held twice.

A parameter stays the object that it is; what changes is where its numbers lie: in a file that is
mapped into memory, of which the operating system keeps as much as it has room for. Whatever reads
the weights (a check against the chip, ``state_dict``, a copy, another noise mode) reads them there.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from analogize.crossbar.located import located
from analogize.errors import ChipError
from analogize.model.offloading import refuse_offloaded
from analogize.model.sharding import is_sharded


@contextmanager
def weights_on_disk(
    model: nn.Module, folder: str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """Within the block the weights behind every array lie in files; afterwards in memory again.

    Programming a chip then takes the chip's memory and gives the weights' back. Values, shapes and
    layout stay, and so does whatever is written to weights within the block, which goes to memory.
    Weights that share their memory with another parameter stay where they are. A forward pass reads
    what it compares with the chip (witness.py) from the files, or from what the operating system
    holds of them.

    Args:
        model: a rewritten model, or any module with rewritten parts, on the CPU.
        folder: where the files go, in a folder of their own that is removed; by default where the
            operating system has temporary files, which may itself be memory.

    Raises:
        ChipError: no analog operator; weights on an accelerator, or shared out over processes; or a
            file that cannot be written, for example for lack of space. Nothing has changed then.
        OffloadError: accelerate has offloaded them.
    """
    refuse_offloaded(model)
    parameters = _parameters(model)
    mapped: list[tuple[nn.Parameter, int]] = []
    try:
        with tempfile.TemporaryDirectory(
            prefix="analogize-", dir=folder, ignore_cleanup_errors=True
        ) as place:
            for number, parameter in enumerate(parameters):
                parameter.data = _mapped(parameter.detach(), Path(place) / str(number))
                mapped.append((parameter, parameter.data_ptr()))
    except OSError as error:
        _bring_back(mapped)
        where = tempfile.gettempdir() if folder is None else os.fspath(folder)
        raise ChipError(
            f"the weights cannot be written to files in '{where}' ({error.strerror or error}); "
            "give a folder on a disk with room for them"
        ) from error
    try:
        yield
    finally:
        _bring_back(mapped)


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those behind the arrays of which each has its memory to itself."""
    found: dict[int, nn.Parameter] = {}
    ops = located(model)
    if not ops:
        raise ChipError(
            f"{type(model).__name__} has no analog operator; rewrite it with analogize() first"
        )
    for op, region, _ in ops:
        for tensor in op.stored.sources() or [op.stored.value()]:
            if not isinstance(tensor, nn.Parameter) or tensor.is_meta or not tensor.numel():
                continue
            if is_sharded(tensor) or not tensor.is_cpu:
                place = "shared out over processes" if is_sharded(tensor) else f"on {tensor.device}"
                raise ChipError(
                    f"region '{region.name}': its weight is {place}, and only weights of one "
                    "process on the CPU can lie in files"
                )
            found[id(tensor)] = tensor
    every = {id(t): t for t in [*model.parameters(), *model.buffers(), *found.values()]}
    holders = Counter(t.untyped_storage().data_ptr() for t in every.values() if t.is_cpu)
    return [p for p in found.values() if _is_alone(p, holders[p.untyped_storage().data_ptr()])]


def _is_alone(parameter: nn.Parameter, holders: int) -> bool:
    whole = parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()
    return holders == 1 and whole and type(parameter) is nn.Parameter


def _mapped(values: Tensor, file: Path) -> Tensor:
    """``values`` in ``file``, in the same layout, mapped into memory."""
    flat = values.as_strided((values.numel(),), (1,), 0)
    with file.open("wb") as stream:
        stream.write(flat.view(torch.uint8).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())
    found = torch.from_file(str(file), False, values.numel(), dtype=values.dtype)
    # The mapping holds it, so that nothing is left behind whatever becomes of the process.
    with suppress(OSError):
        file.unlink()
    return found.as_strided(values.shape, values.stride())


def _bring_back(mapped: list[tuple[nn.Parameter, int]]) -> None:
    for parameter, place in mapped:
        # What was moved or replaced in the meantime is in memory already.
        if parameter.is_cpu and parameter.data_ptr() == place:
            here = torch.empty_strided(
                parameter.shape, parameter.stride(), dtype=parameter.dtype, device="cpu"
            )
            parameter.data = here.copy_(parameter.detach())
