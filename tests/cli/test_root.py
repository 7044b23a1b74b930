"""``analogize`` itself: help, version, errors, and what starting it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from analogize.cli import app


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_help_names_every_subcommand() -> None:
    result = invoke("--help")

    assert result.exit_code == 0
    for name in ("demo", "evaluate", "targets"):
        assert name in result.output


def test_version_is_the_installed_one() -> None:
    result = invoke("--version")

    assert result.exit_code == 0
    assert result.output.startswith(f"analogize {metadata.version('analogize')}, torch ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["demo", "--target", "pcm_4bits"], "pcm_4bit"),
        (["demo", "--target", "ideal"], "varies eta"),
        (["demo", "--dataset", "cifar"], "digits, mnist"),
        (["demo", "--dataset", "mnist"], "--data DIR"),
        (["demo", "--data", "."], "--dataset mnist"),
        (["evaluate", "nowhere:model", "--dataset", "digits"], "nowhere"),
        (["targets", "show", "pcm"], "pcm"),
    ],
)
def test_an_error_is_a_message_and_status_1(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = invoke(*arguments)

    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert named in result.stderr
    assert "Traceback" not in result.output


def test_an_unusable_folder_fails_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    result = invoke("demo", "--out", str(tmp_path / "file"))

    assert result.exit_code == 1
    assert "--out" in result.stderr
    assert "Train" not in result.output


def test_starting_imports_no_heavy_library_but_torch() -> None:
    code = (
        "import sys, analogize.cli\n"
        "print(*{'lightning', 'matplotlib', 'scipy', 'sklearn', 'torchmetrics', 'torchvision'}"
        " & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("targets", "list", "--json"), ("--version",)])
def test_output_that_cannot_be_written_is_one_line(
    arguments: tuple[str, ...], unbuffered: str
) -> None:
    """A full disk behind standard output: refused at once, or only when the buffer is emptied."""
    code = "import sys; from analogize.cli import app; app(sys.argv[1:])"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert done.returncode == 1
    said = "standard output cannot be written: No space left on device"
    assert done.stderr.splitlines() == [said]
