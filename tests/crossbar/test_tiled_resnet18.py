"""A tiled ResNet-18 equals the untiled one where the ADC takes nothing away."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import resnet18

from analogize import analogize, program
from analogize.crossbar.ops import operators
from analogize.devices.tiles import Piece, pieces
from analogize.targets import load_target
from analogize.targets.spec import Target

ROWS = 128


@pytest.fixture(scope="module")
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 32)


@pytest.fixture(scope="module")
def net(x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = resnet18(num_classes=10).train()
    with torch.no_grad():
        for _ in range(5):  # BatchNorm statistics that keep activations at one scale
            model(torch.randn(16, 3, 32, 32))
    return model.eval()


def target(bits: int | None, adc: dict[str, Any], tiling: bool) -> Target:
    return Target.model_validate(
        {
            "name": "tiles",
            "weights": {"range": {"kind": "absmax"}, "bits": bits, "grid": "symmetric"},
            "dac": {"bits": bits},
            "adc": adc,
            "array": {"rows": ROWS, "cols": ROWS, "tiling": tiling},
        }
    )


@dataclass(frozen=True)
class Cut:
    """A product as the sum of its tiles' partial sums, one after the other, without an ADC."""

    whole: Any
    parts: tuple[Piece, ...]

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        first, *rest = (p.product.forward(p.inputs(x), p.weights(w)) for p in self.parts)
        return sum(rest, start=first)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


def cut_by_force(model: nn.Module) -> int:
    """Replace every product by the sum over its tiles; how many partial sums there are now."""
    count = 0
    for op in operators(model):
        parts = pieces(op.product, op.array.shape, ROWS)
        op.product = Cut(op.product, parts)  # type: ignore[assignment]
        count += len(parts)
    return count


def test_codes_through_an_adc_that_loses_nothing(net: nn.Module, x: Tensor) -> None:
    """Four bits: 128 rows x 7 x 15 = 13440 fits 16 bits with a step of one unit.

    Sums are whole numbers below 4608 x 7 x 15 = 483 840 < 2^24, so float32 holds each exactly in
    any order, and the outputs are equal bit for bit.
    """
    lossless = {"bits": 16, "range": {"kind": "full"}}
    tiled = analogize(net, target(4, lossless, tiling=True), [x]).eval()
    whole = analogize(net, target(4, {}, tiling=False), [x]).eval()

    cut = [op for op in operators(tiled) if op.tiles is not None]
    assert len(cut) == 19, "all 21 but two convolutions of 1 x 1 over 64 and 128 channels"
    assert sum(len(op.tiles.pieces) for op in cut if op.tiles is not None) > 150
    with torch.no_grad():
        assert tiled(x).equal(whole(x))


def test_8_bit_codes_cut_by_force(net: nn.Module, x: Tensor) -> None:
    """Without an ADC; sums stay below 2^24, so they too are exact in any order."""
    given = target(8, {}, tiling=True)
    tiled, whole = (analogize(net, given, [x]).eval() for _ in range(2))
    assert not any(op.tiles for op in operators(tiled)), "without ADC bits nothing is cut"
    assert cut_by_force(tiled) > 150
    with torch.no_grad():
        assert tiled(x).equal(whole(x))


def test_a_chip_of_devices_cut_by_force(net: nn.Module, x: Tensor) -> None:
    """Without codes each sum of K terms is rounded in another order.

    A sum of K terms in float32 is off by sqrt(K) 2^-24 of its terms' scale at random, K <= 4608:
    4e-6. Twenty layers, whose BatchNorms rescale, leave it below 1e-4 of the largest logit.
    """
    device = load_target("pcm_joshi2020")
    bare = target(None, {}, tiling=True)
    given = bare.model_copy(update={"noise": device.noise, "conductance": device.conductance})
    tiled, whole = (analogize(net, given, [x]).eval() for _ in range(2))
    assert cut_by_force(tiled) > 150
    with torch.no_grad():
        program(tiled, 0)
        program(whole, 0)
        y, expected = tiled(x), whole(x)
    assert_close(y, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert not y.equal(expected), "the tiles are really cut"
