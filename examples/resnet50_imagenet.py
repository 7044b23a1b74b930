"""ResNet-50 (v1) on ImageNet with weights clipped at two sigma: Noisy Machines, Table 1.

    python examples/resnet50_imagenet.py --data DIR --device cuda --precision bf16-mixed

DIR holds image folders train/<class> and val/<class>. torchvision's weights (IMAGENET1K_V1) are
the clean model; --weights names a file of a state_dict instead. The paper retrains for 30 epochs
from a learning rate of 0.001, batches of 32.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from pathlib import Path

import torch
from comparison import Comparison, options, sgd, trainer
from settings import claim
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms
from torchvision.models import get_model

from analogize import TrainingNoise, analogize, distill
from analogize.data import IMAGENET
from analogize.demo.image_folder import spread
from analogize.evaluation.data_digest import data_digest


def main() -> None:
    """Clip the trained model, fine-tune back, compare three ways."""
    parser = options(__doc__ or "", (0.02, 0.04, 0.06), "runs/resnet50_imagenet")
    parser.add_argument("--weights", help="a state_dict, or 'none' for an untrained model")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    args = parser.parse_args()
    train, test, classes = loaders(args)
    claim(args, data=data_digest(test))
    weights = "IMAGENET1K_V1" if args.weights is None else None
    model = get_model("resnet50", weights=weights, num_classes=None if weights else classes)
    if args.weights not in (None, "none"):
        model.load_state_dict(torch.load(args.weights, map_location="cpu"))
    calibration = list(itertools.islice(train, 16))
    base = distill(
        analogize(model, args.target or "paper_resnet50", calibration),
        None,
        train,
        test,
        epochs=args.clipped_epochs or 5,
        alpha=0.0,
        optimizer=partial(sgd, lr=0.001),
        noise=TrainingNoise(eta=0.0),
        chips=0,
        seed=args.seed,
        resume=Path(args.out) / "clipped.ckpt",
        **trainer(args),
    )
    Comparison(base, base, train, test, args, args.epochs or 30, args.lr or 0.001).run()


def loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader, int]:
    """Training and test batches with ImageNet's usual crops, and how many classes there are."""
    size = args.image_size
    finish = [transforms.ToTensor(), transforms.Normalize(IMAGENET.mean, IMAGENET.std)]
    crops = {
        "train": [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()],
        "val": [transforms.Resize(size * 256 // 224), transforms.CenterCrop(size)],
    }
    limits = {"train": args.limit, "val": args.test_images or args.limit}
    made, classes = [], 0
    for split, crop in crops.items():
        data = datasets.ImageFolder(Path(args.data) / split, transforms.Compose([*crop, *finish]))
        classes = len(data.classes)
        some = Subset(data, spread(len(data), min(limits[split] or len(data), len(data))).tolist())
        keep = {"num_workers": args.workers, "persistent_workers": args.workers > 0}
        made.append(DataLoader(some, args.batch_size, shuffle=split == "train", **keep))
    return made[0], made[1], classes


if __name__ == "__main__":
    main()
