"""Finding targets, and inheriting from them."""

import os
from pathlib import Path

import pytest

from analogize.errors import TargetError
from analogize.targets import Target, load_target, names
from analogize.targets.load import sources
from analogize.targets.spec import Array, FixedSNRNoise, GaussianNoise, PercentileRange, StdRange


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("schema: 1\n" + text, encoding="utf-8")
    return path


def test_names_are_the_built_in_files() -> None:
    folder = Path(__file__).parents[2] / "targets"

    assert names() == tuple(sorted(file.stem for file in folder.glob("*.yaml")))


def test_a_target_is_returned_as_it_is() -> None:
    target = Target(name="mine")

    assert load_target(target) is target


def test_a_path_as_text_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "mine.yaml", "adc: {bits: 3}\n")
    bare = write(tmp_path / "without_suffix", "adc: {bits: 3}\n")
    monkeypatch.chdir(tmp_path)

    for target in (file, str(file), "mine.yaml", bare, "without_suffix"):
        assert load_target(target).adc.bits == 3


def test_the_name_defaults_to_the_file(tmp_path: Path) -> None:
    assert load_target(write(tmp_path / "my_chip.yml", "")).name == "my_chip"
    assert load_target(write(tmp_path / "my_chip.yml", "name: other\n")).name == "other"


def test_a_built_in_name_wins_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "ideal", "adc: {bits: 3}\n")
    monkeypatch.chdir(tmp_path)

    assert load_target("ideal").adc.bits is None
    assert load_target(f".{os.sep}ideal").adc.bits == 3


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("schema: 1\n", encoding="utf-8-sig")

    assert load_target(file) == Target(name="mine")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'pcm_4bits'; did you mean 'pcm_4bit'\?"):
        load_target("pcm_4bits")
    with pytest.raises(TargetError, match=r"unknown target 'zzzz'\. Built in: .*ideal, .*\.yaml"):
        load_target("zzzz")


@pytest.mark.parametrize("target", ["nowhere.yaml", Path("nowhere"), "", "a\0b.yaml", 3, None])
def test_what_cannot_be_found_or_read(target: object) -> None:
    with pytest.raises(TargetError):
        load_target(target)  # type: ignore[arg-type]


def test_a_folder_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="Is a directory"):
        load_target(tmp_path)
    binary = tmp_path / "weights.yaml"
    binary.write_bytes(b"schema: \xff\xfe")
    with pytest.raises(TargetError, match="not UTF-8"):
        load_target(binary)


def test_extends_merges_mappings_and_replaces_lists(tmp_path: Path) -> None:
    child = load_target(
        write(
            tmp_path / "child.yaml",
            "extends: pcm_4bit\nweights: {bits: 6}\nnoise: [{model: fixed_snr, ratio: 0.1}]\n"
            "array: {rows: 512}\n",
        )
    )
    parent = load_target("pcm_4bit")

    assert child.weights == parent.weights.model_copy(update={"bits": 6})
    assert child.noise == (FixedSNRNoise(ratio=0.1),)
    assert child.array == Array(rows=512, cols=256, tiling=True)
    assert (child.dac, child.adc) == (parent.dac, parent.adc)
    assert child.references == parent.references


def test_name_and_description_are_not_inherited(tmp_path: Path) -> None:
    child = load_target(write(tmp_path / "child.yaml", "extends: pcm_4bit\n"))

    assert (child.name, child.description) == ("child", "")


def test_a_range_of_the_same_kind_is_merged_and_of_another_replaced(tmp_path: Path) -> None:
    same = write(tmp_path / "same.yaml", "extends: pcm_4bit\nweights: {range: {multiple: 3}}\n")
    other = write(
        tmp_path / "other.yaml", "extends: pcm_4bit\nweights: {range: {kind: percentile, low: 1}}\n"
    )
    none = write(
        tmp_path / "none.yaml", "extends: paper_resnet32\nweights: {range: null}\nnoise: []\n"
    )

    assert load_target(same).weights.range == StdRange(multiple=3)
    assert load_target(other).weights.range == PercentileRange(low=1, high=99.9)
    assert load_target(none).weights.range is None


def test_extends_follows_paths_relative_to_each_file(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: reram_4bit\nweights: {bits: 5}\nadc: {bits: 6}\n")
    write(tmp_path / "sub" / "b.yaml", "extends: ../a.yaml\nadc: {bits: 7}\n")
    write(tmp_path / "sub" / "plain", "extends: b.yaml\n")
    last = load_target(write(tmp_path / "sub" / "c.yaml", "extends: plain\ndac: {bits: 9}\n"))

    assert (last.weights.bits, last.adc.bits, last.dac.bits) == (5, 7, 9)
    assert last.noise == load_target("reram_4bit").noise
    found = [source.name for source in sources(tmp_path / "sub" / "c.yaml")]
    assert found == ["c", "plain", "b", "a", "reram_4bit"]


def test_a_cycle_is_shown(tmp_path: Path) -> None:
    for child, parent in ("ab", "bc", "ca"):
        write(tmp_path / f"{child}.yaml", f"extends: {parent}.yaml\n")

    with pytest.raises(TargetError) as caught:
        load_target(tmp_path / "a.yaml")

    chain = " extends ".join(str(tmp_path / f"{name}.yaml") for name in "abca")
    assert chain in str(caught.value)


def test_sources_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="duplicate key"):
        sources(write(tmp_path / "a.yaml", "schema: 1\n"))


def test_exponents_are_numbers(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.yaml",
        "extends: paper_resnet32\nnoise: [{model: gaussian, eta: 1e-3, eta_std: 2E-4}]\n",
    )

    assert load_target(file).noise == (GaussianNoise(eta=1e-3, eta_std=2e-4),)
