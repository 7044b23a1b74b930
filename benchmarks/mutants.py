"""Break the core in small ways, one at a time: the tests must notice each.

    python benchmarks/mutants.py --count 40 --seed 0
    python benchmarks/mutants.py --file passes/lower.py    of one file alone

Mutants are drawn with a fixed seed from the files below: a comparison, an arithmetic or a logical
operator, a condition or a number is changed. Each is tested in a copy of the sources, by the test
files beside it, until the first fails. Survivors are printed as differences; those that change
nothing anybody could see go into mutants_equivalent.txt with a reason, and are left out. Exit
status 1 where fewer than 95 % are noticed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.txt")
# What is mutated, and the tests that should notice, the quickest first.
CORE = {
    "analogize/quantize.py": ["test_quantize.py", "crossbar/test_ops.py"],
    "analogize/product.py": ["test_product.py", "crossbar/test_ops.py"],
    "analogize/crossbar/array.py": [
        *("crossbar/test_edges.py", "crossbar/test_ops.py", "crossbar/test_chip.py"),
        *("crossbar/test_noise.py", "devices/test_chips.py", "crossbar/test_unmappable.py"),
        *("crossbar/test_stale_chips.py", "crossbar/test_waiting.py", "crossbar/test_blocks.py"),
        *("devices/test_more_models.py", "devices/test_reading.py", "devices/test_custom.py"),
    ],
    "analogize/crossbar/converter.py": [
        *("crossbar/test_edges.py", "crossbar/test_ranges.py", "crossbar/test_calibrate.py"),
        *("crossbar/test_learned.py", "crossbar/test_waiting.py", "crossbar/test_ops.py"),
        *("crossbar/test_tiled.py", "crossbar/test_loading.py", "capture/test_meta.py"),
        "crossbar/test_learned_gradients.py",
    ],
    "analogize/crossbar/noise.py": [
        *("crossbar/test_noise.py", "crossbar/test_ops.py", "crossbar/test_chip.py"),
        *("devices/test_chips.py", "devices/test_reading.py", "devices/test_custom.py"),
    ],
    "analogize/devices/curves.py": ["devices/test_curves.py", "devices/test_moments.py"],
    "analogize/devices/fit.py": ["devices/test_fit.py"],
    "analogize/devices/reading.py": [
        *("devices/test_reading.py", "devices/test_moments.py", "devices/test_chips.py"),
        "devices/test_more_models.py",
    ],
    "analogize/devices/slicing.py": ["devices/test_slicing.py"],
    "analogize/devices/tiles.py": ["devices/test_tiles.py"],
    "analogize/evaluation/intervals.py": [
        *("evaluation/test_precision.py", "evaluation/test_statistics.py"),
    ],
    "passes/lower.py": ["passes/test_lower.py", "test_api.py", "test_api_arguments.py"],
    "passes/mark.py": ["passes/test_mark.py", "passes/test_lower.py"],
    "passes/verify.py": [
        *("passes/test_verify.py", "passes/test_lower.py", "test_api.py", "test_api_arguments.py"),
    ],
}
_MEMORY = 8 * 2**30  # a mutant that allocates without end ends in a MemoryError
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.Mod: ast.Add},
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file: its number among the file's places."""

    path: str
    place: int


