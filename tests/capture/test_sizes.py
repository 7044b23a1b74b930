"""A weight is the same array at every size, or an error at the other size; none is uncounted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, census, program, regions, summary
from analogize.errors import CaptureError
from analogize.targets.spec import Target

WIDTH = 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def noisy() -> Target:
    weights = {"range": {"kind": "absmax"}, "bits": 8}
    noise = [{"model": "gaussian", "eta": 0.1}]
    return Target.model_validate({"schema": 1, "name": "noisy", "weights": weights, "noise": noise})


class Weights(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, WIDTH) / 3)
        self.table = nn.Parameter(torch.randn(16, WIDTH) / 3)
        self.gate, self.experts = nn.Linear(WIDTH, 5), nn.Parameter(torch.randn(5, WIDTH, 4) / 3)
        self.register_buffer("codes", torch.randint(-127, 127, (4, WIDTH), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(4, 1) / 100)
        self.given = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.given(self, x)


def repeated(m: Any, x: Tensor) -> Tensor:
    return torch.bmm(x, m.w.t().unsqueeze(0).repeat(x.shape[0], 1, 1))


def repeated_first(m: Any, x: Tensor) -> Tensor:
    return torch.bmm(m.w.repeat(len(x), 1, 1), x.mT).mT


def repeated_then_turned(m: Any, x: Tensor) -> Tensor:
    return x @ m.w[None].repeat(len(x), 1, 1).transpose(1, 2)


def expanded_and_copied(m: Any, x: Tensor) -> Tensor:
    return torch.bmm(x, m.w.t().expand(len(x), -1, -1).contiguous())


def contracted(m: Any, x: Tensor) -> Tensor:
    return torch.einsum("btk,bnk->btn", x, m.w.repeat(len(x), 1, 1))


ANY_SIZE = [repeated, repeated_first, repeated_then_turned, expanded_and_copied, contracted]


@pytest.mark.parametrize("forward", ANY_SIZE)
def test_repeated_over_the_batch_it_is_one_array(forward: Any) -> None:
    model, x = Weights(forward).eval(), torch.randn(6, 3, WIDTH)
    ideal = analogize(model, "ideal", example_inputs=x)
    fuzzy = analogize(model, noisy(), example_inputs=x)
    assert [tuple(r.weight_shape) for r in regions(fuzzy)] == [(4, WIDTH)]
    for size, length in ((6, 3), (1, 3), (2, 5), (9, 1)):
        x = torch.randn(size, length, WIDTH)
        with torch.no_grad():
            torch.testing.assert_close(ideal(x), model(x))
            assert not torch.equal(fuzzy(x), fuzzy(x))


def cut(m: Any, x: Tensor) -> Tensor:
    return torch.einsum("btk,tk->bt", x, m.table[: x.shape[1]])


def cut_rows(m: Any, x: Tensor) -> Tensor:
    return x @ m.table[: x.shape[1]].t()


def viewed(m: Any, x: Tensor) -> Tensor:
    return x.flatten(1) @ m.table.view(-1, 1).repeat(x.shape[1], 1)[: x.shape[1] * WIDTH]


@pytest.mark.parametrize("forward", [cut_rows, viewed])
def test_cut_by_the_inputs_size_it_is_refused_at_another(forward: Any) -> None:
    model = Weights(forward).eval()
    x = torch.randn(2, 5, WIDTH)
    analog = analogize(model, noisy(), example_inputs=x)
    with torch.no_grad():
        assert not torch.equal(analog(x), analog(x))
        assert not torch.equal(analog(x[:1]), analog(x[:1]))
        with pytest.raises(CaptureError, match=r"of a product was .* on the example inputs"):
            analog(x[:, :3])


def routed(m: Any, x: Tensor) -> Tensor:
    return torch.bmm(x[:, None], m.experts[m.gate(x).argmax(-1)])[:, 0]


def gathered(m: Any, x: Tensor) -> Tensor:
    chosen = m.gate(x).argmax(-1)
    return torch.bmm(x[:, None], m.experts.index_select(0, chosen)).squeeze(1)


def quantized(m: Any, x: Tensor) -> Tensor:
    return F.linear(x, m.codes.to(x.dtype) * m.scales)


MACS = {
    routed: 7 * WIDTH * (4 + 5),
    gathered: 7 * WIDTH * (4 + 5),
    quantized: 7 * WIDTH * 4,
}


@pytest.mark.parametrize("forward", MACS)
@pytest.mark.parametrize("capture", ["auto", "hierarchical"])
def test_buffers_and_chosen_experts_are_counted(forward: Any, capture: Any) -> None:
    model, x = Weights(forward).eval(), torch.randn(7, WIDTH)
    assert census(model, x).macs == MACS[forward]
    both = {"example_inputs": x, "capture": capture}
    if capture == "hierarchical" and forward is quantized:
        with pytest.raises(CaptureError, match="only the interception sees"):
            analogize(model, "ideal", **both)
        return
    analog = analogize(model, noisy(), **both)
    report = summary(analog)
    share = 1 if capture == "auto" else 5 / 9
    assert report.converted_share == pytest.approx(share)
    assert sum(d.macs or 0 for d in report.digital) == round((1 - share) * MACS[forward])
    if capture == "auto":
        for rows in (7, 1, 3, 12):
            x = torch.randn(rows, WIDTH)
            with torch.no_grad():
                assert not torch.equal(analog(x), analog(x))
                assert analog(x).shape == model(x).shape


def test_attention_between_activations_is_still_not_counted() -> None:
    def looked_up(m: Any, x: Tensor) -> Tensor:
        rows = m.table[x[..., 0].long().abs().clamp(max=15)]
        return rows @ rows.mT @ F.embedding(x[..., 0].long().abs().clamp(max=15), m.table)

    assert census(Weights(looked_up), torch.randn(2, 5, WIDTH)).macs == 0


class Experts(nn.Module):
    """Experts that a Python number chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.stacked, self.second = nn.Parameter(torch.randn(6, 4, 4)), nn.Parameter(torch.eye(4))
        self.listed = nn.ParameterList(nn.Parameter(torch.randn(4, 4)) for _ in range(2))

    def forward(self, x: Tensor, chosen: int = 0) -> Tensor:
        x = nn.functional.linear(x, self.stacked[chosen]) @ self.second
        return nn.functional.linear(x, self.listed[chosen % 2])


