"""ResNet-32 (v1) on CIFAR-10 with weights clipped at two sigma: Noisy Machines, Fig. 3.

    python examples/resnet32_cifar10.py --data DIR --device cuda
    python examples/resnet32_cifar10.py --data DIR --cross 0.057    # Fig. 3b too
    python examples/resnet32_cifar10.py --data DIR --weights examples/results/resnet32/clean.pt
    python examples/resnet32_cifar10.py --data DIR --check    # the committed models, in minutes

DIR holds torchvision's cifar-10-batches-py, or image folders train/<class> and test/<class>. The
defaults are the paper's: retraining for 150 epochs from a learning rate of 0.01, batches of 128.
The clean model's epochs and the fine-tuning after clipping are not in the paper.
"""

from __future__ import annotations

import sys

from check import check
from cifar10 import cifar_options, start
from comparison import Comparison

from analogize.models import cifar_resnet32


def main() -> None:
    """Train clean, clip, fine-tune back, compare three ways."""
    parser = cifar_options(__doc__ or "", "runs/resnet32_cifar10")
    parser.add_argument("--cross", type=float, help="evaluate models trained at this eta at all")
    parser.add_argument(
        "--check", action="store_true", help="train nothing: measure the committed models again"
    )
    args = parser.parse_args()
    if args.check:
        sys.exit(0 if check(args) else 1)
    _, base, train, test = start(cifar_resnet32(), args, "paper_resnet32")
    comparison = Comparison(base, base, train, test, args, args.epochs or 150, args.lr or 0.01)
    comparison.run()
    if args.cross is not None:
        comparison.cross(args.cross)


if __name__ == "__main__":
    main()
