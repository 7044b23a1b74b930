"""The demo: train a small network, rewrite it, fine-tune it, measure it on programmed chips.

Three models meet the same chips: the rewritten network untouched, a copy fine-tuned with weight
noise, and a control fine-tuned just as long with the noise off. The control tells what the noise
itself brings from what clipped and quantized weights bring.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import nn

from analogize.api import analogize
from analogize.crossbar.chip import clip_weights, noise_level, noise_mode
from analogize.crossbar.ops import operators
from analogize.demo.data import ImageTensors, TensorBatches, load_dataset
from analogize.demo.models import DigitsNet, LeNet5
from analogize.display.progress import can_show_bar
from analogize.errors import EvaluationError, TrainingError
from analogize.evaluation.evaluation import Evaluation
from analogize.evaluation.montecarlo import evaluate
from analogize.report.summary import Summary, summary
from analogize.targets import load_target
from analogize.targets.spec import GaussianNoise, Target

ETAS: Final = (0.0, 0.04, 0.08, 0.12, 0.16, 0.2)
TRAINING_ETA: Final = 0.15
CALIBRATION_IMAGES: Final = 1024

UNTOUCHED: Final = "untouched"
CONTROL: Final = "fine-tuned, no noise"
NOISY: Final = f"fine-tuned, eta {TRAINING_ETA:g}"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """What one data set needs.

    Attributes:
        network: makes the network.
        epochs: passes over the training images for the digital network; fine-tuning takes twice
            as many.
        instances: chips a noise level.
        batch_size: training images a step.
        rate: largest learning rate of the digital network.
        tuning_rate: largest learning rate of the fine-tuning.
    """

    network: Callable[[], nn.Module]
    epochs: int
    instances: int
    batch_size: int
    rate: float
    tuning_rate: float


RECIPES: Final = {
    "digits": Recipe(DigitsNet, 20, 50, batch_size=64, rate=3e-3, tuning_rate=1e-2),
    "mnist": Recipe(LeNet5, 3, 10, batch_size=128, rate=3e-3, tuning_rate=1e-2),
}


@dataclass(frozen=True)
class Outcome:
    """What a run of the demo found.

    Attributes:
        title: network, data set and target in words.
        target: the target.
        summary: what was rewritten.
        digital_accuracy: the digital network's share of right answers on the test images.
        network: the digital network.
        models: the rewritten models, by arm.
        curves: their accuracy over programmed chips, by arm.
    """

    title: str
    target: Target
    summary: Summary
    digital_accuracy: float
    network: nn.Module
    models: dict[str, nn.Module]
    curves: dict[str, Evaluation]


def run_demo(
    dataset: str = "digits",
    data: Path | None = None,
    target: str = "pcm_4bit",
    *,
    seed: int = 0,
    epochs: int | None = None,
    instances: int | None = None,
    say: Say = print,
) -> Outcome:
    """Train, rewrite, fine-tune and measure; torch's random state is as before afterwards.

    Args:
        dataset: ``"digits"`` or ``"mnist"``.
        data: folder of MNIST in torchvision's layout; the digits need none.
        target: a built-in name or the path of a YAML file, with one Gaussian noise model.
        seed: decides initial weights, batches, training noise and chips.
        epochs: epochs of the digital network, in place of the data set's own.
        instances: chips a noise level, likewise.
        say: receives the progress, line by line.

    Raises:
        EvaluationError: an unknown data set, missing files, or a target whose eta cannot vary.
        TargetError: an unknown or malformed target.
        TrainingError: the loss is no longer finite.
    """
    recipe, loaded = _recipe(dataset, data), load_target(target)
    etas, epochs = noise_levels(loaded), epochs or recipe.epochs
    instances = instances or recipe.instances
    train_set = load_dataset(dataset, data, train=True)
    test_set = load_dataset(dataset, data, train=False)
    with _one_thread(), _seeded(seed):
        network = recipe.network()
        name = type(network).__name__
        say(f"\n1. Train {name} on {dataset}: {len(train_set)} images, {epochs} epochs")
        fit(network, _shuffled(train_set, recipe, seed), epochs, recipe.rate, name)
        accuracy = measure_digital(network, test_set)
        say(f"   digital accuracy {accuracy:.4f} on {len(test_set)} test images")
        say(f"\n2. Rewrite it for {loaded.name}\n")
        calibration = train_set.take(CALIBRATION_IMAGES).batches(256)
        analog = analogize(network, loaded, calibration)
        say(str(rewritten := summary(analog)))
        say(f"3. Fine-tune two copies for {2 * epochs} epochs: one with noise, one without")
        models = {UNTOUCHED: analog} | {
            arm: _fine_tuned(analog, arm, _shuffled(train_set, recipe, seed), 2 * epochs, recipe)
            for arm in (CONTROL, NOISY)
        }
    say(f"\n4. Measure each on {instances} programmed chips a noise level\n")
    with _one_thread():
        test = test_set.batches(1000)
        curves = {
            arm: evaluate(model, test, eta=etas, instances=instances, seed=seed)
            for arm, model in models.items()
        }
    title = f"{name} on {dataset}, target {loaded.name}, {instances} chips"
    return Outcome(title, loaded, rewritten, accuracy, network, models, curves)


def noise_levels(target: Target) -> tuple[float, ...]:
    """The noise levels to measure: a fixed grid and the target's own level, in order.

    Raises:
        EvaluationError: the target's noise is not one Gaussian, whose eta could vary.
    """
    if len(target.noise) != 1 or not isinstance(target.noise[0], GaussianNoise):
        found = ", ".join(model.model for model in target.noise) or "none"
        raise EvaluationError(
            f"the demo varies eta, and target '{target.name}' has other noise ({found}): choose "
            "one with one Gaussian noise model, such as pcm_4bit or reram_4bit"
        )
    return tuple(sorted({*ETAS, target.noise[0].eta}))


def fit(model: nn.Module, batches: TensorBatches, epochs: int, rate: float, name: str) -> None:
    """Train with Adam and a one-cycle schedule; leaves the model in eval mode.

    A rewritten model draws fresh noise in every forward pass by itself. All it asks of the loop is
    ``clip_weights`` after a step, so that no weight leaves its range.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * len(batches)
    )
    console = Console(stderr=True)
    model.train()
    hidden = not can_show_bar(console)
    steps = track(range(epochs), f"   {name}", console=console, transient=True, disable=hidden)
    for epoch in steps:
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if operators(model):
                clip_weights(model)
        if not torch.isfinite(loss):
            raise TrainingError(f"{name}: the loss is {loss.item()} after epoch {epoch + 1}")
    model.eval()


