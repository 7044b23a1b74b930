"""Every public function on every way of putting analog parts into other modules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from analogize import (
    Target,
    analogize,
    calibrate,
    clip_weights,
    distill,
    erase,
    evaluate,
    export_onnx,
    noise_level,
    noise_mode,
    program,
    recalibrate,
    regions,
    summary,
)
from analogize.analyze import assign, bias_variance, compare, mutual_information, sensitivity
from analogize.crossbar.ops import operators
from analogize.errors import CaptureError
from analogize.report.report import write_report

Make = Callable[..., Target]
Way = Callable[[Make], nn.Module]
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 3
DATA = [(X, Y)]


def digital(outputs: int = 3) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))
    return layers.eval()


def part(quantized: Make, outputs: int = 3, **settings: Any) -> nn.Module:
    return analogize(digital(outputs), quantized(8, **{"eta": 0.1} | settings), DATA)


class Two(nn.Module):
    """Two analog parts for different targets, with equal names inside."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


class Lit(L.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Own(nn.Module):
    """A wrapper of one's own that answers for what it wraps, as many do."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrapped(*args, **kwargs)


def _peft(quantized: Make) -> nn.Module:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(target_modules=["3"], r=2)
    model = analogize(digital(), quantized(8, eta=0.1), DATA, capture="hierarchical")
    return peft.get_peft_model(model, config)  # type: ignore[no-any-return]


WAYS: dict[str, Way] = {
    "bigger module": lambda q: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), part(q)),
    "two parts": lambda q: Two(part(q, 8, eta=0.05), part(q)),
    "DataParallel": lambda q: nn.DataParallel(part(q)),
    "DDP": lambda q: DistributedDataParallel(part(q)),
    "AveragedModel": lambda q: AveragedModel(part(q)),
    "torch.compile": lambda q: torch.compile(part(q), backend="eager"),  # type: ignore[arg-type, return-value]
    "peft": _peft,
    "LightningModule": lambda q: Lit(part(q)),
    "own wrapper": lambda q: Own(part(q)),
    "wrapped bigger module": lambda q: AveragedModel(nn.Sequential(nn.Linear(8, 8), part(q))),
}
WRAPPERS = ("DataParallel", "DDP", "AveragedModel", "torch.compile", "own wrapper")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one, which DDP wants."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(params=WAYS)
def model(request: Any, quantized: Make) -> nn.Module:
    if request.param == "DDP":
        request.getfixturevalue("group")
    return WAYS[request.param](quantized).eval()


def _program(model: nn.Module, folder: Path) -> None:
    program(model, 3)
    first = model(X)
    assert torch.equal(model(X), first)
    program(model, 4)
    assert not torch.equal(model(X), first)


def _erase(model: nn.Module, folder: Path) -> None:
    program(model, 3)
    erase(model)
    assert not torch.equal(model(X), model(X))


def _noise_mode(model: nn.Module, folder: Path) -> None:
    with noise_mode(model, "off"):
        assert torch.equal(model(X), model(X))
    assert not torch.equal(model(X), model(X))


def _noise_level(model: nn.Module, folder: Path) -> None:
    with noise_level(model, 0.0):
        assert torch.equal(model(X), model(X))


def _clip_weights(model: nn.Module, folder: Path) -> None:
    """Analog weights come into their ranges, and nothing digital moves."""
    mine = [op.stored.value() for op in operators(model)]
    others = [p for p in model.parameters() if all(p is not w for w in mine)]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5)
    kept = [p.detach().clone() for p in others]
    assert clip_weights(model) > 0
    assert all(map(torch.equal, kept, others))
    for op, weight in zip(operators(model), mine, strict=True):
        low, high = op.array.range.tolist()
        first, last = torch.aminmax(weight.detach())
        assert low <= float(first) <= float(last) <= high


def _calibrate(model: nn.Module, folder: Path) -> None:
    before = operators(model)[0].dac.range.clone()
    calibrate(model, [3 * X], progress=False)
    assert not torch.equal(operators(model)[0].dac.range, before)


def _recalibrate(model: nn.Module, folder: Path) -> None:
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    program(model, 0)
    recalibrate(model, [X])
    assert not torch.equal(norm.running_mean, before)  # type: ignore[arg-type]


def _regions(model: nn.Module, folder: Path) -> None:
    names = [r.name for r in regions(model)]
    assert len(set(names)) == len(names) == len(operators(model))


def _summary(model: nn.Module, folder: Path) -> None:
    found = summary(model)
    assert [row.region for row in found.rows] == list(regions(model))
    assert "test" in str(found)


def _evaluate(model: nn.Module, folder: Path) -> None:
    result = evaluate(model, DATA, instances=2, progress=False)
    assert result.target.startswith("test")
    assert len(result.levels[0].values) == 2


def _sensitivity(model: nn.Module, folder: Path) -> None:
    rows = sensitivity(model, DATA, instances=2).rows
    assert {row.name for row in rows} == {r.name for r in regions(model)}


def _assign(model: nn.Module, folder: Path) -> None:
    with pytest.raises(CaptureError, match="analog already"):
        assign(model, DATA, "ideal", instances=2)


def _bias_variance(model: nn.Module, folder: Path) -> None:
    assert bias_variance(model, DATA, instances=3).rows


def _mutual_information(model: nn.Module, folder: Path) -> None:
    assert mutual_information(model, DATA, samples=16, instances=5).rows


def _compare(model: nn.Module, folder: Path) -> None:
    assert compare(model, copy.deepcopy(model), DATA, instances=2) is not None


def _distill(model: nn.Module, folder: Path) -> None:
    # PEFT freezes the arrays' weights: what it adds is trained, through them.
    before = [(p, p.detach().clone()) for p in model.parameters()]
    distill(model, None, DATA, epochs=1, alpha=0.0, accelerator="cpu", enable_progress_bar=False)
    assert any(_learns(p) for p, _ in before)
    assert not any(torch.equal(p, former) for p, former in before if _learns(p))
    assert all(torch.equal(p, former) for p, former in before if not p.requires_grad)


def _learns(parameter: torch.Tensor) -> bool:
    # LoRA's A has no gradient while its B is 0, in the first step.
    return parameter.requires_grad and parameter.grad is not None and bool(parameter.grad.any())


def _export_onnx(model: nn.Module, folder: Path) -> None:
    exported = export_onnx(model, folder / "model.onnx", X)
    assert [r.id for r in exported.manifest.regions] == [r.name for r in regions(model)]


def _write_report(model: nn.Module, folder: Path) -> None:
    write_report(folder / "report.html", model)
    assert (folder / "report.html").stat().st_size


FUNCTIONS = [
    _program,
    _erase,
    _noise_mode,
    _noise_level,
    _clip_weights,
    _calibrate,
    _recalibrate,
    _regions,
    _summary,
    _evaluate,
    _sensitivity,
    _assign,
    _bias_variance,
    _mutual_information,
    _compare,
    _distill,
    _export_onnx,
    _write_report,
]


# A process group without a strategy of Lightning's, which DDP by hand is, makes Lightning advise.
@pytest.mark.filterwarnings("ignore:It is recommended to use")
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__[1:])
def test_every_function_works_wherever_the_analog_part_is(
    model: nn.Module, function: Callable[[nn.Module, Path], None], tmp_path: Path
) -> None:
    function(model, tmp_path)


@pytest.mark.parametrize("way", WRAPPERS)
def test_a_wrapper_changes_neither_names_nor_chips(
    way: str, quantized: Make, request: pytest.FixtureRequest
) -> None:
    if way == "DDP":
        request.getfixturevalue("group")
    torch.manual_seed(5)
    alone = part(quantized).eval()
    torch.manual_seed(5)
    wrapped = WAYS[way](quantized).eval()
    assert regions(wrapped) == regions(alone)
    program(alone, 3)
    program(wrapped, 3)
    assert torch.equal(wrapped(X), alone(X))


def test_equal_parts_are_told_apart_and_get_noise_of_their_own(quantized: Make) -> None:
    torch.manual_seed(5)
    first = part(quantized, 8)
    model = Two(first, copy.deepcopy(first)).eval()
    assert [r.name for r in regions(model)] == ["first.0", "first.3", "second.0", "second.3"]
    assert [r.index for r in regions(model)] == [0, 1, 2, 3]
    program(model, 0)
    chips = [op.array.chip for op in operators(model)]
    assert not torch.equal(chips[0], chips[2])  # type: ignore[arg-type]


def test_what_nobody_rewrote_is_said_to_be_digital(quantized: Make) -> None:
    found = summary(nn.ModuleDict({"stem": nn.Linear(8, 8), "body": part(quantized)}))
    assert [(d.name, d.operator) for d in found.digital] == [("stem", "Linear")]
    assert "outside" in found.digital[0].reason
    assert found.converted_share is None
