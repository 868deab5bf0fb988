"""`tools/analysis_tools/show_activations.py`."""

import itertools
import os
import shutil

import pytest

from helpers.tiny_runs import error_of, load_tool, run, train

tool = load_tool("analysis_tools/show_activations")
ALWAYS = {f"{name}.{suffix}" for name in ("curves", "shares", "spreads") for suffix in ("png", "svg")}
BETAS = {f"betas_by_{name}.{suffix}" for name in ("picture", "class") for suffix in ("png", "svg")}


_names = itertools.count()


def show(*args: str) -> None:
    """The tool; each call has its own name, since mmengine keeps visualizers by name."""
    args = (*args, *(() if "--cfg-options" in args else ("--cfg-options",)))
    name = f"show{next(_names)}"
    tool.main([*args, f"experiment_name={name}", f"visualizer.name={name}"])


@pytest.fixture(scope="module")
def pixel_wise(configs, tmp_path_factory):
    """A segmentor with a pixel-wise Meta-ACON, its options and its checkpoint after an iteration."""
    options = ("model.backbone.act_cfg.type=MetaAconC", "model.backbone.act_cfg.generator=pixel")
    work_dir = tmp_path_factory.mktemp("pixel")
    no_val = ("val_cfg=None", "val_dataloader=None", "val_evaluator=None", "train_cfg.max_iters=1")
    run(train, configs["segmentation"], work_dir, options=(*options, *no_val))
    return ["--cfg-options", *options], work_dir / "iter_1.pth"


@pytest.mark.slow
def test_of_the_test_set(configs, pixel_wise, tmp_path, capsys):
    options, checkpoint = pixel_wise
    earlier = tmp_path / "earlier"
    earlier.write_text("whole")
    os.link(earlier, tmp_path / "activations.html")
    show(*[str(configs["segmentation"]), str(checkpoint), "--out", str(tmp_path), "--count", "3", *options])
    assert earlier.read_text() == "whole"  # a new file took its place at once
    assert {path.name for path in tmp_path.glob("*.*g")} == ALWAYS | BETAS | {"maps.png", "maps.svg"}
    text = (tmp_path / "betas_by_class.svg").read_text()
    assert all(name in text for name in ("background", "bright", "dark"))
    assert "3.jpg" not in (tmp_path / "betas_by_picture.svg").read_text()
    page = (tmp_path / "activations.html").read_text()
    assert page.count("<figure>") == 6 and "http" not in page.replace("http://www.w3.org", "")
    out = " ".join(capsys.readouterr().out.split())
    assert "| backbone.layer1.0.act1 | MetaAconC | 8 | " in out
    assert "Most channels are near linear in: none of the layers." in out


@pytest.mark.slow
def test_of_own_pictures(configs, pixel_wise, tmp_path):
    """The subdirectories are classes."""
    options, checkpoint = pixel_wise
    for index, name in enumerate(("cats", "dogs")):
        (tmp_path / "own" / name).mkdir(parents=True)
        shutil.copy(configs["data"] / "images" / f"{index}.jpg", tmp_path / "own" / name)
    args = ["--pictures", str(tmp_path / "own"), "--out", str(tmp_path / "out")]
    show(*[str(configs["segmentation"]), str(checkpoint), *args, *options])
    by_class = (tmp_path / "out" / "betas_by_class.svg").read_text()
    assert "cats" in by_class and "dogs" in by_class and "bright" not in by_class
    assert "cats/0.jpg" in (tmp_path / "out" / "betas_by_picture.svg").read_text()


@pytest.mark.slow
def test_errors(configs, trained, pixel_wise, tmp_path, capsys):
    options, checkpoint = pixel_wise
    config, out = str(configs["segmentation"]), ["--out", str(tmp_path / "out")]
    (tmp_path / "empty").mkdir()
    for args, error in (
        ([str(checkpoint), "--count", "0"], "argument --count: must be 1 or more, got 0"),
        ([str(checkpoint), "--pictures", "nowhere"], "--pictures must be a directory, and nowhere is none"),
        (
            [str(checkpoint), "--pictures", str(tmp_path / "empty"), *options],
            f"--pictures {tmp_path}/empty has no pictures",
        ),
        ([str(trained["segmentation"])], f"the model of {config} has no ACON with a curve per channel"),
    ):
        assert error_of(capsys, show, config, args[0], *out, *args[1:]).startswith(error)
