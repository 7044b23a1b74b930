"""Monte Carlo over chips: values, common chips, resuming, leaving no trace, bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import Target, analogize, noise_level, noise_mode, program
from analogize.errors import CalibrationError, ChipError, EvaluationError
from analogize.evaluation import Evaluation
from analogize.fingerprint import chip_seed
from analogize.montecarlo import evaluate
from analogize.ops import operators

Batches = list[tuple[Tensor, Tensor]]
MakeTarget = Callable[..., Target]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        scores: Tensor = self.fc(self.drop(x.flatten(1)))
        return scores


class Counted:
    """Batches that count how often they were gone through, and may interrupt."""

    def __init__(self, batches: Batches, interrupt_at: int | None = None) -> None:
        self.batches, self.given, self.interrupt_at = batches, 0, interrupt_at

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            self.given += 1
            if self.given == self.interrupt_at:
                raise KeyboardInterrupt
            yield batch

    @property
    def passes(self) -> float:
        return self.given / len(self.batches)


@pytest.fixture
def batches() -> Batches:
    return [(torch.randn(n, 1, 6, 6), torch.randint(0, 5, (n,))) for n in (20, 20, 7)]


@pytest.fixture
def analog(quantized: MakeTarget, batches: Batches) -> nn.Module:
    return analogize(Net(), quantized(bits=6, eta=0.1), batches)


def by_hand(model: nn.Module, batches: Batches, seed: int) -> float:
    program(model, seed)
    model.eval()
    with torch.no_grad():
        hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return float(np.float32(hits) / np.float32(sum(len(y) for _, y in batches)))


def test_values_are_those_of_a_loop_by_hand(analog: nn.Module, batches: Batches) -> None:
    result = evaluate(analog, batches, eta=[0.05, None], instances=4, seed=3)
    for level in result.levels:
        with noise_level(analog, level.eta):
            assert level.values == tuple(by_hand(analog, batches, s) for s in result.seeds)
    assert [level.eta for level in result.levels] == [0.05, None]
    assert result.samples == 47
    assert (result.target, result.metric, result.noise) == ("test", "accuracy", ("gaussian",))
    assert result.complete
    assert len(set(result.levels[1].values)) > 1


def test_seeds_are_the_same_in_another_process() -> None:
    code = (
        "from analogize.fingerprint import chip_seed; print(*[chip_seed(5, k) for k in range(3)])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.split() == [str(chip_seed(5, k)) for k in range(3)]
    seeds = {chip_seed(s, k) for s in range(20) for k in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**63 for s in seeds)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


@pytest.fixture
def linear(make_target: MakeTarget) -> tuple[nn.Module, Batches]:
    """One linear layer without bias or quantization, and its own clean outputs as targets."""
    model = nn.Sequential(nn.Linear(8, 3, bias=False))
    noise = [{"model": "gaussian", "eta": 0.05}]
    target = make_target(weights={"range": {"kind": "absmax"}}, noise=noise)
    inputs = torch.randn(16, 8)
    with torch.no_grad():
        batches = [(inputs, model(inputs))]
    return analogize(model, target), batches


def test_mean_agrees_with_the_closed_form(linear: tuple[nn.Module, Batches]) -> None:
    model, batches = linear
    result = evaluate(model, batches, squared_error, eta=0.05, instances=400)
    weight = next(model.parameters())
    sigma = 0.05 * 2 * weight.abs().max().item()
    expected = sigma**2 * batches[0][0].square().sum(1).mean().item()  # E|dw x|^2 = sigma^2 |x|^2
    (level,) = result.levels
    assert level.mean is not None
    assert level.std is not None
    assert abs(level.mean - expected) < 5 * level.std / 400**0.5


def test_chips_are_common_to_all_levels(linear: tuple[nn.Module, Batches]) -> None:
    model, batches = linear
    result = evaluate(model, batches, squared_error, eta=[0.05, 0.1], instances=5)
    low, high = (np.array(level.values) for level in result.levels)
    # The same draw at twice the level: four times the squared error, up to float32 rounding.
    np.testing.assert_allclose(high, 4 * low, rtol=1e-4)
    assert len(set(low)) == 5


def test_without_noise_one_pass_stands_for_all_chips(analog: nn.Module, batches: Batches) -> None:
    data = Counted(batches)
    result = evaluate(analog, data, eta=[0.0, 0.1], instances=3)
    assert data.passes == 1 + 3
    clean, noisy = result.levels
    assert clean.deterministic
    assert len(clean.values) == 1
    assert not noisy.deterministic
    assert result.complete
    with noise_level(analog, 0.0):
        assert {by_hand(analog, batches, seed) for seed in result.seeds} == {clean.mean}


def test_a_shuffling_loader_draws_but_the_model_does_not(
    analog: nn.Module, batches: Batches
) -> None:
    inputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(inputs, targets), 16, shuffle=True)
    result = evaluate(analog, loader, eta=[0.0, 0.1], instances=3)
    assert result.levels[0].deterministic
    # Counts of hits do not depend on the order.
    assert result.levels == evaluate(analog, batches, eta=[0.0, 0.1], instances=3).levels


def test_a_spread_of_eta_is_noise_at_eta_zero(make_target: MakeTarget, batches: Batches) -> None:
    noise = [{"model": "gaussian", "eta": 0.0, "eta_std": 0.2}]
    target = make_target(weights={"range": {"kind": "absmax"}}, noise=noise)
    (level,) = evaluate(analogize(Net(), target), batches, eta=0.0, instances=4).levels
    assert not level.deterministic
    assert len(set(level.values)) > 1


class Dreaming(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, training=True))


def test_a_model_that_draws_in_eval_mode_is_no_constant(batches: Batches) -> None:
    model = analogize(Dreaming(), "ideal")
    first, second = (evaluate(model, batches, instances=4) for _ in range(2))
    assert not first.levels[0].deterministic
    assert len(set(first.levels[0].values)) > 1
    assert first == second


def test_data_loader_batches_of_every_form() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            scores: Tensor = self.a(x) + self.b(y)
            return scores

    torch.manual_seed(1)
    model = analogize(Two(), "paper_resnet32")
    x, y, t = torch.randn(10, 4), torch.randn(10, 4), torch.randint(0, 3, (10,))
    collated = DataLoader([((a, b), c) for a, b, c in zip(x, y, t, strict=True)], 4)  # type: ignore[arg-type]
    named = DataLoader([({"y": b, "x": a}, c) for a, b, c in zip(x, y, t, strict=True)], 4)  # type: ignore[arg-type]
    forms: list[Any] = [[((x, y), t)], [[[x, y], t]], [({"x": x, "y": y}, t)], collated, named]
    results = [evaluate(model, data, eta=0.1, instances=3) for data in forms]
    assert all(r.levels == results[0].levels and r.samples == 10 for r in results)


class TestLeavesNoTrace:
    def test_flags_modes_chip_and_random_state(self, analog: nn.Module, batches: Batches) -> None:
        analog.train()
        analog.get_submodule("norm").eval()
        flags = [module.training for module in analog.modules()]
        program(analog, 12)
        chips = [op.array.chip for op in operators(analog)]
        state = torch.get_rng_state()
        with noise_mode(analog, "off"):
            evaluate(analog, batches, instances=2)
            assert {op.mode for op in operators(analog)} == {"off"}
        assert [module.training for module in analog.modules()] == flags
        assert all(op.array.chip is c for op, c in zip(operators(analog), chips, strict=True))
        assert {op.mode for op in operators(analog)} == {None}
        assert torch.equal(torch.get_rng_state(), state)

    def test_no_chip_stays_none(self, analog: nn.Module, batches: Batches) -> None:
        evaluate(analog, batches, instances=2)
        assert all(op.array.chip is None for op in operators(analog))

    def test_an_outgrown_chip_stays_invalid(self, analog: nn.Module, batches: Batches) -> None:
        program(analog, 1)
        with torch.no_grad():
            next(analog.parameters()).add_(0.01)
        evaluate(analog, batches, instances=2)
        with noise_mode(analog, "programmed"), pytest.raises(ChipError, match="changed after"):
            analog(batches[0][0])

    def test_buffers_and_gradients(self, analog: nn.Module, batches: Batches) -> None:
        before = {k: v.clone() for k, v in analog.train().state_dict().items()}
        evaluate(analog, batches, eta=[0.0, 0.1], instances=2)
        assert all(torch.equal(v, before[k]) for k, v in analog.state_dict().items())
        assert all(p.grad is None for p in analog.parameters())

    def test_after_an_interruption(self, analog: nn.Module, batches: Batches) -> None:
        analog.train()
        before = [op.array.noise for op in operators(analog)]
        with pytest.raises(KeyboardInterrupt):
            evaluate(analog, Counted(batches, 5), eta=0.2, instances=2)
        assert all(module.training for module in analog.modules())
        assert all(op.array.chip is None and op.mode is None for op in operators(analog))
        assert [op.array.noise for op in operators(analog)] == before

    def test_another_device_runs_a_copy(self, analog: nn.Module, batches: Batches) -> None:
        program(analog, 12)
        chip = operators(analog)[0].array.chip
        result = evaluate(analog, batches, instances=2, device="cpu")
        assert result == evaluate(analog, batches, instances=2)
        assert operators(analog)[0].array.chip is chip

    def test_standard_output(
        self, analog: nn.Module, batches: Batches, capsys: pytest.CaptureFixture[str]
    ) -> None:
        evaluate(analog, batches, instances=2)
        assert capsys.readouterr().out == ""


class TestResume:
    @pytest.mark.parametrize("stop_at", [1, 4, 8, 14, 20])
    def test_an_interrupted_run_ends_as_an_uninterrupted_one(
        self, stop_at: int, analog: nn.Module, batches: Batches, tmp_path: Path
    ) -> None:
        settings: dict[str, Any] = {"eta": [0.0, 0.05, None], "instances": 4, "seed": 9}
        whole = evaluate(analog, batches, **settings)
        file = tmp_path / "run.json"
        interrupted = Counted(batches, stop_at)
        with pytest.raises(KeyboardInterrupt):
            evaluate(analog, interrupted, **settings, resume=file)
        partial = Evaluation.load(file)
        assert not partial.complete
        measured = sum(len(level.values) for level in partial.levels)
        assert measured == (stop_at - 1) // len(batches)
        torch.manual_seed(123)  # another process would not have the same random state
        rest = Counted(batches)
        resumed = evaluate(analog, rest, **settings, resume=file)
        assert resumed == whole
        assert Evaluation.load(file) == whole
        assert rest.passes == 1 + 4 + 4 - measured

    def test_a_model_that_draws_resumes_exactly(self, batches: Batches, tmp_path: Path) -> None:
        model = analogize(Dreaming(), "ideal")
        file = tmp_path / "run.json"
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, Counted(batches, 8), instances=5, resume=file)
        assert evaluate(model, batches, instances=5, resume=file) == evaluate(
            model, batches, instances=5
        )

    def test_a_finished_run_is_read_not_repeated(
        self, analog: nn.Module, batches: Batches, tmp_path: Path
    ) -> None:
        first = evaluate(analog, batches, instances=3, resume=tmp_path / "run.json")
        data = Counted(batches)
        assert evaluate(analog, data, instances=3, resume=tmp_path / "run.json") == first
        assert data.given == 0

    @pytest.mark.parametrize(("instances", "passes"), [(5, 2), (2, 0)])
    def test_instances_may_change(
        self, instances: int, passes: int, analog: nn.Module, batches: Batches, tmp_path: Path
    ) -> None:
        evaluate(analog, batches, instances=3, resume=tmp_path / "run.json")
        data = Counted(batches)
        resumed = evaluate(analog, data, instances=instances, resume=tmp_path / "run.json")
        assert resumed == evaluate(analog, batches, instances=instances)
        assert data.passes == passes

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"seed": 1}, "seed 0 instead of 1"),
            ({"eta": [0.2]}, r"noise levels 0\.1 instead of 0\.2"),
            ({"metric": F.cross_entropy}, "metric accuracy instead of torch.nn.functional"),
        ],
    )
    def test_another_run_is_refused_by_name(
        self,
        change: dict[str, Any],
        message: str,
        analog: nn.Module,
        batches: Batches,
        tmp_path: Path,
    ) -> None:
        file = tmp_path / "run.json"
        settings: dict[str, Any] = {"eta": [0.1], "instances": 1, "resume": file}
        evaluate(analog, batches, **settings)
        kept = file.read_text()
        with pytest.raises(EvaluationError, match=f"another run: {message}.*to start over"):
            evaluate(analog, batches, **(settings | change))
        assert file.read_text() == kept

    def test_other_weights_ranges_or_noise_are_refused(
        self, quantized: MakeTarget, batches: Batches, tmp_path: Path
    ) -> None:
        net, file = Net(), tmp_path / "run.json"
        first = analogize(net, quantized(bits=6, eta=0.1), batches)
        evaluate(first, batches, instances=1, resume=file)
        for message, target, calibration in (
            ("another target", quantized(bits=6, eta=0.2), batches),
            ("another target", quantized(bits=5, eta=0.1), batches),
            ("other weights or calibrated ranges", quantized(bits=6, eta=0.1), batches[:1]),
        ):
            other = analogize(net, target, calibration)
            with pytest.raises(EvaluationError, match=message):
                evaluate(other, batches, instances=1, resume=file)
        with torch.no_grad():
            next(first.parameters())[0, 0, 0, 0] += 1e-6
        with pytest.raises(EvaluationError, match="other weights"):
            evaluate(first, batches, instances=1, resume=file)

    def test_other_data_are_refused_by_their_size(
        self, analog: nn.Module, batches: Batches, tmp_path: Path
    ) -> None:
        evaluate(analog, batches, instances=1, resume=tmp_path / "run.json")
        with pytest.raises(EvaluationError, match="47 samples before and 20 now"):
            evaluate(analog, batches[:1], instances=2, resume=tmp_path / "run.json")

    def test_a_file_that_cannot_be_written_fails_before_the_first_chip(
        self, analog: nn.Module, batches: Batches, tmp_path: Path
    ) -> None:
        data = Counted(batches)
        with pytest.raises(EvaluationError, match="cannot write the evaluation to"):
            evaluate(analog, data, resume=tmp_path / "none" / "run.json")
        assert data.given == 0

    def test_no_half_written_file_is_left(
        self, analog: nn.Module, batches: Batches, tmp_path: Path
    ) -> None:
        evaluate(analog, batches, instances=2, resume=tmp_path / "run.json")
        assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
        assert json.loads((tmp_path / "run.json").read_text())["schema"] == 1


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"instances": 0}, "instances is 0; it must be an integer of at least 1"),
            ({"instances": 2.5}, "instances is 2.5"),
            ({"seed": "a"}, "seed is 'a'; it must be an integer"),
            ({"eta": []}, "eta is empty"),
            ({"eta": -0.1}, "eta -0.1 must be a finite number"),
            ({"eta": [0.1, float("nan")]}, "eta nan must be"),
            ({"eta": float("inf")}, "eta inf must be"),
            ({"eta": ["much"]}, "eta 'much' is no number"),
            ({"eta": [0.1, None, 0.1]}, "eta holds 0.1 twice"),
            ({"metric": "acuracy"}, "metric 'acuracy' cannot be used"),
        ],
    )
    def test_arguments(
        self, arguments: dict[str, Any], message: str, analog: nn.Module, batches: Batches
    ) -> None:
        with pytest.raises(EvaluationError, match=message):
            evaluate(analog, batches, **arguments)

    @pytest.mark.parametrize("eta", [np.array([0.1, 0.2]), torch.tensor([0.25, 0.5]), (0.1, 0.2)])
    def test_any_sequence_of_levels(self, eta: Any, analog: nn.Module, batches: Batches) -> None:
        result = evaluate(analog, batches, eta=eta, instances=1)
        assert [level.eta for level in result.levels] == [float(e) for e in eta]

    @pytest.mark.parametrize("eta", [np.float64(0.1), torch.tensor(0.25)])
    def test_any_number_as_level(self, eta: Any, analog: nn.Module, batches: Batches) -> None:
        assert evaluate(analog, batches, eta=eta, instances=1).levels[0].eta == float(eta)

    def test_data_that_cannot_be_gone_through_again(
        self, analog: nn.Module, batches: Batches
    ) -> None:
        with pytest.raises(EvaluationError, match="list_iterator, which is used up after one chip"):
            evaluate(analog, iter(batches))
        with pytest.raises(EvaluationError, match=r"data set TensorDataset.*DataLoader"):
            evaluate(analog, TensorDataset(*batches[0]))  # type: ignore[arg-type]
        with pytest.raises(EvaluationError, match="of type int"):
            evaluate(analog, 3)  # type: ignore[arg-type]

    def test_empty_data(self, analog: nn.Module) -> None:
        with pytest.raises(EvaluationError, match="the data hold no sample"):
            evaluate(analog, [])
        with pytest.raises(EvaluationError, match="batch 0 holds no sample"):
            evaluate(analog, [(torch.zeros(0, 1, 6, 6), torch.zeros(0).long())])

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            (torch.zeros(2, 1, 6, 6), r"batch 0 is of shape \(2, 1, 6, 6\).*\(inputs, targets\)"),
            ((torch.zeros(2, 1, 6, 6),), "batch 0 is 1 parts"),
            ((1, 2, 3), "batch 0 is 3 parts"),
        ],
    )
    def test_batches_that_are_no_pairs(self, batch: Any, message: str, analog: nn.Module) -> None:
        with pytest.raises(EvaluationError, match=message):
            evaluate(analog, [batch])

    def test_inputs_the_model_cannot_take(self, analog: nn.Module, batches: Batches) -> None:
        wrong = (torch.zeros(2, 3, 6, 6), torch.zeros(2).long())
        with pytest.raises(
            EvaluationError, match=r"fails on batch 3, inputs of shape \(2, 3, 6, 6\).*chip 0"
        ):
            evaluate(analog, [*batches, wrong])

    def test_targets_of_another_length(self, analog: nn.Module, batches: Batches) -> None:
        with pytest.raises(EvaluationError, match=r"refuses outputs of shape \(20, 5\)"):
            evaluate(analog, [(batches[0][0], batches[0][1][:3])])

    def test_a_metric_that_is_nan_names_the_chip(self, analog: nn.Module, batches: Batches) -> None:
        broken = [(x.clone(), y) for x, y in batches]
        broken[1][0][0] = torch.nan
        with pytest.raises(EvaluationError, match=r"NaN.*\(chip 0, seed \d+, at eta = 0\.1\)"):
            evaluate(analog, broken, eta=0.1)

    def test_a_clean_model(self, batches: Batches) -> None:
        with pytest.raises(ChipError, match="rewrite it with analogize"):
            evaluate(Net(), batches)

    def test_a_level_that_cannot_be_set_fails_before_the_first_chip(self, batches: Batches) -> None:
        data = Counted(batches)
        with pytest.raises(ChipError, match="no noise models"):
            evaluate(analogize(Net(), "ideal"), data, eta=[0.0, 0.1])
        assert data.given == 0

    def test_an_uncalibrated_model(self, quantized: MakeTarget, batches: Batches) -> None:
        with pytest.raises(CalibrationError, match="never calibrated"):
            evaluate(analogize(Net(), quantized()), batches)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_chips_are_the_same_on_a_gpu(linear: tuple[nn.Module, Batches]) -> None:
    model, batches = linear
    state = torch.cuda.get_rng_state()
    settings: dict[str, Any] = {"metric": squared_error, "eta": [0.0, 0.1], "instances": 5}
    here = evaluate(model, batches, **settings)
    there = evaluate(model, batches, **settings, device="cuda")
    # float32 products on two devices; TensorFloat-32 is off by default.
    np.testing.assert_allclose(here.levels[1].values, there.levels[1].values, rtol=1e-4)
    assert there.levels[0].deterministic
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert next(model.parameters()).device.type == "cpu"
    dreaming = analogize(Dreaming(), "ideal").cuda()
    images = [(torch.randn(20, 1, 6, 6), torch.randint(0, 5, (20,)))]
    first, second = (evaluate(dreaming, images, instances=3) for _ in range(2))
    assert not first.levels[0].deterministic
    assert first == second