def main() -> None:
    """Test a sample and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=600, help="seconds for one mutant")
    parser.add_argument("--minutes", type=float, default=30, help="no new mutant after so long")
    parser.add_argument("--file", choices=sorted(CORE), help="of this file alone")
    parser.add_argument("--again", type=Path, help="only what survived by this run's output")
    asked = parser.parse_args()
    again = None
    if asked.again is not None:
        told = (line.split(" ", 2) for line in asked.again.read_text().splitlines())
        again = {words[2] for words in told if words[0] == "SURVIVED"}
    files = CORE if asked.file is None else [asked.file]
    everything = [Mutant(p, k) for p in files for k in range(len(list(places(tree(p)))))]
    sample = random.Random(asked.seed).sample(everything, min(asked.count, len(everything)))
    if again is not None:
        sample = everything  # places move with every change of a file
    known = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    end, noticed, survivors, equivalent = time.monotonic() + 60 * asked.minutes, 0, 0, 0
    sound: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", "*cache*"))
        preload()
        for mutant in sample:
            if time.monotonic() > end:
                break
            source, changed = ast.unparse(tree(mutant.path)), mutated(mutant)
            lines = difflib.unified_diff(source.split("\n"), changed.split("\n"), lineterm="", n=0)
            difference = [line for line in lines if line[:1] in "+-" and line[:3] not in "+++---"]
            shown = " -> ".join(line[1:].strip() for line in difference)
            if again is not None and f"{mutant.path}: {shown}" not in again:
                continue
            if any(line.startswith(f"{mutant.path}: {shown} #") for line in known):
                equivalent += 1
                continue
            if mutant.path not in sound and not survives(copy, CORE[mutant.path], 1800):
                raise SystemExit(f"the tests of {mutant.path} fail without any mutant")
            sound.add(mutant.path)
            (copy / mutant.path).write_text(changed)
            begun = time.monotonic()
            passed = survives(copy, CORE[mutant.path], asked.patience)
            shutil.copy(ROOT / mutant.path, copy / mutant.path)
            survivors, noticed = survivors + passed, noticed + (not passed)
            word = "SURVIVED" if passed else "noticed"
            seconds = f"{time.monotonic() - begun:.0f}s"
            print(f"{word} {seconds} {mutant.path}: {shown}", flush=True)
    tried = max(noticed + survivors, 1)
    print(
        f"{len(everything)} places; {tried} mutants tried, {noticed} noticed "
        f"({noticed / tried:.0%}), {survivors} survived, {equivalent} known to change nothing"
    )
    sys.exit(noticed < 0.95 * tried)


def tree(path: str) -> ast.Module:
    """The syntax tree of a file of the sources."""
    return ast.parse((ROOT / path).read_text())


def places(module: ast.Module) -> Iterator[ast.AST]:
    """Every node that can be changed; texts of errors, annotations and assertions are none."""
    pending: list[ast.AST] = [module]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.AnnAssign | ast.arguments):
            continue
        if isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in _SWAPS:
            yield node
        if isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS:
            yield node
        if isinstance(node, ast.If | ast.IfExp):
            yield node
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield node
        returns = node.returns if isinstance(node, ast.FunctionDef) else None
        pending += [child for child in ast.iter_child_nodes(node) if child is not returns]


def mutated(mutant: Mutant) -> str:
    """The file's source with that change."""
    module = tree(mutant.path)
    node = list(places(module))[mutant.place]
    if isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign):
        node.op = _SWAPS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.Compare):
        node.ops[0] = _SWAPS[type(node.ops[0])]()  # type: ignore[call-overload]
    elif isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Constant):
        node.value = node.value + 1  # type: ignore[operator]
    return ast.unparse(ast.fix_missing_locations(module))


def preload() -> None:
    """Import once, before forking, what takes long and is not mutated."""
    for name in ("lightning", "onnxruntime", "torch", "torchvision"):
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def _test(copy: Path, tests: list[str]) -> None:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    log = os.open(copy / "tests.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(copy)]
    os._exit(int(pytest.main([*options, *(f"tests/{name}" for name in tests)])))


def survives(copy: Path, tests: list[str], patience: float) -> bool:
    """Whether the tests pass in the copy; a hang or a process that dies counts as noticed."""
    child = os.fork()
    if not child:
        try:
            _test(copy, tests)
        finally:
            os._exit(70)
    end = time.monotonic() + patience
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.05)
    status = os.waitstatus_to_exitcode(ended[1])
    if status > 3:  # 3 is an error inside pytest, as of memory
        raise SystemExit(f"pytest itself failed, status {status}; see {copy}/tests.log")
    return status == 0


if __name__ == "__main__":
    main()
