"""A chip is used with the very weights it was programmed from, or not at all."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analogize import Target, analogize, distill, noise_mode, program
from analogize.crossbar.ops import operators
from analogize.errors import ChipError
from analogize.model.stored import StoredWeight

TARGET = Target.model_validate(
    {
        "name": "t",
        "weights": {"bits": 8, "range": {"kind": "fixed", "min": -2.0, "max": 2.0}},
        "noise": [{"model": "gaussian", "eta": 0.05}],
    }
)
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    return model


def fresh(target: Target | str = "pcm_joshi2020") -> nn.Module:
    model = analogize(nn.Linear(8, 8, bias=False), target, [X]).eval()
    program(model, 0)
    model(X)
    return model


def _write(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("weight").mul_(-1)


def _write_one(model: nn.Module) -> None:
    model.get_parameter("weight").data[3, 2] += 1e-3


def _write_through_numpy(model: nn.Module) -> None:
    model.get_parameter("weight").detach().numpy()[0] *= 2


def _replace(model: nn.Module) -> None:
    model.weight = nn.Parameter(2 * model.get_parameter("weight").detach())


def _swap_two_rows(model: nn.Module) -> None:
    weight = model.get_parameter("weight")
    weight.data = weight.data[[1, 0, *range(2, 8)]]


def _optimize(model: nn.Module) -> None:
    weight = model.get_parameter("weight")
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.1).step()


def _halve(model: nn.Module) -> None:
    model.half().float()


def _pretend(model: nn.Module) -> None:
    """Another tensor of the same place and count of writes."""
    weight = model.get_parameter("weight")
    with torch.no_grad():
        weight.data.copy_(torch.flip(weight, [0]))


@pytest.mark.parametrize(
    "change",
    [
        _write,
        _write_one,
        _write_through_numpy,
        _replace,
        _swap_two_rows,
        _optimize,
        _halve,
        _pretend,
    ],
)
@pytest.mark.parametrize(
    "before",
    [
        lambda m: m,
        lambda m: m.to("cpu"),
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: m.train().eval(),
    ],
    ids=["", "to", "deepcopy", "pickle", "train"],
)
def test_every_change_of_the_weights_is_noticed(
    change: Callable[[nn.Module], None], before: Callable[[nn.Module], nn.Module]
) -> None:
    model = before(fresh())
    change(model)
    with pytest.raises(ChipError, match=r"region 'weight'.*changed after.*program\(model"):
        model(X)
    program(model, 0)
    model(X)


def test_a_cast_of_the_chip_alone_is_noticed() -> None:
    """The weights come back from half precision as they were; a chip's deviations do not."""
    layer = nn.Linear(8, 8)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(64.0).view(8, 8) / 64)
    model = analogize(layer, TARGET).eval()
    program(model, 0)
    model.half().float()
    assert model.get_parameter("weight").equal(torch.arange(64.0).view(8, 8) / 64)
    with pytest.raises(ChipError, match=r"changed after.*from torch.float32 to torch.float16"):
        model(X)


def test_what_changes_no_weight_keeps_the_chip() -> None:
    model = fresh()
    chip = model(X)
    model.train()
    model.eval().to("cpu").float()
    model.weight = nn.Parameter(model.get_parameter("weight").detach().clone())
    model = copy.deepcopy(model)
    with torch.inference_mode():
        assert torch.equal(model(X), chip)
    assert torch.equal(nn.Sequential(model)(X), chip)


def test_loading_erases_the_chip_also_where_it_assigns() -> None:
    for assign in (False, True):
        model = fresh()
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=assign)
        assert operators(model)[0].array.chip is None


def test_distilling_erases_the_students_chip() -> None:
    model = fresh("paper_resnet32")
    data = [(X, torch.zeros(5, dtype=torch.long))]
    quiet: Any = {"accelerator": "cpu", "enable_progress_bar": False}
    distill(model, None, data, epochs=1, alpha=0.0, **quiet)
    assert operators(model)[0].array.chip is None


def test_a_large_array_meets_few_inputs() -> None:
    """Its contents are then read in parts: what is written all over is noticed at once."""
    linear = nn.Linear(2**11, 2**12, bias=False)
    model = analogize(linear, TARGET, example_inputs=torch.zeros(1, 2**11)).eval()
    weight = model.get_parameter("weight")
    x = torch.randn(1, 2**11)
    program(model, 0)
    for _ in range(3):
        model(x)
    weight.data[5, 7] += 1
    with pytest.raises(ChipError, match="changed after"):
        model(x.expand(16, -1))
    with pytest.raises(ChipError, match="changed after"):
        [model(x) for _ in range(16)]
    program(model, 0)
    weight.data.mul_(-1)
    with pytest.raises(ChipError, match="changed after"):
        model(x)
    program(model, 0)
    with torch.no_grad():
        weight[5, 7] += 1
    with pytest.raises(ChipError, match="changed after"):
        model(x)


