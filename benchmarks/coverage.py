"""Rewrite every model of a zoo for the ideal target, and compare outputs and coverage.

    python benchmarks/coverage.py torchvision
    python benchmarks/coverage.py timm
    python benchmarks/coverage.py transformers

Random weights, small inputs, eval mode, two batch sizes. One process a model, so that a crash or a
timeout costs one row; rows are kept in ``--results`` (JSON lines), and a second run does only what
is missing or failed. The table and its summary go to standard output.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analogize import analogize, summary
from analogize.crossbar.ops import bypassed
from analogize.errors import PassError
from analogize.passes.verify import require_equal

sys.path.insert(0, str(Path(__file__).parent))
import zoo
from zoo_case import Case

SHARE = 0.999


def check(build: Callable[[], Case]) -> dict[str, Any]:
    """One row: which front end, the share converted, and whether outputs are equal."""
    torch.manual_seed(0)
    started = time.time()
    case = build()
    model = case.model.eval()
    analog = analogize(model, "ideal", example_inputs=case.inputs(2))
    operators = True
    for batch in (2, 3):
        inputs = case.inputs(batch)
        _compare(model, analog, inputs)
        operators = operators and _same_by_operators(model, analog, inputs)
    if case.generates:
        _compare_generation(model, analog, case.inputs(2))
    told = summary(analog)
    return {
        "equal": True,
        "operators": operators,
        "capture": analog.report.capture,  # type: ignore[union-attr]
        "share": told.converted_share,
        "regions": len(told.rows),
        "left": [f"{d.name}: {d.reason}" for d in told.digital if d.macs][:4],
        "seconds": round(time.time() - started, 1),
    }


def _compare(model: nn.Module, analog: nn.Module, inputs: Any) -> None:
    results = []
    for each in (analog, model):
        torch.manual_seed(0)
        with torch.no_grad():
            results.append(each(**inputs) if isinstance(inputs, dict) else each(*inputs))
    require_equal(*results)


def _same_by_operators(model: nn.Module, analog: nn.Module, inputs: Any) -> bool:
    """Whether results are the same where every product runs through its analog operator.

    For ``ideal`` a kept module runs its own digital code. While operators are observed, as in a
    calibration, they compute each product themselves, and the bias is added after it.
    """
    try:
        with bypassed(analog, observe=lambda op, x, y: None):
            _compare(model, analog, inputs)
    except PassError:
        return False
    return True


def _compare_generation(model: Any, analog: Any, inputs: Any) -> None:
    texts = [
        each.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0)
        for each in (model, analog)
    ]
    if not torch.equal(*texts):
        raise AssertionError("generate() returns other tokens")


def _one(library: str, name: str, answer: Connection) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        row = check(lambda: zoo.LIBRARIES[library].build(name))
    except Exception as error:
        trace = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(trace.filename).name}:{trace.lineno}"
        row = {"equal": False, "error": f"{type(error).__name__} ({where}): {error}"[:400]}
    answer.send({"name": name, **row})


def _run(library: str, results: Path, names: list[str], timeout: float) -> list[dict[str, Any]]:
    rows = {}
    if results.exists():
        rows = {r["name"]: r for r in map(json.loads, results.read_text().splitlines())}
    names = names or zoo.LIBRARIES[library].names()
    for name in names:
        if name in rows and rows[name]["equal"]:
            continue
        rows[name] = _spawn(library, name, timeout)
        with results.open("a") as stream:
            stream.write(json.dumps(rows[name]) + "\n")
        print(line(rows[name]), file=sys.stderr, flush=True)
    return [rows[n] for n in names]


def _spawn(library: str, name: str, timeout: float) -> dict[str, Any]:
    """Fork, so that the libraries are imported once; torch runs on one thread there."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_one, args=(library, name, theirs))
    process.start()
    theirs.close()
    try:
        if not mine.poll(timeout):
            return {"name": name, "equal": False, "error": f"took over {timeout:g} s"}
        row: dict[str, Any] = mine.recv()
        return row
    except EOFError:
        return {"name": name, "equal": False, "error": "the process died"}
    finally:
        process.kill()
        process.join()


def line(row: dict[str, Any]) -> str:
    """One row of the table, in Markdown."""
    if not row["equal"]:
        return f"| {row['name']} | no | - | - | - | - | {row['error']} |"
    share = "-" if row["share"] is None else f"{row['share']:.3%}"
    operators = "yes" if row["operators"] else "no"
    cells = (row["name"], "yes", operators, row["capture"], row["regions"], share)
    return f"| {' | '.join(map(str, cells))} | {'; '.join(row['left'])} |"


_HEAD = """| model | equal | by its operators | front end | regions | share | left digital |
|---|---|---|---|---|---|---|"""


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=zoo.LIBRARIES)
    parser.add_argument("names", nargs="*", help="only these models")
    parser.add_argument("--results", type=Path, help="JSON lines file that makes runs resumable")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a model")
    options = parser.parse_args()
    results = options.results or Path(f"coverage-{options.library}.jsonl")
    rows = _run(options.library, results, options.names, options.timeout)
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", options.library))
    equal = sum(r["equal"] for r in rows)
    operators = sum(r["equal"] and r["operators"] for r in rows)
    covered = sum(r["equal"] and r["share"] is not None and r["share"] >= SHARE for r in rows)
    print(f"`python benchmarks/coverage.py {options.library}` with {versions}\n")
    print(f"{equal} of {len(rows)} equal, {operators} by their analog operators as well;")
    print(f"share at least {SHARE:.1%} in {covered} of {len(rows)}\n")
    print(_HEAD)
    print("\n".join(map(line, rows)))


if __name__ == "__main__":
    main()
