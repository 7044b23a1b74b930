"""The runner: passes in order, each followed by clean-up, lint and a line in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from torch import fx

from analogize.errors import AnalogizeError, PassError
from analogize.targets.spec import Target

logger = logging.getLogger("analogize")

Pass = Callable[[fx.GraphModule, Target], int]


def run(module: fx.GraphModule, target: Target, passes: Sequence[Pass]) -> tuple[str, ...]:
    """Run ``passes`` over ``module`` in place; returns the log, one line a pass.

    Raises:
        PassError: a pass failed; the message names it and what ran before.
    """
    log: list[str] = []
    for number, rewrite in enumerate(passes, start=1):
        name = rewrite.__name__
        try:
            count = rewrite(module, target)
            module.graph.eliminate_dead_code()
            module.graph.lint()
        except AnalogizeError:
            raise
        except Exception as error:
            before = ", ".join(p.__name__ for p in passes[: number - 1]) or "nothing"
            raise PassError(f"pass {number} '{name}' failed (after {before}): {error}") from error
        module.recompile()
        log.append(f"{number} {name}: {count} rewritten")
        logger.info("pass %s", log[-1])
    return tuple(log)
