# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import pytest

from trl_concise.evaluation import FrontierPoint, plot_curves, plot_frontier


POINTS = [
    FrontierPoint("base", 0.93, 118.0, "base", accuracy_interval=(0.91, 0.95), tokens_interval=(114.0, 122.0)),
    FrontierPoint("step 20", 0.90, 110.0, "checkpoint", "HAPO"),
    FrontierPoint("step 40", 0.92, 80.0, "checkpoint", "HAPO"),
    FrontierPoint("HAPO", 0.92, 46.0, "model", "HAPO", accuracy_interval=(0.90, 0.93)),
    FrontierPoint("other", 0.80, 60.0, "model", "S-GRPO"),
    FrontierPoint("64", 0.30, 60.0, "cut"),
    FrontierPoint("96", 0.62, 84.0, "cut"),
]


@pytest.mark.parametrize("points", [POINTS, POINTS[:1], POINTS[3:4]])
def test_frontier_as_png(points, tmp_path):
    path = plot_frontier(points, tmp_path / "plots" / "frontier.png", title="Problems")
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") >= 1200  # pixels: sharp at a card's 800


def test_frontier_as_svg(tmp_path):
    first = plot_frontier(POINTS, tmp_path / "a.svg", title="Problems").read_text()
    assert "<svg" in first
    assert "<dc:date>" not in first


def test_names_are_written_as_they_are(tmp_path):
    names = ["_hidden", "$x_1$", "plain"]
    points = [FrontierPoint(name, 0.5, tokens, series=name) for tokens, name in enumerate(names, 10)]
    curves = {"Accuracy": {name: ([1], [0.5]) for name in names}}
    for path in [plot_frontier(points, tmp_path / "a.svg"), plot_curves(curves, tmp_path / "b.svg")]:
        picture = path.read_text()  # each text stands in a comment beside its shape
        assert all(f"<!-- {name} -->" in picture for name in names)


def test_a_single_point_has_whole_ticks_each_once(tmp_path):
    frontier = plot_frontier([FrontierPoint("", 0.5, 10.0)], tmp_path / "a.svg").read_text()
    curves = plot_curves({"Accuracy": {"a": ([10], [0.5])}}, tmp_path / "b.svg").read_text()
    assert frontier.count("<!-- 10 -->") == 1 and curves.count("<!-- 10 -->") == 1


def test_many_runs_are_named_only_in_the_legend(tmp_path):
    def texts(count: int, label: str) -> int:
        points = [FrontierPoint(label, 0.5, 100.0 + i, series=f"run-{i}") for i in range(count)]
        return plot_frontier(points, tmp_path / "a.svg").read_text().count('<g id="text_')

    assert texts(6, "run") == texts(6, "") + 6
    assert texts(7, "run") == texts(7, "")


def test_frontier_needs_a_point(tmp_path):
    with pytest.raises(ValueError, match="at least one point"):
        plot_frontier([], tmp_path / "a.png")


def test_curves(tmp_path):
    curves = {"HAPO": ([1, 2, 3], [0.9, 0.8, 0.9]), "S-GRPO": ([2], [0.7])}
    path = plot_curves(
        {"Accuracy": curves, "Completion tokens": {"HAPO": ([1, 2], [90, 80])}}, tmp_path / "curves.png"
    )
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"trl-concise\[plots\]"):
        plot_frontier(POINTS, tmp_path / "a.png")
