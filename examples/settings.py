"""A folder of results belongs to one set of options: what lies there is never taken for another's.

Recipes go on from what they find in --out. An option that neither names a file there nor is
compared with what the file holds would leave it as it is, and the run would report an earlier one's
figures as its own. So every option counts unless its recipe says that it is free.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

# Where and how a run is made, and what files are named by or compared with: levels and chips.
FREE = ("data", "out", "device", "compile", "download", "threads", "workers", "etas", "instances")
FILE = "settings.json"


def claim(args: argparse.Namespace, *free: str, **facts: str) -> None:
    """Enter a recipe's options in ``settings.json`` of its --out, or require the same ones there.

    Recipes that share a folder are compared by the options that both have.

    Args:
        args: the options. Of a file its content counts, not where it lies.
        free: further ones than ``FREE`` that may differ.
        facts: what else decides results, such as a digest of the data.

    Raises:
        SystemExit: the folder was made with others, which are named; nothing is written then.
    """
    now = {name: _told(value) for name, value in vars(args).items() if name not in (*FREE, *free)}
    now |= facts
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / FILE
    before: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    others = [
        f"{_name(key, facts)} was {before[key]}, not {value}"
        for key, value in now.items()
        if key in before and before[key] != value
    ]
    if others:
        raise SystemExit(
            f"{out} holds results of other settings: {'; '.join(others)}. Name another --out, or "
            "the settings of before"
        )
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(before | now, indent=1) + "\n")
    draft.replace(file)


def _told(value: Any) -> Any:
    """An option as JSON has it; a file by its content."""
    if isinstance(value, str | Path):
        if Path(value).is_file():
            return "a file with digest " + digest(Path(value).read_bytes())
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def digest(content: bytes) -> str:
    """Sixteen characters that tell one content from another."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _name(key: str, facts: dict[str, str]) -> str:
    return key if key in facts else "--" + key.replace("_", "-")
