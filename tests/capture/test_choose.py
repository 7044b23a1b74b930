"""Every front end computes what the original computes, and misses no product."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import wrap_torch_function

from analogize import analogize, program, regions, summary
from analogize.capture import composites as operators
from analogize.capture import intercept
from analogize.errors import CaptureError
from analogize.model.counting import census
from analogize.passes.verify import require_equal
from analogize.targets.spec import Converter, FixedRange, Target


class Experts(nn.Module):
    """A mixture of experts whose matrices are 3-D parameters, chosen at run time."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 6, 5))
        self.down = nn.Parameter(torch.randn(4, 5, 6))
        self.router = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(-1)
        out = torch.zeros_like(x)
        for expert in chosen.unique():
            rows = (chosen == expert).nonzero()[:, 0]
            out[rows] = F.relu(F.linear(x[rows], self.up[expert])) @ self.down[expert].T
        return out


class Functional(nn.Module):
    """Products on parameters through views and arithmetic, behind a branch on values."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(5, 2, 3))
        self.b = nn.Parameter(torch.randn(3, 4))
        self.c = nn.Parameter(torch.randn(2, 6, 4, 4))
        self.kernel = nn.Parameter(torch.randn(8, 4, 3))
        self.pair = nn.Bilinear(4, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.einsum("btd,dnh->bnth", x, self.a)
        y = torch.tensordot(heads, self.b * 2, ([3], [0]))
        if y.sum() > 1e9:
            return y
        first, second = self.c[0].chunk(2)
        y = torch.baddbmm(y[:, 0], y[:, 1], first[:1].expand(len(y), 4, 4))
        y = y @ second[0].mT + torch.addmm(self.b[0], y[0], second[1])
        kernel = (self.kernel - self.kernel.mean()) / self.kernel.std()
        y = F.conv1d(y.mT, kernel, padding="same").unflatten(1, (2, 4)).sum(1).mT
        return self.pair(y, y)


class Grouped(nn.Module):
    """A mixture of experts as one grouped product: rows sorted by expert."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([2, 2, 7], dtype=torch.int32)
        y: Tensor = F.grouped_mm(x, self.up, offs=ends)
        return y


