"""MkDocs hook: documents that live elsewhere in the repository, at the same relative places.

Their links to one another stay what they are, and whatever file they point to comes along.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("CHANGELOG.md", "examples/README.md", "benchmarks/README.md")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, what they link to, and so on."""
    waiting, seen = [*PAGES], set()
    while waiting:
        name = waiting.pop()
        path = ROOT / name
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        files.append(File.generated(config, name, abs_src_path=str(path)))
        if path.suffix == ".md":
            links = LINK.findall(path.read_text(encoding="utf-8"))
            targets = [path.parent / link for link in links if "://" not in link]
            waiting += [t.resolve().relative_to(ROOT).as_posix() for t in targets]
    return files
