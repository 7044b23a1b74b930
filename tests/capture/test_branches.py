"""What a model's Python does that one example does not show, and a graph would not repeat."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, census, noise_mode, program, summary
from analogize.capture.capture import capture
from analogize.errors import CaptureError
from analogize.passes.verify import require_equal
from analogize.targets.spec import Target


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Model(nn.Module):
    """Two layers, a matrix and a buffer, and a forward that each test gives."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.w, self.v = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3, 3))
        self.register_buffer("seen", torch.ones(3))
        self.last: Any = None
        self.given = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.given(self, *args, **kwargs)


def make(forward: Callable[..., Any]) -> Model:
    """The model with ``forward`` as its own, so that its signature is seen."""
    kind = type("Made", (Model,), {"forward": forward})
    made: Model = kind(forward)
    return made.eval()


def coarse() -> Target:
    weights = {"range": {"kind": "absmax"}, "bits": 3}
    return Target.model_validate({"schema": 1, "name": "coarse", "weights": weights})


def by_shape(self: Model, x: Tensor) -> Any:
    return self.a(x) if len(x) < 3 else self.b(x)


def by_value(self: Model, x: Tensor) -> Any:
    return self.a(x) @ self.w if x.sum() > 0 else self.b(x) @ self.v


def by_kind(self: Model, x: Any) -> Any:
    return self.a(x * 2) if isinstance(x, list) else self.b(x)


def by_none(self: Model, x: Tensor, mask: Tensor | None) -> Any:
    return self.a(x) if mask is None else self.b(x) * mask


