"""What is shipped: the wheel, the sdist, the links, the public names, and the README's own code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import analogize
from analogize.passes import PIPELINE
from analogize.targets import names

ROOT = Path(__file__).parents[1]


def build(kind: str, folder: Path) -> Path:
    """Build in a process of its own: setuptools changes folders and writes beside the sources."""
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in tracked:
        if (file := ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(os.readlink(file))
        elif file.is_file() and not name.startswith("examples/results/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(file.read_bytes())
    code = f"from setuptools import build_meta as b; b.build_{kind}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, check=True)
    (built,) = folder.glob("analogize-*.whl" if kind == "wheel" else "analogize-*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_code_the_passes_and_the_targets_once(wheel: Path) -> None:
    held = zipfile.ZipFile(wheel).namelist()

    assert len(held) == len(set(held))
    assert {name.split("/")[0] for name in held if "dist-info" not in name} == {"analogize"}
    assert "analogize/py.typed" in held
    for name in names():
        assert f"analogize/targets/{name}.yaml" in held
    for name in ("page.html", "report.css", "report.js", "table.html"):
        assert f"analogize/report/templates/{name}" in held
    for verb in PIPELINE:
        assert f"analogize/passes/{verb.__name__}.py" in held
    for file in (ROOT / "analogize").rglob("*.py"):
        assert file.relative_to(ROOT).as_posix() in held


def test_passes_and_targets_import_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import analogize.passes, analogize.targets\n"
        "print(analogize.passes.__file__, *analogize.targets.names())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    file, *found = done.stdout.split()
    assert Path(file) == tmp_path / "analogize/passes/__init__.py"
    assert tuple(found) == names()


def test_the_sdist_builds_the_same_package(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        held = archive.getnames()

    inside = {name.partition("/")[2] for name in held}
    for name in ("pyproject.toml", "README.md", "LICENSE", "analogize/py.typed"):
        assert name in inside
    assert "targets/pcm_4bit.yaml" in inside
    assert "passes/lower.py" in inside
    # All tests or none; they read documents and benchmarks that no package holds.
    assert not [name for name in inside if name.startswith("tests/")]


@pytest.mark.parametrize("name", ["passes", "targets"])
def test_the_links_are_relative(name: str) -> None:
    assert os.readlink(ROOT / "analogize" / name) == f"../{name}"


def test_the_public_names_are_exactly_those_of_all() -> None:
    public = set(analogize._ON_FIRST_USE) | {
        name
        for name, value in vars(analogize).items()
        if getattr(value, "__module__", "").startswith("analogize.") and not name.startswith("_")
    }
    assert public == set(analogize.__all__)
    assert len(analogize.__all__) == len(set(analogize.__all__))
    for name in analogize.__all__:
        assert getattr(analogize, name).__name__ == name


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'analogise'"):
        analogize.analogise  # noqa: B018


def test_the_readme_opens_with_the_two_commands_that_ci_runs() -> None:
    text = (ROOT / "README.md").read_text()
    blocks = dict(re.findall(r"<!-- ci: (\w+) -->\n```sh\n(.*?)\n```", text))

    assert blocks == {
        "demo": "pip install -e . && analogize demo",
        "tests": "pip install -e '.[dev]' && pytest",
    }
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_every_file_the_documents_link_to_exists() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
            if not target.startswith("http"):
                assert (ROOT / target).exists(), f"{document}: {target}"


def test_every_file_that_the_tour_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r"`((?:analogize|passes|targets)/[\w/]*(?:\.py)?)`", text)

    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_every_room_says_what_enters_and_leaves() -> None:
    for room in [p.parent.name for p in (ROOT / "analogize").glob("*/__init__.py")]:
        text = (ROOT / "analogize" / room / "__init__.py").read_text()
        assert "Enters:" in text, room
        assert "Leaves:" in text, room
        assert "May use:" in text, room


def test_files_lie_in_rooms_and_every_room_is_told_of() -> None:
    package = ROOT / "analogize"
    loose = {p.name for p in package.glob("*.py")}
    rooms = {p.parent.name for p in package.glob("*/__init__.py")} - {"passes", "targets"}

    assert loose == {
        *("__init__.py", "analyze.py", "api.py", "data.py"),
        *("errors.py", "models.py", "product.py", "quantize.py"),
    }
    text = (ROOT / "README.md").read_text()
    assert {room for room in rooms if f" {room}/ " not in text} == set()