@pytest.mark.filterwarnings("ignore")
def test_experts_that_the_example_did_not_choose_are_told() -> None:
    x = torch.randn(3, 4)
    analog = analogize(Experts().eval(), "paper_resnet32", example_inputs=x)

    def told() -> dict[str, str]:
        return {d.name: d.reason for d in summary(analog).digital}

    unreached = "the example inputs do not reach it"
    assert told() == {"stacked[1, 2, 3, ...]": unreached, "listed.1": unreached}
    analog(x, 0)
    assert len(told()) == 2
    analog(x, 3)
    analog(x, 3)
    assert list(told()) == ["stacked[1, 2, 3, ...]", "__getitem__(stacked, 3)", "listed.1"]
    assert "it runs" in told()["__getitem__(stacked, 3)"]
    assert "it runs" in told()["listed.1"]
    whole = nn.Sequential(nn.Linear(4, 4), analog)
    assert "1.__getitem__(stacked, 3)" in {d.name for d in summary(whole).digital}
    assert (
        "it runs" in {d.name: d.reason for d in summary(copy.deepcopy(analog)).digital}["listed.1"]
    )


class Padded(nn.Module):
    """A padding that the input decides, as in a decoder's first and later steps."""

    def __init__(self, normal: bool = False, transposed: bool = False) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(1, 1, 3))
        self.normal, self.transposed = normal, transposed

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel / self.kernel.abs().sum() if self.normal else self.kernel
        if self.transposed and len(x) == 2:
            return F.conv_transpose1d(x, kernel)
        return F.conv1d(x, kernel, padding=len(x) % 2)


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("target", [noisy(), "pcm_4bit"], ids=["noisy", "pcm_4bit"])
def test_another_padding_than_the_examples_reads_the_same_array(
    normal: bool, target: str | Target
) -> None:
    """What a padded convolution gives inside is what one without padding gives."""
    x = torch.randn(3, 1, 9)
    analog = analogize(Padded(normal), target, [x], example_inputs=x).eval()
    program(analog, 0)
    torch.testing.assert_close(analog(x[:2]), analog(x)[:2, :, 1:-1])
    # On the chip, not on the weights: digitally they would be alike in nothing but the mean.
    digital = F.conv1d(x[:2], analog.kernel / (analog.kernel.abs().sum() if normal else 1))
    assert (analog(x[:2]) - digital).abs().max() > 1e-3
    assert not summary(analog).digital


def test_a_product_that_needs_another_array_is_refused_by_name() -> None:
    x = torch.randn(3, 1, 5)
    analog = analogize(Padded(normal=True, transposed=True), noisy(), example_inputs=x)
    assert analog(x).shape == (3, 1, 5)
    with pytest.raises(CaptureError, match=r"conv_transpose1d.* here and was .*padding=\(1,\)"):
        analog(x[:2])