class LastState(nn.Module):
    """A recurrent layer behind one that a graph would show: its own kernel counts no operations."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(5, 5)
        self.rnn = nn.LSTM(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(self.before(x))[0]
        return y[-1]


class Packed(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(5, 4, num_layers=2, bidirectional=True, **options)

    def forward(self, x: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, [3, 2], enforce_sorted=False)
        output, state = self.rnn(packed)
        return nn.utils.rnn.pad_packed_sequence(output)[0], state


SEQUENCE = (3, 2, 5)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "lstm": (lambda: nn.LSTM(5, 4, 2, bidirectional=True, proj_size=3), (SEQUENCE,)),
    "lstm batch first": (lambda: nn.LSTM(5, 4, batch_first=True), (SEQUENCE,)),
    "gru": (lambda: nn.GRU(5, 4, 2, bidirectional=True), (SEQUENCE,)),
    "rnn": (lambda: nn.RNN(5, 4, 2, nonlinearity="relu", bias=False), (SEQUENCE,)),
    "packed lstm": (lambda: Packed(nn.LSTM), (SEQUENCE,)),
    "packed gru": (lambda: Packed(nn.GRU), (SEQUENCE,)),
    "lstm cell": (lambda: nn.LSTMCell(5, 4), ((2, 5),)),
    "gru cell": (lambda: nn.GRUCell(5, 4), ((2, 5),)),
    "attention": (lambda: nn.MultiheadAttention(6, 2), ((3, 2, 6),) * 3),
    "attention of other sizes": (
        lambda: nn.MultiheadAttention(6, 2, kdim=4, vdim=5, batch_first=True),
        ((2, 3, 6), (2, 4, 4), (2, 4, 5)),
    ),
    "transformer": (lambda: nn.Transformer(6, 2, 2, 2, 8), ((3, 2, 6), (4, 2, 6))),
    "experts": (Experts, ((7, 5),)),
    "grouped experts": (Grouped, ((7, 16),)),
    "lstm behind a traced layer": (LastState, (SEQUENCE,)),
    "functional": (Functional, (SEQUENCE,)),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3))),
        ((2, 3, 9),),
    ),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.filterwarnings("ignore:LSTM with projections", "ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", MODELS)
def test_computes_the_original_and_converts_everything(name: str) -> None:
    make, shapes = MODELS[name]
    model = make().eval()
    inputs = tuple(torch.randn(s) for s in shapes)
    analog = analogize(model, "ideal", example_inputs=inputs)
    assert summary(analog).converted_share == 1
    assert census(analog, inputs).macs == census(model, inputs).macs
    other = tuple(torch.randn(s) for s in shapes)
    with torch.no_grad():
        require_equal(analog(*other), model(*other))
        require_equal(copy.deepcopy(analog)(*other), model(*other))
    assert set(model.state_dict()) <= set(analog.state_dict())


@pytest.mark.filterwarnings("ignore:LSTM with projections", "ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", [n for n in MODELS if n != "lstm cell"])
def test_chips_differ_and_repeat(name: str) -> None:
    make, shapes = MODELS[name]
    inputs = tuple(torch.randn(s) for s in shapes)
    analog = analogize(make().eval(), noisy(), example_inputs=inputs)
    outputs = []
    for seed in (0, 0, 1):
        program(analog, seed)
        with torch.no_grad():
            output = analog(*inputs)
        outputs.append(output[0] if isinstance(output, tuple) else output)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def noisy() -> Target:
    return Target.model_validate(
        {
            "schema": 1,
            "name": "noisy",
            "weights": {"range": {"kind": "absmax"}, "bits": 8},
            "noise": [{"model": "gaussian", "eta": 0.1}],
        }
    )


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_the_fused_transformer_layer_is_defeated() -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    two_bits = Converter(bits=2, range=FixedRange(min=-2.0, max=2.0))
    x = torch.randn(2, 3, 6)
    analog = analogize(model, Target(name="coarse", dac=two_bits), example_inputs=x)
    with torch.no_grad():
        assert not torch.allclose(analog(x), model(x), atol=1e-2)


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.norm(self.first(x)), 0.5, training=self.training)
        return self.last(x * 2) if self.training else self.last(x)


def test_training_and_evaluation_behave_as_in_the_original() -> None:
    model = Dropped()
    x = torch.randn(8, 5)
    analog = analogize(model, "ideal", example_inputs=x)
    assert isinstance(analog, Dropped)
    assert summary(analog).converted_share == 1
    for train in (True, False, True):
        results = []
        for each in (model, analog):
            torch.manual_seed(1)
            each.zero_grad()
            each.train(train)(x).sum().backward()
            results.append([each.first.weight.grad, each.norm.running_mean.clone()])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


def test_hooks_and_pickles_survive() -> None:
    model = Dropped().eval()
    seen: list[int] = []
    model.first.register_forward_hook(lambda *_: seen.append(1))
    analog = analogize(model, "ideal", example_inputs=torch.randn(2, 5))
    seen.clear()
    analog(torch.randn(2, 5))
    assert seen == [1]
    analog.first._forward_hooks.clear()
    loaded = pickle.loads(pickle.dumps(analog))
    x = torch.randn(2, 5)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)


def test_front_ends_by_name() -> None:
    model, x = Dropped(), torch.randn(2, 5)
    with pytest.raises(CaptureError, match="differs between train"):
        analogize(model, "ideal", example_inputs=x, capture="fx")
    analog = analogize(model, "ideal", example_inputs=x, capture="hierarchical")
    assert summary(analog).converted_share == 1
    with pytest.raises(CaptureError, match="capture='magic' is unknown"):
        analogize(model, "ideal", capture="magic")  # type: ignore[arg-type]


def test_hierarchical_alone_reports_direct_uses() -> None:
    x = torch.randn(7, 5)
    analog = analogize(Experts(), "ideal", example_inputs=x, capture="hierarchical")
    report = summary(analog)
    assert report.converted_share is not None
    assert report.converted_share < 1
    assert {"up", "down"} <= {d.name for d in report.digital}


def said(analog: nn.Module) -> str:
    return " ".join(str(summary(analog)).split())


def test_the_summary_says_which_front_end_was_taken_and_why() -> None:
    analog = analogize(Dropped(), "ideal", example_inputs=torch.randn(2, 5))
    assert "captured by hierarchical; not by fx: a graph would freeze" in said(analog)
    direct = analogize(Experts(), "ideal", example_inputs=torch.randn(7, 5))
    assert "not by hierarchical: its Python uses weights directly" in said(direct)
    asked = analogize(nn.Sequential(nn.Linear(5, 2)), "ideal", capture="fx")
    assert "captured by fx" in said(asked)


@wrap_torch_function(lambda x, w: (x, w))
def scaled_product(x: Tensor, w: Tensor) -> Tensor:
    """Somebody's own operator, of which torch knows nothing."""
    return 2 * torch.from_numpy(x.numpy() @ w.detach().numpy())


class OwnOperator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, 3))
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(scaled_product(x, self.w))


def test_anyones_operator_can_be_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = OwnOperator(), torch.randn(4, 5)
    monkeypatch.setattr(operators, "RULES", operators.RULES.copy())
    assert [r.name for r in regions(analogize(model, "ideal", example_inputs=x))] == ["last"]
    operators.RULES[scaled_product] = lambda stored, x, w: F.linear(x, 2 * w.t())
    monkeypatch.setattr(intercept, "RULES", operators.RULES)
    analog = analogize(model, "ideal", example_inputs=x, capture="intercept")
    assert [r.name for r in regions(analog)] == ["w", "last"]
    torch.testing.assert_close(analog(x), model(x))