@pytest.mark.parametrize("name", ["auto", "hierarchical", "intercept"])
@pytest.mark.parametrize("forward", [by_shape, by_value])
def test_a_branch_that_the_example_did_not_take(
    forward: Any, name: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(forward)
    taken, other = torch.rand(2, 3), -torch.rand(5, 3)
    analog = analogize(model, coarse(), example_inputs=taken, capture=name)
    assert not torch.allclose(analog(taken), model(taken), atol=1e-3)
    torch.testing.assert_close(analog(other), model(other))
    digital = {d.name: d.reason for d in summary(analog).digital}
    assert digital["b"] == "the example inputs do not reach it"
    if forward is by_value and name != "hierarchical":
        assert digital["v"] == "the example inputs do not reach it"
        assert "a product with 't(v)' runs digitally" in caplog.text
    elif forward is by_value:
        assert "directly" in digital["w"]


@pytest.mark.parametrize("forward", [by_shape, by_value])
def test_a_graph_cannot_be_made_of_it(forward: Any) -> None:
    with pytest.raises(CaptureError, match="cannot be traced by torch"):
        analogize(make(forward), "ideal", example_inputs=torch.rand(2, 3), capture="fx")


def test_a_graph_refuses_arguments_of_another_kind() -> None:
    x = torch.rand(2, 3)
    model = make(by_kind)
    analog = analogize(model, "ideal", example_inputs=x, capture="fx")
    torch.testing.assert_close(analog(x), model(x))
    with pytest.raises(CaptureError, match="argument 'x' was a Tensor when the model was captured"):
        analog([x])
    masked = make(by_none)
    for example, other in (((x, None), (x, x)), ((x, x), (x, None))):
        analog = analogize(masked, "ideal", example_inputs=example, capture="fx")
        torch.testing.assert_close(analog(*example), masked(*example))
        with pytest.raises(CaptureError, match="argument 'mask' was"):
            analog(*other)
        kept = analogize(masked, "ideal", example_inputs=example, capture="hierarchical")
        torch.testing.assert_close(kept(*other), masked(*other))


def averages(self: Model, x: Tensor) -> Any:
    y = self.a(x)
    self.seen.mul_(0.9).add_(y.detach().mean(0))
    return y


def counts(self: Model, x: Tensor) -> Any:
    self.seen += 1
    return self.a(x)


def remembers(self: Model, x: Tensor) -> Any:
    self.last = self.a(x)
    return self.last * 2


def draws_python(self: Model, x: Tensor) -> Any:
    return self.a(x) * random.random()


def draws_torch(self: Model, x: Tensor) -> Any:
    return self.a(x) + torch.rand(3)


def makes_a_constant(self: Model, x: Tensor) -> Any:
    return self.a(x) + torch.tensor([1.0, 2.0, 3.0])


def writes_unseen(self: Model, x: Tensor) -> Any:
    y = x + 0
    y.mul_(2)
    return self.a(y)


SIDE_EFFECTS = {
    averages: "writes into 'seen'",
    counts: "sets 'seen'",
    remembers: "sets 'last'",
    draws_python: "draws from Python's random",
    draws_torch: "makes a tensor of shape",
    makes_a_constant: "makes a tensor of shape",
    writes_unseen: "writes in place and nobody uses its result",
}


@pytest.mark.parametrize("forward", SIDE_EFFECTS)
@pytest.mark.parametrize("inplace", [False, True])
def test_side_effects_happen_in_every_call_and_in_no_trace(forward: Any, inplace: bool) -> None:
    model, twin, x = make(forward), make(forward), torch.rand(2, 3)
    twin.load_state_dict(model.state_dict())
    with pytest.raises(CaptureError, match=SIDE_EFFECTS[forward]):
        capture(model)
    random.seed(0)
    state, drawn = torch.get_rng_state(), random.getstate()
    kind = "hierarchical" if forward in (draws_python, draws_torch) else "auto"
    if kind == "auto":
        analog = analogize(model, "ideal", example_inputs=x, inplace=inplace)
        assert torch.equal(torch.get_rng_state(), state)
        assert summary(analog).capture in ("hierarchical", "intercept")
    else:
        with pytest.raises(CaptureError, match=SIDE_EFFECTS[forward]):
            capture(model)
        assert random.getstate() == drawn
        return
    assert torch.equal(analog.seen, torch.ones(3))
    assert torch.equal(model.seen, torch.ones(3))
    assert model.last is None or forward is remembers
    for _ in range(2):
        torch.testing.assert_close(analog(x), twin(x))
    assert torch.equal(analog.seen, twin.seen)


def overwrites(self: Model, x: Tensor) -> Any:
    w = self.w.clone()
    w.mul_(2)
    w += self.v
    return F.linear(x, w)


def overwrites_beneath_a_view(self: Model, x: Tensor) -> Any:
    w = self.w.clone()
    rows = w[:2]
    w.mul_(2)
    return self.a(x)[:, :2] + F.linear(x, rows)


def test_weights_that_are_written_over() -> None:
    x = torch.rand(2, 3)
    model = make(overwrites)
    analog = analogize(model, coarse(), example_inputs=x)
    assert summary(analog).converted_share == 1
    program(analog, 0)
    w = (model.w * 2 + model.v).detach()
    step = float(2 * w.abs().max() / 7)
    codes = (w / step).round().clamp(-4, 3)
    torch.testing.assert_close(analog(x), F.linear(x, codes * step))
    # What is beneath a view changed: nobody knows the view any more, and it says so.
    model = make(overwrites_beneath_a_view)
    analog = analogize(model, "ideal", example_inputs=x)
    report = summary(analog)
    assert report.converted_share == pytest.approx(18 / 30)
    assert any("no front end reached the weight" in d.reason for d in report.digital)


def test_without_an_example_it_says_what_it_cannot_know() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.last = nn.MultiheadAttention(4, 2), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x
            y: Tensor = self.last(self.attention(x, x, x)[0])
            return y

    report = summary(analogize(Attends(), "ideal"))
    assert [r.region.name for r in report.rows] == ["last"]
    assert [d.name for d in report.digital] == ["attention"]
    assert "example_inputs are needed" in report.digital[0].reason
    with pytest.raises(CaptureError, match=r"capture='intercept'.*pass example_inputs"):
        analogize(Attends(), "ideal", capture="intercept")


def test_results_are_compared_where_they_hide() -> None:
    nan = torch.tensor([1.0, float("nan")])
    require_equal({"a": (nan, None)}, {"a": (nan.clone(), None)})
    for wrong in (torch.tensor([1.0, 1.0]), torch.tensor([1.0, float("inf")]), nan.double()):
        with pytest.raises(Exception, match=r"output 0"):
            require_equal([nan], [wrong])
        with pytest.raises(Exception, match=r"output 0"):
            require_equal([wrong], [nan])


def test_the_census_leaves_the_model_as_it_is() -> None:
    model = make(averages)
    assert census(model, torch.rand(2, 3)).macs == 18
    assert torch.equal(model.seen, torch.ones(3))
    with noise_mode(analogize(model, "ideal", example_inputs=torch.rand(2, 3)), "off"):
        assert torch.equal(model.seen, torch.ones(3))


class Positions(nn.Module):
    """An embedding that looks up what is stored, beside a weight that Python multiplies by."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.head = nn.Embedding(8, 4), nn.Linear(4, 2)
        self.kernel = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("numbers", torch.arange(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        placed = x + self.places(self.numbers[: x.shape[1]])
        y: Tensor = self.head(F.linear(placed, self.kernel))
        return y


def test_an_embedding_of_stored_numbers_stays_an_embedding() -> None:
    model, x = Positions(), torch.randn(2, 5, 4)
    analog = analogize(model, "ideal", example_inputs=x)
    torch.testing.assert_close(analog(x), model(x))
    torch.testing.assert_close(analog(x[:, :3]), model(x[:, :3]))
    assert not summary(analog).digital
