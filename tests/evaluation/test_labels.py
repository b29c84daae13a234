# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations

import pytest

from trl_concise.evaluation.labels import add_legend, annotate, place_labels, shorten
from trl_concise.evaluation.plots import new_figure


def test_names_stay_different_when_they_are_shortened():
    names = [f"DeepSeek-R1-Distill-Qwen-1.5B-{method}" for method in ("HAPO", "LASER-D")]
    short = [shorten(name, 20) for name in names]
    assert short == ["DeepSeek-…-1.5B-HAPO", "DeepSeek-…5B-LASER-D"]
    assert shorten("hapo", 4) == "hapo"


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["_hidden", "$x_1$", "c", "d"], 3),
        ([f"DeepSeek-R1-Distill-Qwen-1.5B-{i}" for i in range(4)], 2),
        ([f"DeepSeek-R1-Distill-Qwen-1.5B-LASER-D-{i}, evaluation" for i in range(14)], 1),
        (["long-" * 40], 1),
    ],
)
def test_a_legend_fits_into_the_figure_without_shrinking_the_axes(names, columns):
    figure = new_figure(7.5, 4.7)
    axes = figure.subplots()
    height = None
    for _ in range(2):  # before and after
        figure.draw_without_rendering()
        if height is None:
            height = axes.bbox.height
            lines = [axes.plot([0, 1])[0] for _ in names]
            add_legend(figure, dict(zip(names, lines, strict=True)), "lower center")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [shorten(name, 79) for name in names]
    box = legend.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= figure.bbox.width
    assert len({round(text.get_window_extent().x0) for text in legend.get_texts()}) == columns
    assert axes.bbox.height > 0.9 * height


def test_labels_cover_neither_points_nor_each_other():
    figure = new_figure(7.5, 4.7)
    axes = figure.subplots()
    points = [(100, 0.9), (100, 0.9), (100, 0.9), (104, 0.9), (500, 0.5), (0, 0.9)]
    axes.plot(*zip(*points, strict=True), "o")
    axes.margins(x=0.12, y=0.16)
    labels = [annotate(axes, f"Qwen-1.5B-{i}", *point) for i, point in enumerate(points)]
    place_labels(axes, [(label, "above") for label in labels], points)
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    markers = axes.transData.transform(points)
    assert not any(box.contains(*marker) for box in boxes for marker in markers)
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_a_long_label_does_not_shrink_the_axes():
    figure = new_figure(7.5, 4.7)
    axes = figure.subplots()
    annotate(axes, "long " * 50, 0.5, 0.5)
    figure.draw_without_rendering()
    assert axes.bbox.width > 0.8 * figure.bbox.width
