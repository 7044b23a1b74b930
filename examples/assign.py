"""What to keep digital: assign regions within an accuracy budget, and check on fresh chips.

    python examples/assign.py lenet5 --data DIR --weights lenet5.pt --target paper_lenet5_8bit
    python examples/assign.py resnet32 --data DIR --weights clean.ckpt --target pcm_joshi2020 --bf16
    python examples/assign.py lenet5 --data DIR --weights lenet5.pt --recalibrate

DIR holds MNIST or CIFAR-10. The test images are shuffled and divided: the search sees --limit of
them, its tests --test-limit others, so that the budget must hold for images that the search has not
seen; the rest is for the final check alone. That measures the assignment on chips, and on images,
that nothing before has seen, as the target file that was written describes it. With --recalibrate
every chip is recalibrated before it is judged, on 1,000 training images without their labels:
BatchNorm's statistics, or without BatchNorm the scale and offset that match every operator to the
clean model. Writes NAME.json and NAME.yaml into --out.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from comparison import command
from torch import Tensor, nn

from analogize import Recalibration, analogize, evaluate
from analogize.analyze import assign
from analogize.data import ImageTensors, load_dataset
from analogize.models import LeNet5, cifar_resnet32

NETWORKS = {"lenet5": (LeNet5, "mnist"), "resnet32": (cifar_resnet32, "cifar10")}


def main() -> None:
    """Search, rewrite by the fragment found, measure on fresh chips, write."""
    options = parse()
    torch.set_num_threads(options.threads)
    make, dataset = NETWORKS[options.network]
    model = make()
    load_weights(model, options.weights)
    test = load_dataset(dataset, options.data, train=False)
    seen, tested, unseen = split(test, options.limit, options.test_limit, options.check_limit)
    calibration = load_dataset(dataset, options.data, train=True).take(1000).batches(250)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
        start = time.monotonic()
        found = assign(
            model.eval(),
            batches(seen),
            options.target,
            options.max_drop,
            calibration=calibration,
            test_data=batches(tested),
            instances=options.instances,
            screening=options.screening,
            seed=options.seed,
            recalibration=remedy(model, calibration, options),
        )
        spent = time.monotonic() - start
        print(found.model_dump(exclude={"fragment"}), f"{spent:.0f} s", flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / f"{options.network}.yaml"
        file.write_text(found.fragment)
        # Where everything stays digital there is no array to program.
        assigned = file if found.digital_macs < found.total_macs else None
        checks = {
            name: check(model, options, assigned, calibration, images)
            for name, images in (("images of the search", seen), ("unseen images", unseen))
        }
    record = {
        "command": command(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("analogize", "torch")},
        "seconds": round(spent),
        "assignment": found.model_dump(exclude={"fragment"}),
        "share_of_macs_digital": found.digital_macs / found.total_macs,
        "fresh_chips": checks,
    }
    text = json.dumps(record, indent=1)
    (options.out / f"{options.network}.json").write_text(text + "\n")
    print(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST or CIFAR-10")
    parser.add_argument("--weights", type=Path, required=True, help="state_dict or checkpoint")
    parser.add_argument("--target", default="pcm_4bit")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--limit", type=int, default=2000, help="images of the search")
    parser.add_argument("--test-limit", type=int, default=4000, help="images of its tests")
    parser.add_argument("--check-limit", type=int, default=4000, help="images of the final check")
    parser.add_argument("--recalibrate", action="store_true", help="judge recalibrated chips")
    parser.add_argument("--bf16", action="store_true", help="run under bfloat16 autocast")
    parser.add_argument("--instances", type=int, default=30, help="chips of a test")
    parser.add_argument("--screening", type=int, default=10, help="chips of a screening")
    parser.add_argument("--fresh", type=int, default=50, help="chips of the final check")
    parser.add_argument("--whole", type=int, default=50, help="the same with nothing digital")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("examples/results/assign"))
    return parser.parse_args()


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state_dict, or what a Lightning checkpoint of ``distill`` holds of the student."""
    held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    state = held.get("state_dict", held)
    bare = {name.removeprefix("student."): value for name, value in state.items()}
    names = model.state_dict().keys()
    model.load_state_dict({name: value for name, value in bare.items() if name in names})


def split(images: ImageTensors, *counts: int) -> list[ImageTensors]:
    """Disjoint subsets of so many images, by a fixed shuffle."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return [
        ImageTensors(
            images.images[part], images.targets[part], images.classes, images.normalization
        )
        for part in order[: sum(counts)].split(list(counts))
    ]


def batches(images: ImageTensors) -> list[tuple[Tensor, Tensor]]:
    """Batches of 250, channels last, which convolutions on a processor like best."""
    return [(x.to(memory_format=torch.channels_last), y) for x, y in images.batches(250)]


def remedy(model: nn.Module, images: Any, options: argparse.Namespace) -> Recalibration | None:
    """What every chip is given before it is judged; one for each way to rewrite the model."""
    if not options.recalibrate:
        return None
    # Batches of one tensor each: labels are none of its business.
    unlabelled = [x for x, _ in images]
    has_norms = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    return Recalibration(unlabelled, None if has_norms else model)


def check(
    model: nn.Module,
    options: argparse.Namespace,
    file: Path | None,
    calibration: Any,
    images: ImageTensors,
) -> dict[str, Any]:
    """Drops of the whole target and of the assignment below the digital model, on fresh chips."""
    data, seed = batches(images), options.seed + 1_000_003
    digital = evaluate(analogize(model, "ideal"), data, instances=1, progress=False)
    accuracy = digital.levels[0].values[0]
    found: dict[str, Any] = {"images": len(images), "digital": accuracy}
    cases: dict[str, tuple[Any, int]] = {"nothing digital": (options.target, options.whole)}
    if file is not None:
        cases["assigned"] = file, options.fresh
    for name, (chosen, chips) in cases.items():
        analog = analogize(model, chosen, calibration)
        level = evaluate(
            analog,
            data,
            instances=chips,
            seed=seed,
            recalibration=remedy(model, calibration, options),
            progress=False,
        ).levels[0]
        low, high = level.interval or (level.values[0], level.values[0])
        assert level.mean is not None, "every chip was measured"
        found[f"chips, {name}"] = chips
        found[f"drop, {name}"] = accuracy - level.mean
        found[f"drop, {name}, 95 % interval"] = [accuracy - high, accuracy - low]
        print(found, flush=True)
    return found


if __name__ == "__main__":
    main()
