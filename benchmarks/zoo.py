"""The models of public libraries, built small, with random weights and example inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from zoo_case import Case


@dataclass(frozen=True)
class Library:
    """The names of a library's models, and how to build one."""

    names: Callable[[], list[str]]
    build: Callable[[str], Case]


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models())


def _torchvision(name: str) -> Case:
    from torchvision import models

    module = models.get_model_builder(name).__module__
    options: dict[str, Any] = {"weights": None}
    if "detection" in module or "segmentation" in module:
        options["weights_backbone"] = None
    if "inception" in name or "googlenet" in name:
        options["init_weights"] = False
    if name.startswith("vit_"):
        options["image_size"] = 28 if name == "vit_h_14" else 64
    if "rcnn" in name:
        options |= {"rpn_post_nms_top_n_test": 32, "box_detections_per_img": 8}
    elif "detection" in module:
        options |= {"topk_candidates": 32, "detections_per_img": 8}
    model = models.get_model(name, **options)
    if "detection" in module:
        model.transform.min_size, model.transform.max_size = (96,), 128
        if hasattr(model.transform, "fixed_size") and model.transform.fixed_size:
            size = model.transform.fixed_size
            return Case(model, lambda b: ([torch.rand(3, size[0], size[1])] * b,))
        return Case(model, lambda b: ([torch.rand(3, 96, 128) for _ in range(b)],))
    if "optical_flow" in module:
        return Case(model, lambda b: (torch.rand(b, 3, 128, 128), torch.rand(b, 3, 128, 128)))
    if "video" in module:
        frames, size = (16, 224) if name.startswith(("mvit", "s3d")) else (8, 64)
        return Case(model, lambda b: (torch.rand(b, 3, frames, size, size),))
    size = 28 if name == "vit_h_14" else 224 if name == "maxvit_t" else 96
    size = 64 if name.startswith("vit_") and name != "vit_h_14" else size
    return Case(model, lambda b: (torch.rand(b, 3, size, size),))


def _timm_names() -> list[str]:
    """The smallest model of each of timm's modules, by what its name and its image size suggest."""
    import timm

    order = ("test", "atto", "pico", "femto", "nano", "xxs", "xs", "tiny", "small", "_t", "_s")

    def size(name: str) -> tuple[int, bool, int]:
        rank = next((i for i, word in enumerate(order) if word in name), len(order))
        config = timm.get_pretrained_cfg(name)
        return rank, config is not None and max(config.input_size) > 512, len(name)

    return [
        min(timm.list_models(module=m), key=size)
        for m in timm.list_modules()
        if timm.list_models(module=m)
    ]


def _timm(name: str) -> Case:
    import timm

    model = timm.create_model(name, pretrained=False)
    channels, height, width = model.default_cfg["input_size"]
    if not model.default_cfg.get("fixed_input_size"):
        least = model.default_cfg.get("min_input_size", (channels, 128, 128))
        height = width = min(height, max(least[1:]))
    return Case(model, lambda b: (torch.rand(b, channels, height, width),))


def _transformers_names() -> list[str]:
    import zoo_transformers

    return zoo_transformers.names()


def _transformers(name: str) -> Case:
    import zoo_transformers

    return zoo_transformers.build(name)


LIBRARIES = {
    "transformers": Library(_transformers_names, _transformers),
    "torchvision": Library(_torchvision_names, _torchvision),
    "timm": Library(_timm_names, _timm),
}
