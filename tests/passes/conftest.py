"""One way to test a pass: its count, the operators around it, the function, and idempotence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from analogize.capture.capture import capture
from analogize.capture.pipeline import Pass, run
from analogize.crossbar.ops import bypassed
from analogize.targets import load_target

CheckPass = Callable[..., fx.GraphModule]


def operators_of(module: fx.GraphModule) -> Counter[str]:
    """How often the graph uses each function, method or module type."""
    found: Counter[str] = Counter()
    for node in module.graph.nodes:
        if node.op == "call_module":
            found[type(module.get_submodule(str(node.target))).__name__] += 1
        elif node.op == "call_function":
            found[node.target.__name__] += 1
        elif node.op == "call_method":
            found[str(node.target)] += 1
    return found


@pytest.fixture
def check_pass() -> CheckPass:
    """``check(passes, model, args, count, before, after)`` for the last pass of ``passes``."""

    def check(
        passes: tuple[Pass, ...],
        model: nn.Module,
        args: tuple[Any, ...],
        count: int,
        before: dict[str, int],
        after: dict[str, int],
        target: str = "ideal",
    ) -> fx.GraphModule:
        model.eval()
        module, loaded = capture(model), load_target(target)
        *earlier, rewrite = passes
        run(module, loaded, earlier)
        assert operators_of(module) == before
        assert run(module, loaded, [rewrite])[0].endswith(f": {count} rewritten")
        assert operators_of(module) == after
        with torch.no_grad(), bypassed(module):
            torch.testing.assert_close(module(*args), model(*args))
        assert run(module, loaded, [rewrite])[0].endswith(": 0 rewritten")
        assert operators_of(module) == after
        return module

    return check
