"""What --check measures again is what is committed, and no other training's."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_claim_is_of_one_committed_row_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    check = runpy.run_path(str(EXAMPLES / "check.py"))
    rows = json.loads((check["RESULTS"] / "tolerance-test2000.json").read_text())["rows"]
    for claim in check["CLAIMS"]:
        row = check["committed"](rows, *claim)
        assert len(row["values"]) >= 20
        assert (check["RESULTS"] / f"{claim[0].replace(' ', '-')}.pt").exists()
    # Another training of the same kind must not be taken for one of these.
    with pytest.raises(ValueError, match="too many values"):
        check["committed"]([*rows, row], *claim)
