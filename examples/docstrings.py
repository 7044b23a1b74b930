"""Texts that every Python has: the documentation strings of its standard library."""

from __future__ import annotations

import importlib
import inspect

import torch

MODULES = (
    "argparse ast asyncio collections csv ctypes datetime decimal difflib email.message fractions "
    "functools heapq html http.client inspect io ipaddress itertools json logging mailbox os "
    "pathlib pickle queue random re sched selectors shutil socket sqlite3 statistics string "
    "subprocess tarfile tempfile textwrap threading tokenize trace types unittest urllib.request "
    "uuid warnings wave weakref zipfile"
)


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Queries and documents: the first line of a documentation string, and what follows it."""
    found: dict[str, str] = {}
    for query, rest in _parted():
        if len(query) > 20 and len(rest) > 60:
            found.setdefault(query, " ".join(rest.split())[:600])
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    return [list(found.items())[i] for i in order[:count]]


def passages(seed: int = 0) -> list[str]:
    """Every documentation string once, in the order of ``seed``."""
    found = list(dict.fromkeys(f"{query}\n{rest}".strip() for query, rest in _parted()))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    return [found[i] for i in order if len(found[i]) > 40]


def _parted() -> list[tuple[str, str]]:
    """The first line of every documentation string, and the rest of it."""
    parted = []
    for name in MODULES.split():
        module = importlib.import_module(name)
        for member, value in sorted(vars(module).items()):
            text = inspect.getdoc(value) if callable(value) and member[0] != "_" else None
            query, _, rest = (text or "").partition("\n")
            parted.append((query, rest))
    return parted
