"""The result of an evaluation: statistics, JSON, table, plot."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy import stats

from analogize.errors import EvaluationError
from analogize.evaluation.evaluation import Evaluation, Level
from analogize.evaluation.fingerprint import Fingerprint
from analogize.evaluation.intervals import t_interval
from analogize.evaluation.plot import check_figure_path

finite = st.floats(allow_nan=False, allow_infinity=False)
scores = st.lists(st.integers(-(10**9), 10**9).map(lambda k: k / 1000), min_size=2, max_size=20)


def make(levels: dict[float | None, tuple[float, ...]], instances: int = 3) -> Evaluation:
    print_of_run = Fingerprint(
        seed=7, etas=tuple(levels), metric="accuracy", target="0a", weights="1b"
    )
    return Evaluation(
        metric="accuracy",
        target="pcm_4bit",
        noise=("gaussian",),
        instances=instances,
        seeds=tuple(range(2**63 - instances, 2**63)),
        samples=100,
        levels=tuple(Level(eta=eta, values=values) for eta, values in levels.items()),
        fingerprint=print_of_run,
        versions={"analogize": "0.1.0", "torch": "2.11.0"},
    )


@given(values=scores)
def test_statistics_are_scipys(values: list[float]) -> None:
    level = Level(eta=0.1, values=tuple(values))
    scale = max(map(abs, values))
    assert level.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-12 * scale)
    assert level.std == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-12 * scale)
    assert level.interval is not None
    sem = level.std / math.sqrt(len(values))
    if sem > 0:
        expected = stats.t.interval(0.95, len(values) - 1, loc=level.mean, scale=sem)
        assert level.interval == pytest.approx(expected, rel=1e-9, abs=1e-12 * scale)


def test_one_chip_has_a_mean_and_no_spread() -> None:
    level = Level(eta=0.1, values=(0.5,))
    assert (level.mean, level.std, level.interval) == (0.5, None, None)


def test_no_chip_has_nothing() -> None:
    level = Level(eta=0.1)
    assert (level.mean, level.std, level.interval) == (None, None, None)


def test_equal_chips_have_an_interval_of_no_width() -> None:
    # 0.1 thrice sums to 0.30000000000000004: the statistics must not make a spread of that.
    level = Level(eta=0.1, values=(0.1, 0.1, 0.1))
    assert (level.mean, level.std, level.interval) == (0.1, 0.0, (0.1, 0.1))


def test_a_deterministic_level_is_exact() -> None:
    level = Level(eta=0.0, values=(0.75,), deterministic=True)
    assert (level.mean, level.std, level.interval) == (0.75, 0.0, (0.75, 0.75))


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    runs = 2000
    covered = 0
    for sample in rng.normal(3.0, 2.0, (runs, 5)):
        low, high = t_interval(sample.tolist()) or (0.0, 0.0)
        covered += low <= 3.0 <= high
    # Binomial: the share's standard deviation is sqrt(0.95 * 0.05 / 2000) = 0.0049.
    assert abs(covered / runs - 0.95) < 4 * 0.0049


levels_of_runs = st.dictionaries(
    st.one_of(st.none(), st.floats(0, 1e3)), st.lists(finite, max_size=3).map(tuple), min_size=1
)


@given(levels=levels_of_runs)
def test_saving_and_loading_is_exact(
    levels: dict[float | None, tuple[float, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("run") / "run.json"
    # Statistics of the largest floats overflow; such values are no result of a metric.
    kept = {eta: tuple(v for v in values if abs(v) < 1e100) for eta, values in levels.items()}
    result = make(kept)
    result.save(path)
    assert Evaluation.load(path) == result


def test_the_file_is_plain_json_with_the_statistics_in_it(tmp_path: Path) -> None:
    make({0.1: (0.5, 0.7), 0.2: (0.4,)}).save(tmp_path / "run.json")
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["schema"] == 1
    assert found["levels"][0]["mean"] == 0.6
    assert found["levels"][1]["std"] is None
    assert found["seeds"] == [2**63 - 3, 2**63 - 2, 2**63 - 1]
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.mkdir()  # a folder in the way: os.replace must fail
    with pytest.raises(EvaluationError, match=r"cannot write the evaluation to .*run\.json"):
        make({0.1: (0.5,)}).save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "no evaluation of schema 1: schema"),
        ({"metric": None}, "metric"),
        ({"surprise": 1}, "surprise"),
        ({"levels": [{"eta": "much", "values": []}]}, r"levels\.0\.eta"),
    ],
)
def test_a_file_of_another_form_is_refused_by_key(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    make({0.1: (0.5,)}).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EvaluationError, match=message):
        Evaluation.load(path)


@pytest.mark.parametrize("text", ["", "{", '{"levels": [{"eta": NaN}]}'])
def test_a_damaged_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(EvaluationError, match="is no evaluation of schema 1"):
        Evaluation.load(tmp_path / "run.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"cannot read the evaluation .*none\.json"):
        Evaluation.load(tmp_path / "none.json")


def test_rows_hold_plain_values() -> None:
    rows = make({None: (0.5, 0.5), 0.1: (0.25,)}).to_rows()
    common = {"deterministic": False}
    assert rows == [
        {"eta": None, "chips": 2, "mean": 0.5, "std": 0.0, "low": 0.5, "high": 0.5} | common,
        {"eta": 0.1, "chips": 1, "mean": 0.25, "std": None, "low": None, "high": None} | common,
    ]


def test_the_table_says_what_is_missing_and_what_was_not_drawn() -> None:
    result = make({0.0: (0.9,), 0.02: (0.8, 0.7, 0.6), None: (0.5,)})
    still = result.levels[0].model_copy(update={"deterministic": True})
    text = str(result.model_copy(update={"levels": (still, *result.levels[1:])}))
    assert "accuracy on pcm_4bit, 100 samples, seed 7" in text
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert "all alike" in rows["0"]
    assert "[0.45159, 0.94841]" in rows["0.02"]  # 0.7 -+ 4.3027 * 0.1 / sqrt(3)
    assert "1 of 3" in rows["target's"]


def test_complete_counts_chips() -> None:
    assert make({0.1: (1.0, 2.0, 3.0)}).complete
    assert not make({0.1: (1.0, 2.0, 3.0), 0.2: (1.0,)}).complete


def test_plot_draws_mean_band_and_bars_in_order_of_eta() -> None:
    result = make({0.2: (0.4, 0.6), 0.1: (0.7, 0.9), None: (0.75, 0.85)})
    axes = result.plot().axes[0]
    (curve,) = axes.containers
    line, _, (bars,) = curve.lines
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 0.8], [0.2, 0.5]])
    deviation = np.std([0.4, 0.6], ddof=1)
    segments = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(segments[1], [0.5 - deviation, 0.5 + deviation])
    band = axes.collections[-1].get_paths()[0].vertices[:, 1]
    # No accuracy lies beyond 0 and 1, where two chips' intervals reach.
    expected = [min(max(e, 0), 1) for level in result.levels[:2] for e in level.interval or ()]
    assert (band.min(), band.max()) == pytest.approx((min(expected), max(expected)))
    assert axes.get_ylabel() == "accuracy"
    assert "eta" in axes.get_xlabel()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(labels) == ["pcm_4bit", "pcm_4bit (target's own noise)"]


def test_no_accuracy_beyond_0_and_1_is_drawn() -> None:
    """Of three chips far apart both the interval and the deviation reach further."""
    axes = Figure().subplots()
    make({0.0: (0.0, 0.9, 1.0), 0.1: (0.0, 0.0, 0.9)}).plot(ax=axes)
    band = axes.collections[-1].get_paths()[0].vertices
    assert np.min(band[:, 1]) == 0
    assert np.max(band[:, 1]) == 1
    bars = np.array(axes.containers[0].lines[2][0].get_segments())  # type: ignore[index]
    assert bars[..., 1].min() == 0
    assert bars[..., 1].max() == 1


def test_plots_share_axes_in_different_colours(tmp_path: Path) -> None:
    axes = Figure().subplots()
    make({0.0: (0.9,), 0.1: (0.8,)}).plot(ax=axes, label="clean")
    drawn = make({0.0: (0.9,), 0.1: (0.85,)}).plot(tmp_path / "both.png", axes, label="noisy")
    assert drawn is axes.get_figure(root=True)
    colours = {container.lines[0].get_color() for container in axes.containers}
    assert len(colours) == 2
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_plotting_leaves_pyplot_alone(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    make({0.1: (0.5, 0.6)}).plot(tmp_path / "run.svg")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_plot_without_a_value_is_refused() -> None:
    with pytest.raises(EvaluationError, match="nothing to plot"):
        make({0.1: ()}).plot()


@pytest.mark.parametrize("name", ["run.txt", "none/run.png"])
def test_plot_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot write the plot"):
        make({0.1: (0.5,)}).plot(tmp_path / name)
    with pytest.raises(EvaluationError, match="cannot write the plot"):
        check_figure_path(tmp_path / name)
    check_figure_path(tmp_path / "run.pdf")
