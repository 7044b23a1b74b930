"""What the two CIFAR-10 recipes share: data, the clean model, the clipped one fine-tuned back."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comparison import PAPER_ETAS, device_of, options, sgd, trainer
from settings import claim
from torch import nn

from analogize import AnalogModule, TrainingNoise, analogize, distill
from analogize.data import load_dataset
from analogize.evaluation.data_digest import data_digest


def cifar_options(description: str, out: str) -> argparse.ArgumentParser:
    """The options of every recipe, and a clean model to start from."""
    parser = options(description, PAPER_ETAS, out)
    parser.add_argument("--weights", help="the clean model's state_dict, which is not trained then")
    return parser


def start(
    model: nn.Module, args: argparse.Namespace, target: str
) -> tuple[nn.Module, AnalogModule, Any, Any]:
    """Train or load ``model`` clean, rewrite it for ``target`` and fine-tune it without noise.

    Returns:
        The clean model, the rewritten one, training and test batches.

    Raises:
        SystemExit: --out holds results of other settings.
    """
    out = Path(args.out)
    device = device_of(args)
    images = load_dataset("cifar10", args.data, True, limit=args.limit)
    claim(args, "check", "cross", data=data_digest(images))
    images = images.to(device)
    train = images.batches(128, generator=torch.Generator(), augment=True)
    test = load_dataset("cifar10", args.data, False, limit=args.test_images or args.limit)
    test = test.to(device)
    # Faster than rows of channels on processors and GPUs alike; the values are the same.
    model.to(memory_format=torch.channels_last)
    fit = partial(distill, train=train, val=test.batches(250), alpha=0.0, chips=0, seed=args.seed)
    clean = model
    if args.weights is not None:
        model.load_state_dict(torch.load(args.weights, map_location="cpu"))
    else:
        clean = fit(
            model,
            None,
            epochs=args.clean_epochs or 200,
            optimizer=partial(sgd, lr=0.1),
            resume=out / "clean.ckpt",
            **trainer(args),
        )
    base = fit(
        analogize(clean, args.target or target, images.take(5000).batches(250)),
        None,
        epochs=args.clipped_epochs or max(1, (args.epochs or 150) // 5),
        optimizer=partial(sgd, lr=0.01),
        noise=TrainingNoise(eta=0.0),
        resume=out / "clipped.ckpt",
        **trainer(args),
    )
    return clean, base, train, test.batches(250)
