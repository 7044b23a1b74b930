"""A file appears whole or not at all, and what killed writers left is swept by the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from analogize.files.drafts import drafting

KILLED = """
import os, signal, sys
from pathlib import Path
from analogize.files.drafts import drafting
with drafting(Path(sys.argv[1])) as folder:
    (folder / "part").write_bytes(bytes(1000))
    print("ready", flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.read()
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def start(path: Path, then: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", KILLED, path, then], **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "ready\n"
    return process  # type: ignore[no-any-return]


def test_nothing_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with drafting(path) as folder:
        (folder / "x").write_text("whole")
        assert folder.parent == tmp_path
        os.replace(folder / "x", path)
    with pytest.raises(ZeroDivisionError), drafting(path):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_a_killed_writers_draft_is_swept_and_a_live_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a*[b].onnx"
    bystanders = {".a*[b].onnx.data", ".other.onnx.x.draft"}
    with start(path, "wait") as live, start(path, "die") as killed:
        assert killed.wait() == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 2
        for name in bystanders:
            (tmp_path / name).mkdir()
        with drafting(path):
            assert len(os.listdir(tmp_path)) == 4
        (draft,) = set(os.listdir(tmp_path)) - bystanders
        assert (tmp_path / draft / "part").stat().st_size == 1000
        live.communicate("")
    assert set(os.listdir(tmp_path)) == bystanders
