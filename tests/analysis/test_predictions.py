"""The grid of truth and predictions."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from acon_mm.analysis import predictions
from acon_mm.analysis.predictions import Annotations, Box, Classes, Example
from acon_mm.compat import strict_zip
from helpers.tiny_runs import error_of, load_tool

tool = load_tool("analysis_tools/draw_predictions")

CLASSES = Classes(("cat", "dog"), [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
PICTURE, GAP, LEFT, LEGEND_ROW = 320, 10, 44, 30


def grid(examples):
    """The pixels of the examples' grid: those of the pictures in two rows, without the space between."""
    figure = predictions.draw(examples, CLASSES)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return figure, cells(np.asarray(canvas.buffer_rgba())[..., :3], len(examples))


def cells(pixels, columns):
    return [
        [pixels[top : top + PICTURE, left : left + PICTURE].astype(int) for left in lefts(columns)]
        for top in (GAP, PICTURE + 2 * GAP)
    ]


def lefts(columns):
    return [LEFT + column * (PICTURE + GAP) for column in range(columns)]


def example(truth=None, prediction=None):
    picture = np.full((40, 40, 3), 255, np.uint8)
    return Example(picture, truth or Annotations(), prediction or Annotations())


def box(x1, y1, x2, y2, label="dog"):
    return Annotations(boxes=[Box((x1, y1, x2, y2), label, CLASSES.colors[1])])


def test_truth_is_above_and_predictions_are_below():
    figure, rows = grid([example(truth=box(10, 10, 20, 20)), example(prediction=box(10, 10, 20, 20, "dog: 0.50"))])
    drawn = [[(cell != 255).any() for cell in row] for row in rows]
    assert drawn == [[True, False], [False, True]]
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [["dog"], [], [], ["dog: 0.50"]]
    assert [text.get_text() for text in figure.texts] == ["truth", "prediction"]


@pytest.mark.parametrize("corner", [(0, 0), (39, 0), (0, 39), (39, 39)])
def test_labels_stay_in_the_picture(corner):
    x, y = corner
    figure, _ = grid([example(truth=box(x, y, x + 1, y + 1, "a long label"))])
    axes = figure.axes[0]
    label = axes.texts[0].get_window_extent()
    assert label.width > 100
    assert axes.bbox.x0 <= label.x0 and label.x1 <= axes.bbox.x1
    assert axes.bbox.y0 <= label.y0 and label.y1 <= axes.bbox.y1


def test_label_maps_are_drawn_with_a_legend_and_255_is_not():
    labels = np.full((40, 40), 255, np.uint8)
    labels[:20] = 1
    figure, rows = grid([example(truth=Annotations(label_map=labels), prediction=Annotations(label_map=0 * labels))])
    truth, prediction = rows[0][0], rows[1][0]
    np.testing.assert_allclose(truth[80, 160], (102, 102, 255), atol=1)  # 0.4 white and 0.6 blue
    assert (truth[240, 160] == 255).all()
    np.testing.assert_allclose(prediction[80, 160], (255, 102, 102), atol=1)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "dog"]


def test_the_legend_takes_as_many_rows_as_it_needs():
    names = [f"class {i}" for i in range(8)]
    labels = np.arange(1600, dtype=np.uint8).reshape(40, 40) % 8
    maps = example(Annotations(label_map=labels), Annotations(label_map=labels))
    figure = predictions.draw([maps], Classes(names, [(0.0, 0.0, 0.0)] * 8))
    FigureCanvasAgg(figure).draw()
    extent = figure.legends[0].get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1
    assert extent.y1 <= figure.axes[1].bbox.y0


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_tool(task, configs, trained, tmp_path):
    """Each picture of a tiny run differs from the picture without annotations."""
    out = tmp_path / "new" / "grid.png"
    tool.main([str(configs[task]), str(trained[task]), "--out", str(out), "--num", "3", "--score-thr", "0"])
    image = Image.open(out)
    assert image.size == (LEFT + 3 * (PICTURE + GAP), GAP + 2 * (PICTURE + GAP) + (task == "segmentation") * LEGEND_ROW)
    pixels = np.asarray(image.convert("RGB"))[: GAP + 2 * (PICTURE + GAP)]
    chosen = [Image.open(configs["data"] / f"images/{index}.jpg").convert("RGB") for index in (0, 1, 2)]
    _, plain = grid([Example(np.asarray(picture), Annotations(), Annotations()) for picture in chosen])
    for found, expected in strict_zip(cells(pixels, 3), plain):
        for drawn, undrawn in strict_zip(found, expected):
            assert (np.abs(drawn - undrawn).max(-1) > 60).sum() > 1000  # more than the palette of 256 colors changes
            assert (np.abs(drawn - undrawn).max(-1) < 30).any() or task == "segmentation"


@pytest.mark.slow
def test_predictions_of_a_tiny_run(configs, trained):
    from acon_mm.engine import command_line

    args = tool.parse_args([str(configs["detection"]), str(trained["detection"]), "--out", "x.png"])
    cfg = command_line.load_config(args, needs=("model", "test_dataloader"))
    (first, second), classes = predictions.predict(cfg, args.checkpoint, num=2, score_thr=0)
    assert classes.names == ("bright", "dark")
    assert [(each.label, each.corners) for each in first.truth.boxes] == [
        ("bright", [4, 10, 24, 34]),
        ("dark", [34, 10, 54, 34]),
    ]
    assert second.truth.boxes[0].corners == [6, 20, 26, 44]  # of picture 2 of 4
    scores = [float(each.label.partition(": ")[2]) for each in first.prediction.boxes]
    assert scores == sorted(scores) and len(scores) == 5
    assert predictions.predict(cfg, args.checkpoint, num=1, score_thr=1.1)[0][0].prediction.boxes == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--out", "grid.jpg"], "--out must end in .png, got grid.jpg"),
        (["--out", "/proc/acon_mm/grid.png"], "cannot write /proc/acon_mm/grid.png: No such file or directory"),
        (["--num", "5"], "--num must be between 1 and the 4 pictures of the test dataset, got 5"),
    ],
)
def test_errors(args, error, configs, trained, tmp_path, capsys):
    out = tmp_path / "grid.png"
    command = [str(configs["detection"]), str(trained["detection"]), "--out", str(out), *args]
    assert error_of(capsys, tool.main, command) == error
    assert not out.exists()


@pytest.mark.slow
def test_error_without_true_label_maps(configs, trained, tmp_path, capsys):
    config, out = tmp_path / "no_labels.py", tmp_path / "grid.png"
    pipeline = "[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]"
    config.write_text(
        f"_base_ = {str(configs['segmentation'])!r}\ntest_dataloader = dict(dataset=dict(pipeline={pipeline}))\n"
    )
    command = [str(config), str(trained["segmentation"]), "--out", str(out)]
    wanted = "the test pipeline has no LoadAnnotations: add it before PackSegInputs"
    assert error_of(capsys, tool.main, command) == wanted
    assert not out.exists()
