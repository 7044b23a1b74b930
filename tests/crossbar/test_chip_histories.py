"""Whatever is done to a model, in any order, a chip is of its weights, or there is none."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import AveragedModel

from analogize import Target, analogize, erase, noise_mode, program
from analogize.errors import ChipError

TARGET = Target.model_validate(
    {
        "name": "t",
        "weights": {"bits": 8, "range": {"kind": "fixed", "min": -2.0, "max": 2.0}},
        "noise": [{"model": "gaussian", "eta": 0.05}],
    }
)
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))


class Functional(nn.Module):
    """A weight of its own, used twice, and one that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(nn.functional.linear(x, self.w), self.w)
        return nn.functional.linear(x, torch.cat([self.v, 2 * self.v]))


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.unflatten(1, (1, 2, 4)).repeat(1, 1, 2, 2))
        return self.fc(y.relu().flatten(1)[:, :24])  # type: ignore[no-any-return]


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "layers": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)), "auto"),
    "kept": (lambda: nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)), "hierarchical"),
    "tied": (tied, "auto"),
    "image": (Image, "auto"),
    "functional": (Functional, "intercept"),
    "weight norm": (lambda: nn.Sequential(weight_norm(nn.Linear(8, 8))), "auto"),
}


class Nest(nn.Module):
    """A bigger module, whose digital layer has the name of an analog one inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.add_module("0", nn.Linear(8, 8))
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.get_submodule("0")(x))  # type: ignore[no-any-return]


class History:
    """A model that steps are done to, and what its chip was programmed as."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        make, capture = MODELS[kind]
        options: Any = {"capture": capture}
        self.model = analogize(make(), TARGET, example_inputs=X, **options).eval()
        self.depth, self.programmed = 0, (0, 0)

    def program(self, seed: int) -> None:
        training = self.model.training
        try:
            program(self.model.eval(), seed)
        except ChipError as error:
            # Loading with assign=True unties, as torch has it.
            if "were tied" not in str(error):
                raise
        self.model.train(training)
        self.programmed = (self.depth, seed)

    def step(self, seed: int) -> None:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.5)
        for p in self.model.parameters():
            p.grad = torch.randn_like(p) * (seed % 2)
        optimizer.step()

    def write_data(self, seed: int) -> None:
        chosen = list(self.model.parameters())
        parameter = chosen[seed % len(chosen)]
        if seed % 3 == 0:
            parameter.data.neg_()
        elif seed % 3 == 1:
            parameter.data.view(-1)[seed % parameter.numel()] += 0.5
        else:
            parameter.data = parameter.data + 0.25

    def write_numpy(self, seed: int) -> None:
        parameter = next(self.model.parameters())
        parameter.detach().numpy()[...] *= np.float32(1 + seed % 2)

    def load(self, seed: int) -> None:
        state = {k: v.clone() for k, v in self.model.state_dict().items()}
        for key, value in state.items():
            if seed % 2 and value.is_floating_point() and "range" not in key:
                value += 0.125
        self.model.load_state_dict(state, assign=seed % 3 == 0)

    def to(self, seed: int) -> None:
        self.model.to("cpu", torch.float64 if seed % 3 == 0 else torch.float32)

    def deepcopy(self, seed: int) -> None:
        self.model = copy.deepcopy(self.model)

    def pickle(self, seed: int) -> None:
        if any(map(is_parametrized, self.model.modules())):
            return  # torch itself refuses
        stream = io.BytesIO()
        torch.save(self.model, stream)
        stream.seek(0)
        self.model = torch.load(stream, weights_only=False)

    def train(self, seed: int) -> None:
        self.model.train(seed % 2 == 0)

    def nest(self, seed: int) -> None:
        if seed % 2:
            self.model, self.depth = Nest(self.model).to(self._dtype()), self.depth + 1
            self.model.train(self._inner(self.model, 1).training)
        else:
            self.model = copy.deepcopy(AveragedModel(self.model).module)

    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _inner(self, model: nn.Module, levels: int) -> nn.Module:
        for _ in range(levels):
            model = model.get_submodule("inner")
        return model

    def check(self) -> bool:
        """Whether the chip was used; then it is the one of the weights as they are now."""
        x = X.to(self._dtype())
        with torch.no_grad(), noise_mode(self.model, "programmed"):
            try:
                found = self.model(x)
            except ChipError:
                return False
            reference = copy.deepcopy(self.model)
            depth, seed = self.programmed
            erase(reference)
            program(self._inner(reference, self.depth - depth), seed)
            assert torch.equal(found, reference(x))
        return True


STEPS = [
    "program",
    "step",
    "write_data",
    "write_numpy",
    "load",
    "to",
    "deepcopy",
    "pickle",
    "train",
    "nest",
]


@given(
    kind=st.sampled_from(list(MODELS)),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), min_size=1, max_size=6),
)
@settings(max_examples=25)
def test_whatever_happens_to_a_model_no_chip_is_stale(
    kind: str, steps: list[tuple[str, int]]
) -> None:
    history = History(kind)
    history.program(1)
    assert history.check()
    for name, seed in steps:
        getattr(history, name)(seed)
        used = history.check()
        assert used or name != "program" or kind == "tied"
