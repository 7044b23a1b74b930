"""A target file from a stranger: bounded in time and memory, silent about other files, no code."""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from analogize import Target, analogize
from analogize.errors import TargetError
from analogize.targets import load_target
from analogize.targets.load import sources

CUSTOM = "{model: custom, function: 'no_such_package.code:run'}"


def refused(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(TargetError) as caught:
        load_target(file)
    return str(caught.value)


def test_aliases_of_aliases_cost_neither_time_nor_memory(tmp_path: Path) -> None:
    tens = [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)]
    text = "schema: 1\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(tens)
    tracemalloc.start()
    begun = time.process_time()
    message = refused(tmp_path / "bomb.yaml", text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message == (
        f"{tmp_path}/bomb.yaml:5: a3: aliases repeat more than 10000 values; "
        "write out what is meant"
    )
    # 10^12 values otherwise; ten thousand of them take far below a second and 10 MiB.
    assert time.process_time() - begun < 20
    assert peak < 50 * 2**20


def test_aliases_of_a_sane_number_are_fine(tmp_path: Path) -> None:
    curve = "&curve {kind: polynomial, coefficients: [0.1, 0.2]}"
    drift = f"{{model: drift, t0: 1, nu_mean: {curve}, nu_std: *curve}}"
    file = tmp_path / "a.yaml"
    weights = "weights: {range: {kind: absmax}}\nconductance: {g_max: 25}"
    file.write_text(f"schema: 1\n{weights}\nnoise: [{drift}]\n")
    (noise,) = load_target(file).noise
    assert noise.nu_mean == noise.nu_std  # type: ignore[union-attr]


def test_a_large_or_endless_file_is_refused(tmp_path: Path) -> None:
    assert "larger than 256 KiB" in refused(tmp_path / "a.yaml", "schema: 1\n" + "# x\n" * 10**5)
    (tmp_path / "zeros.yaml").symlink_to("/dev/zero")
    with pytest.raises(TargetError, match="larger than 256 KiB"):
        load_target(tmp_path / "zeros.yaml")


@pytest.mark.parametrize("value", ["0x" + "f" * 20_000, "9" * 5000, '"' + "x" * 20_000 + '"'])
@pytest.mark.parametrize(
    "key", ["schema: 1\ndac: {bits: %s}", "schema: %s", "schema: 1\nextends: %s"]
)
def test_a_message_stays_readable_whatever_the_value(tmp_path: Path, key: str, value: str) -> None:
    assert len(refused(tmp_path / "a.yaml", key % value + "\n")) < 500


def test_a_number_that_cannot_be_written_back_is_not_read(tmp_path: Path) -> None:
    """Hexadecimal ones have no limit of Python's own, until they are to be shown."""
    text = "schema: 1\nnoise:\n- {model: custom, function: f, parameters: {a: 0x%s}}\n" % (
        "f" * 5000
    )
    assert "a.yaml:3: noise[0].parameters.a: not valid YAML: a number of 5002 digits" in refused(
        tmp_path / "a.yaml", text
    )


def test_a_message_stays_readable_however_many_problems(tmp_path: Path) -> None:
    keys = "".join(f"unknown{i}: 1\n" for i in range(3000))
    assert len(refused(tmp_path / "a.yaml", "schema: 1\n" + keys).splitlines()) < 110
    long = "x" * 5000
    assert long not in refused(tmp_path / "a.yaml", f"schema: 1\n{long}: 1\n")


@pytest.mark.parametrize(
    "secret",
    [
        "password: hunter2\n",
        "schema: hunter2\npassword: hunter2\n",
        "root:x:0:0:hunter2:/root:/bin/sh\n",
        '{"schema": 2, "password": "hunter2"}',
        "- hunter2\n",
        "a: *hunter2\n",
        "a: !hunter2 x\n",
    ],
)
def test_extends_says_nothing_of_a_file_that_is_no_target(tmp_path: Path, secret: str) -> None:
    (tmp_path / "secret.txt").write_text(secret)
    text = "schema: 1\nextends: secret.txt\n"
    message = refused(tmp_path / "a.yaml", text)
    assert "hunter2" not in message
    assert "password" not in message
    assert f"a.yaml:2: extends: {tmp_path}/secret.txt is no target file" in message
    with pytest.raises(TargetError, match="is no target file"):
        sources(tmp_path / "a.yaml")


def test_a_parent_that_is_a_target_is_explained(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text("{schema: 1, dac: {bits: none}}\n")
    message = refused(tmp_path / "a.yaml", "schema: 1\nextends: parent.yaml\n")
    assert f"{tmp_path}/parent.yaml:1: dac.bits: 'none' is not allowed" in message


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (f"schema: 1\nnoise:\n  - {CUSTOM}\n", 3, "noise[0].function"),
        (
            f"schema: 1\noverrides:\n- regions: [a]\n  noise: [{CUSTOM}]\n",
            4,
            "overrides[0].noise[0].function",
        ),
    ],
)
def test_a_function_in_a_file_needs_leave(tmp_path: Path, text: str, line: int, key: str) -> None:
    file, name = tmp_path / "a.yaml", "no_such_package.code:run"
    message = refused(file, text)
    assert message.startswith(f"{file}:{line}: {key}: '{name}' is a Python function")
    assert f"call load_target() with allow_functions=['{name}'] (or True for all)" in message
    with pytest.raises(TargetError, match="allow_functions"):
        load_target(file, allow_functions=["another:function"])
    for leave in (True, [name], {name}, name):
        assert isinstance(load_target(file, allow_functions=leave), Target)


def test_analogize_runs_no_function_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import nn

    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a.yaml").write_text(
        "schema: 1\nnoise: [{model: custom, function: 'stranger:f'}]\n"
    )
    with pytest.raises(TargetError, match="allow_functions"):
        analogize(nn.Linear(2, 2), tmp_path / "a.yaml")  # type: ignore[arg-type]
    assert "stranger" not in sys.modules


def test_entry_points_and_targets_made_in_python_need_no_leave(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("schema: 1\nnoise: [{model: custom, function: lab}]\n")
    assert load_target(tmp_path / "a.yaml").noise
    made = Target.model_validate({"name": "x", "noise": [{"model": "custom", "function": "a:b"}]})
    assert load_target(made) is made
