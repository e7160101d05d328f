"""Figures say what the objects say, in units, and can be told apart without colour."""

from __future__ import annotations

import builtins

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

from matplotlib.colors import to_rgb  # noqa: E402

from memjax import figures  # noqa: E402
from memjax.view import drawing  # noqa: E402
from memjax.view.palette import AREAS, LINES, PHASES  # noqa: E402
from tests.seen import BUDGET, analysis, frontier, report  # noqa: E402

MIB = 2**20


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_timeline_of_a_report_is_before_and_after_on_one_scale_with_the_budget():
    found = report(BUDGET)
    figure = figures.timeline(found)
    before, after = figure.axes
    assert before.get_ylim() == after.get_ylim()
    assert before.get_ylim()[1] > found.plain_timeline.peak_bytes / MIB
    for axis in figure.axes:
        assert "MiB" in axis.get_ylabel()
        levels = [line.get_ydata()[0] for line in axis.lines]
        assert found.budget_bytes / MIB in levels
    assert "position" in after.get_xlabel()
    assert legend_of(figure) == ["forward", "backward", "optimizer", "recompute"]


def test_timeline_draws_every_position_in_one_phase():
    found = report(BUDGET).timeline
    runs = figures._runs(found)
    assert sorted(p for positions in runs.values() for p in positions) == list(
        range(len(found.bytes_at))
    )
    assert all(found.phases[p] == phase for (phase, _), ps in runs.items() for p in ps)


def test_timeline_of_an_analysis_is_one_panel():
    figure = figures.timeline(analysis())
    assert len(figure.axes) == 1
    assert "recompute" not in legend_of(figure)


def test_live_ranges_show_gaps_and_decisions():
    found = report(BUDGET)
    figure = figures.live_ranges(found, most=10)
    (axis,) = figure.axes
    assert len(axis.get_yticks()) == 10
    assert all("gpt.py" in t.get_text() and "KiB" in t.get_text() for t in axis.get_yticklabels())
    dotted = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert dotted  # a value that is recomputed is among the ten
    assert [p for p in axis.patches if p.get_hatch()]  # and one that is kept
    assert {"idle gap: keep", "idle gap: recompute"} <= set(legend_of(figure))


def test_frontier_has_its_points_and_the_policies():
    policies = {"dots": (5 * MIB, 0.02), "full": (3 * MIB, 0.3)}
    figure = figures.frontier(frontier(), policies)
    (axis,) = figure.axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert {"memjax, predicted", "dots", "full"} <= set(labels)
    curve = next(line for line in axis.lines if line.get_label() == "memjax, predicted")
    met = [p for p in frontier().points if p.met]
    assert list(curve.get_xdata()) == [p.plan.predicted_bytes / MIB for p in met]
    assert list(curve.get_ydata()) == [100 * p.plan.overhead for p in met]
    dots, full = (line for line in axis.lines if line.get_label() in policies)
    assert (dots.get_xdata()[0], dots.get_ydata()[0]) == (5, 2)
    assert dots.get_marker() != full.get_marker()
    assert "MiB" in axis.get_xlabel()
    assert "%" in axis.get_ylabel()


@pytest.mark.parametrize("by", ["module", "line", "what"])
def test_bars_of_the_peak_add_up(by):
    found = report(BUDGET)
    figure = figures.peak(found, by=by, most=3)
    (axis,) = figure.axes
    assert len(axis.get_yticks()) == 4
    drawn = sum(patch.get_width() for patch in axis.patches)
    held = sum(h.bytes for h in (*found.holders, *found.xla.holders)) / MIB
    assert drawn == pytest.approx(held, rel=0.001)


def test_bars_of_an_analysis_are_of_one_peak():
    (axis,) = figures.peak(analysis()).axes
    assert "XLA" not in axis.get_title()


def lightness(color):
    """Relative luminance, as a greyscale print shows it."""
    red, green, blue = to_rgb(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_phases_differ_in_hatch_or_in_lightness():
    looks = list(PHASES.values())
    for index, one in enumerate(looks):
        for other in looks[index + 1 :]:
            far = abs(lightness(one.color) - lightness(other.color)) > 0.1
            assert far or one.hatch != other.hatch
    assert len(set(AREAS)) == len(AREAS)
    assert len(set(LINES)) == len(LINES)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_saved_at_print_quality(tmp_path, suffix):
    path = figures.save(figures.timeline(analysis()), tmp_path / f"figure{suffix}")
    assert path.stat().st_size > 5000
    if suffix == ".png":
        import matplotlib.image

        height, width = matplotlib.image.imread(path).shape[:2]
        assert width >= 6.5 * drawing.PRINT_DPI
        assert height >= 2 * drawing.PRINT_DPI


def test_no_figure_stays_open():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figures.timeline(analysis())
    assert plt.get_fignums() == before


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError("no matplotlib")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(ImportError, match=r"memjax\[viz\]"):
        figures.timeline(analysis())
