"""The accelerator's kit runs from end to end on a CPU, so that nothing is left to try on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_dry_run_measures_everything_it_can(tmp_path: Path) -> None:
    out = tmp_path / "accelerator.json"
    command = [sys.executable, "accelerator.py", "--device", "cpu", "--out", str(out)]
    path = os.pathsep.join(filter(None, [str(BENCHMARKS.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=BENCHMARKS, env=environment, check=True)
    found = json.loads(out.read_text())
    assert found["dry run"]
    assert found["same chip as on the CPU"]["equal"]
    assert found["torch and ONNX Runtime"]["largest difference"] == 0
    assert found["tests"]["skipped"]
    steps = {k: v for k, v in found["steps"].items() if k != "seconds"}
    assert len(steps) == 16
    assert all(v["ms"] > 0 and v["chip ms"] > 0 for v in steps.values())
    assert found["chips a second"]["at_once=1"] > 0
