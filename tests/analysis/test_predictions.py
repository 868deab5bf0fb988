"""The grid of truth and predictions."""

import numpy as np
import pytest
from PIL import Image

from helpers.tiny_runs import error_of, load_tool

tool = load_tool("analysis_tools/draw_predictions")

WIDTH, GAP = 320, 10


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_truth_is_above_and_predictions_are_below(task, configs, trained, tmp_path):
    def drawn(threshold):
        out = tmp_path / "new" / f"{threshold}.png"
        tool.main([str(configs[task]), str(trained[task]), "--out", str(out), "--num", "3", "--score-thr", threshold])
        pixels = np.asarray(Image.open(out).convert("RGB")).astype(int)
        assert pixels.shape == (2 * (WIDTH + GAP), 3 * (WIDTH + GAP), 3)
        assert (pixels[WIDTH : WIDTH + GAP] > 250).all() and (pixels[:, WIDTH : WIDTH + GAP] > 250).all()
        rows = pixels.reshape(2, WIDTH + GAP, 3, WIDTH + GAP, 3).swapaxes(1, 2)
        return rows[:, :, :WIDTH, :WIDTH]

    plain = [Image.open(configs["data"] / f"images/{index}.jpg").convert("RGB") for index in (0, 1, 2)]
    plain = [np.asarray(each.resize((WIDTH, WIDTH))).astype(int) for each in plain]

    def changed(cell, picture):
        return int((np.abs(cell - picture).max(-1) > 60).sum())  # the enlargement changes less

    rows = drawn("0")
    for row in rows:
        assert all(changed(cell, picture) > 1000 for cell, picture in zip(row, plain))
    if task == "detection":
        # The first true box is at x 4 to 24, y 10 to 34, and the picture five times as large.
        edge, inside = (np.abs(rows[0, 0, 140, x] - plain[0][140, x]).max() for x in (20, 90))
        assert inside < 60 < edge
        without = drawn("1")
        assert all(
            changed(cell, picture) < changed(full, picture) for cell, full, picture in zip(without[1], rows[1], plain)
        )
        assert all(changed(cell, picture) > 1000 for cell, picture in zip(without[0], plain))


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
