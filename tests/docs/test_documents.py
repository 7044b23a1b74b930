"""Documents as programs: blocks in order, in one folder and one scope a page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import analogize

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"^```(?P<info>[^\n]*)\n(?P<fenced>.*?)^```$|^<!-- hidden\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block, or Python in a comment that prepares those after it."""

    language: str
    title: str | None
    code: str
    line: int
    hidden: bool = False


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        if (hidden := match["hidden"]) is not None:
            found.append(Block("python", None, hidden, line, hidden=True))
            continue
        info = match["info"]
        title = _TITLE.search(info)
        language = info.split(" ")[0]
        found.append(Block(language, title and title[1], match["fenced"], line))
    return found


def _runs(block: Block) -> bool:
    return block.title is not None or block.language in ("python", "sh")


def run(page: Path, folder: Path) -> int:
    """Run a page's blocks in ``folder``; how many of them there were to see."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for block in blocks(page):
        count += not block.hidden
        if block.title is not None:
            (folder / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            # Line numbers of a traceback are those of the page.
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            exec(code, scope)
        elif block.language == "sh":
            shell(block.code, folder)
        else:
            assert block.language == "mermaid", f"{page}:{block.line}: give the file a title"
    return count


def shell(code: str, folder: Path) -> None:
    """Run shell lines with this checkout's command line; pip's lines are run by .ci/run."""
    lines = [line for line in code.splitlines() if not line.startswith("pip install")]
    programs = folder / ".bin"
    programs.mkdir(exist_ok=True)
    for name, module in (("analogize", "analogize.cli"), ("torchrun", "torch.distributed.run")):
        call = "app()" if name == "analogize" else "main()"
        source = f"from {module} import {'app' if name == 'analogize' else 'main'}; {call}"
        (programs / name).write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{source}" "$@"\n'
        )
        (programs / name).chmod(0o755)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "MPLBACKEND": "Agg",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if any(map(_runs, blocks(page)))),
]


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in re.findall(r"^<!-- needs: (.+) -->$", page.read_text(), re.MULTILINE):
        for name in names.split():
            pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(page, tmp_path) > 0


def test_a_block_that_fails_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n```python\nx = 1\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as found:
        run(page, tmp_path)
    assert found.traceback[-1].lineno == 3  # the page's fourth line
    page.write_text("```sh\nanalogize nowhere\n```\n")
    with pytest.raises(AssertionError, match="No such command 'nowhere'"):
        run(page, tmp_path)


def test_every_link_between_documents_leads_somewhere() -> None:
    """Pages beside ``docs`` keep their place in the site: ``../examples`` is the repository's."""
    for page in (ROOT / "docs").rglob("*.md"):
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" in link:
                continue
            place = (page.parent / link).resolve()
            beside = ROOT / place.relative_to(ROOT / "docs")
            assert place.is_file() or beside.is_file(), f"{page.relative_to(ROOT)}: {link}"


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert pages <= named


def test_the_reference_has_every_public_name() -> None:
    text = "".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
    missing = {name for name in analogize.__all__ if f"analogize.{name}\n" not in text}
    assert missing == set()
