"""ResNet-18 (v2) on CIFAR-10, 4-bit weights and activations: Noisy Machines, Fig. 4.

    python examples/resnet18_cifar10.py --data DIR --device cuda
    python examples/resnet18_cifar10.py --data DIR --etas 0.057     # Fig. 4b: see runs/*/*.jsonl

Ranges are the percentiles 0.1 and 99.9; bias and BatchNorm stay digital. The teacher is the clean
model in full precision. DIR is as for resnet32_cifar10.py; Fig. 4b's accuracy after each epoch,
with and without noise, is in those files.
"""

from __future__ import annotations

from cifar10 import cifar_options, start
from comparison import Comparison

from analogize.models import cifar_resnet18_v2


def main() -> None:
    """Train clean, quantize, fine-tune back, compare three ways."""
    parser = cifar_options(__doc__ or "", "runs/resnet18_cifar10")
    parser.add_argument(
        "--width", type=int, default=64, help="channels of the first stage, 64 in the paper"
    )
    args = parser.parse_args()
    clean, base, train, test = start(
        cifar_resnet18_v2(width=args.width), args, "paper_resnet18_4bit"
    )
    Comparison(base, clean, train, test, args, args.epochs or 150, args.lr or 0.01).run()


if __name__ == "__main__":
    main()