@torch.no_grad()
def measure_digital(model: nn.Module, data: ImageTensors) -> float:
    """Share of right answers of a digital model."""
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data.batches(1000))
    return right / len(data)


def _fine_tuned(
    analog: nn.Module, arm: str, batches: TensorBatches, epochs: int, recipe: Recipe
) -> nn.Module:
    """A copy of ``analog`` trained on with the noise of its arm."""
    model = copy.deepcopy(analog)
    with noise_level(model, TRAINING_ETA) if arm == NOISY else noise_mode(model, "off"):
        fit(model, batches, epochs, recipe.tuning_rate, arm)
    return model


def _recipe(dataset: str, data: Path | None) -> Recipe:
    if dataset not in RECIPES:
        raise EvaluationError(f"no demo on {dataset!r}; there are: {', '.join(RECIPES)}")
    if data is not None and dataset == "digits":
        raise EvaluationError(
            "the digits come with scikit-learn and need no folder; leave out --data, or add "
            "--dataset mnist"
        )
    return RECIPES[dataset]


def _shuffled(data: ImageTensors, recipe: Recipe, seed: int) -> TensorBatches:
    return data.batches(recipe.batch_size, generator=torch.Generator().manual_seed(seed))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within the block torch's CPU generator starts from ``seed``; afterwards it is as before."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within the block torch uses one thread: tensors this small lose more to waiting threads.

    Results do not depend on the number of cores then.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
