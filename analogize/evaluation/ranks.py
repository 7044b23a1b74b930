"""Work spread over the ranks of a process group: every rank does a part, and all know the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed

from analogize.errors import EvaluationError

T = TypeVar("T")

# What gloo and NCCL say of a peer that is no more; no class tells it.
_LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed"),
    *("Timed out waiting", "remote process exited", "Connection refused"),
)


def is_lost_process(error: BaseException) -> bool:
    """Whether a collective operation failed because another process ended."""
    # A logger's or a loader's own broken connection is an OSError.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


class Ranks:
    """The ranks of torch.distributed's default process group, or this process alone.

    An error on one rank is raised on all of them; no rank is left waiting for another.

    Args:
        spread: Whether to share work with the others, where there are any.
        together: Whether all do the whole work at the same time instead, as a model must whose
            parameters are shared out: each of its passes needs every process.

    Attributes:
        is_first: Whether this process is the one that writes files.
        rank: The number of this process's share of the work, from 0.
        size: How many shares there are.
    """

    def __init__(self, spread: bool = True, together: bool = False) -> None:
        joined = spread or together
        joined = joined and distributed.is_available() and distributed.is_initialized()
        number = distributed.get_rank() if joined else 0
        self._processes = distributed.get_world_size() if joined else 1
        self.is_first = number == 0
        self.rank, self.size = (0, 1) if together else (number, self._processes)

    def gather(self, work: Callable[[], T] | None) -> list[T]:
        """Do ``work``, and return what it gave on every rank that had some, in their order.

        Raises:
            EvaluationError: another rank's work failed; this rank's own error is raised as it is.
        """
        if self.size == 1:
            return [] if work is None else [work()]
        return self._exchange(work)

    def from_first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on the first process, on every one."""
        if self._processes == 1:
            return work()
        return self._exchange(work if self.is_first else None)[0]

    def _exchange(self, work: Callable[[], T] | None) -> list[T]:
        mine, failure = self._attempt(work)
        outcomes: list[Any] = [None] * self._processes
        try:
            distributed.all_gather_object(outcomes, mine)
        except RuntimeError as cause:
            if not is_lost_process(cause):
                raise
            raise EvaluationError(
                "another process of the group has ended; what the first one kept in the file of "
                f"resume, if any, can be gone on from ({_first_line(cause)})"
            ) from cause
        if failure is not None:
            raise failure
        for rank, outcome in enumerate(outcomes):
            if outcome and outcome[0] == "failed":
                raise EvaluationError(f"rank {rank} of {self._processes} failed: {outcome[1]}")
        return [outcome[1] for outcome in outcomes if outcome]

    def _attempt(self, work: Callable[[], T] | None) -> tuple[Any, Exception | None]:
        if work is None:
            return None, None
        try:
            return ("done", work()), None
        except Exception as error:
            # Words, because not every error survives pickling.
            return ("failed", f"{type(error).__name__}: {error}"), error