def test_a_chip_that_fails_halfway_is_none() -> None:
    class Fails(StoredWeight):
        def value(self) -> Tensor:
            raise RuntimeError("gone")

    model = analogize(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)), TARGET).eval()
    program(model, 0)
    last = operators(model)[1]
    last.stored = Fails(model, last.region.weight)
    with pytest.raises(RuntimeError, match="gone"):
        program(model, 1)
    assert all(op.array.chip is None for op in operators(model))


def test_untied_weights_do_not_share_a_chip() -> None:
    model = analogize(tied(), TARGET).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["2.weight"] += 1
    model.load_state_dict(state, assign=True)
    with pytest.raises(ChipError, match=r"'0' and '2' share one array.*tied.*assign=True"):
        program(model, 0)


def test_programming_in_train_mode_says_so() -> None:
    model = analogize(nn.Linear(8, 8), "paper_resnet32")
    with pytest.warns(UserWarning, match=r"train mode.*model\.eval\(\)"):
        program(model, 0)
    for block in (noise_mode(model, "programmed"), noise_mode(model.eval(), "programmed")):
        with warnings.catch_warnings(), block:
            warnings.simplefilter("error")
            program(model.train(), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program(model.eval(), 0)


@pytest.mark.parametrize("seed", [3, np.int64(3), np.array(3), torch.tensor(3)])
def test_a_seed_is_an_integer_whatever_holds_it(seed: Any) -> None:
    model = analogize(nn.Linear(8, 8), TARGET).eval()
    program(model, 3)
    expected = model(X)
    program(model, seed)
    assert torch.equal(model(X), expected)


@pytest.mark.parametrize("seed", [3.0, None, 1.5, "3", np.float32(3), [3]])
def test_any_other_seed_is_refused(seed: Any) -> None:
    model = analogize(nn.Linear(8, 8), TARGET).eval()
    with pytest.raises(ChipError, match=r"seed .* give an integer"):
        program(model, seed)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("outer", [False, True])
def test_compiled_code_notices_changed_weights(outer: bool, backend: str) -> None:
    if backend == "inductor" and outer:
        pytest.skip("compiling takes long, and the other case shows it")
    part = analogize(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), TARGET).eval()
    program(part, 0)
    whole = nn.Sequential(nn.Linear(8, 8), part).eval() if outer else part
    compiled = torch.compile(whole, backend=backend, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), whole(X))
        before = part[0].weight.detach().clone()
        part[0].weight.data.mul_(1.5)
        with pytest.raises(ChipError, match="weights changed"):
            compiled(X)
        part[0].weight.data.copy_(before)
        compiled(X)
        part[0].weight.data.mul_(1.5)
        program(part, 1)
        torch.testing.assert_close(compiled(X), whole(X))
        other = copy.deepcopy(part)
        torch.compile(other, backend="eager")(X)
        other[0].weight.data.mul_(2)
        compiled(X)
        with pytest.raises(ChipError, match="weights changed"):
            torch.compile(other, backend="eager")(X)


def test_an_array_that_a_pass_uses_again_tells_of_counted_writes_in_between() -> None:
    model = tied()
    analog = analogize(model, TARGET, example_inputs=X).eval()
    program(analog, 0)
    expected = analog(X)
    spoiled = False

    def spoil(module: nn.Module, args: Any, y: Tensor) -> None:
        if spoiled:
            with torch.no_grad():
                next(analog.parameters()).mul_(1.5)

    analog[1].register_forward_hook(spoil)  # type: ignore[index]
    assert torch.equal(analog(X), expected)
    spoiled = True
    with pytest.raises(ChipError, match="in their values"):
        analog(X)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layers_chip_is_of_its_weights(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 8)
    analog = analogize(kind(8, 5, batch_first=True).eval(), TARGET, example_inputs=x).eval()
    program(analog, 0)
    expected = analog(x)[0]
    assert torch.equal(analog(x)[0], expected)
    # What no counter tells of, before the next pass.
    analog.weight_hh_l0.data.mul_(1.5)  # type: ignore[operator, union-attr]
    with pytest.raises(ChipError, match="in their values"):
        analog(x)
    program(analog, 0)
    assert not torch.equal(analog(x)[0], expected)
