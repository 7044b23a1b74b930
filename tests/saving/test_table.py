"""Every way to keep a rewritten model: bit for bit in a fresh process, or a named error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from analogize.errors import AnalogizeError

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]

Ways = Mapping[str, Any]
Outputs = Callable[[Any, torch.dtype], Tensor]
TARGET, OTHER = "pcm_8bit", "paper_resnet32"
KEPT = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, ways: Ways, outputs: Outputs
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs as they were written, and as one fresh process reads them."""
    place, before = tmp_path_factory.mktemp("ways"), {}
    for way, how in ways.items():
        for kind, dtype in KEPT.items():
            name = f"{way}, {kind}"
            (place / name).mkdir()
            try:
                model = how.make(1, TARGET, dtype)
                before[name] = outputs(model, dtype)
                how.write(model, place / name)
            except pytest.skip.Exception as reason:
                before[name] = str(reason)
                (place / name).rmdir()
    command = [sys.executable, str(Path(__file__).with_name("conftest.py")), str(place)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return before, torch.load(place / "outputs.pt")


@pytest.mark.parametrize("kind", KEPT)
def test_a_fresh_process_gives_the_same_bits(way: str, kind: str, expected: Any) -> None:
    before, after = (each.get(f"{way}, {kind}") for each in expected)
    if isinstance(before, str):
        pytest.skip(before)
    assert torch.equal(after, before)


def test_another_target_is_refused_or_cannot_be_asked_for(
    way: str, tmp_path: Path, ways: Ways, outputs: Outputs
) -> None:
    model = ways[way].make(1, TARGET, torch.float32)
    expected = outputs(model, torch.float32)
    ways[way].write(model, tmp_path)

    if ways[way].brings:
        again = ways[way].read(tmp_path, OTHER, torch.float32)
        assert torch.equal(outputs(again, torch.float32), expected)
        return

    def use() -> None:
        outputs(ways[way].read(tmp_path, OTHER, torch.float32), torch.float32)

    with pytest.raises(AnalogizeError, match=r"saved for (another target|the target)"):
        use()


def test_a_file_cut_short_is_refused(way: str, tmp_path: Path, ways: Ways) -> None:
    ways[way].write(ways[way].make(1, TARGET, torch.float32), tmp_path)
    file = tmp_path / ways[way].file
    whole = file.read_bytes()
    kind, message = ways[way].cut

    for length in (10, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(kind, match=message):
            ways[way].read(tmp_path, TARGET, torch.float32)
