"""Weights that a process group shares out: the whole, and this process's part.

Fully sharded parameters (FSDP2, ``torch.distributed.fsdp.fully_shard``) are DTensors, which a
forward pass replaces by whole copies; those of the root stay until the next backward pass. DTensors
are known by their ``placements``, so that nothing distributed need be imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from analogize.errors import TrainingError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor, of which this process may hold a part only."""
    return hasattr(tensor, "placements")


def has_shards(model: nn.Module) -> bool:
    """Whether parameters of ``model`` are shared out, a forward pass's copies in place or not."""
    return any(map(_is_unit, model.modules())) or any(map(is_sharded, model.parameters()))


def _is_unit(module: nn.Module) -> bool:
    return hasattr(module, "reshard") and hasattr(module, "unshard")


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Share out the parameters of ``model`` over the mesh of Lightning's ModelParallelStrategy.

    Raises:
        TrainingError: the strategy splits single products too.
    """
    from torch.distributed.fsdp import fully_shard

    split = mesh["tensor_parallel"].size()
    if split > 1:
        raise TrainingError(
            f"the strategy splits every product over {split} processes, and analog operators take "
            "whole weights: give ModelParallelStrategy data_parallel_size=<number of processes> "
            "and tensor_parallel_size=1"
        )
    fully_shard(model, mesh=mesh["data_parallel"])


def drop_copies(model: nn.Module) -> None:
    """Put a fully sharded model's own parameters back in the place of a forward pass's copies.

    What is written to copies would be lost, and their versions do not tell of an optimizer's step.
    """
    for module in model.modules():
        if _is_unit(module):
            module.reshard()  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    """The full tensor on every process, which must all ask for it; a plain one as it is."""
    if not is_sharded(tensor):
        return tensor
    dtensor: Any = tensor
    full: Tensor = dtensor.full_tensor()
    return full


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds, in the same memory; a plain tensor as it is.

    Writing to it does not count as a new version of ``tensor``.
    """
    if not is_sharded(tensor):
        return tensor
    dtensor: Any = tensor.detach()
    part: Tensor = dtensor.to_local()
    return part


def part_beside(values: Tensor, weight: Tensor) -> Tensor:
    """The elements of ``values``, which broadcast against ``weight``, beside ``own_part(weight)``.

    Nothing is communicated: every process has all of ``values``.
    """
    if not is_sharded(weight):
        return values
    from torch.distributed.tensor import DTensor, Replicate

    dtensor: Any = weight
    mesh, placements = dtensor.device_mesh, dtensor.placements
    everywhere = DTensor.from_local(
        values.expand(weight.shape).contiguous(), mesh, [Replicate()] * mesh.ndim, run_check=False
    )
    return own_part(everywhere.redistribute(placements=placements))
