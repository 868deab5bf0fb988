"""The inference APIs of mmdet and mmseg draw a picture, with a config of ours and a checkpoint."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmseg.apis import MMSegInferencer
from PIL import Image

from acon_mm import MetaAconC
from acon_mm.checkpoints import load_checkpoint
from helpers.tiny_runs import run, train

CONFIGS = Path(__file__).parents[2] / "configs"
DETECTION = CONFIGS / "detection/retinanet_r18-metaaconc_fpn_6e_digits.py"
SEGMENTATION = CONFIGS / "segmentation/deeplabv3plus_r18-d16-metaaconc_1xb8-300_digits-160x160.py"


@pytest.fixture
def picture(tmp_path) -> Path:
    Image.fromarray(skimage.data.astronaut()[:160, 130:290]).save(tmp_path / "astronaut.png")
    return tmp_path / "astronaut.png"


def checkpoint(config: Path, path: Path, **dataset_meta) -> dict[str, torch.Tensor]:
    """Save a checkpoint as after training, with weights that no model starts with."""
    cfg = Config.fromfile(config)
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(deepcopy(cfg.model))
    state = {key: torch.full_like(v, 0.3) if key.endswith(".p2") else v for key, v in model.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"dataset_meta": dataset_meta}}, path)
    return state


def assert_loaded(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert any(isinstance(module, MetaAconC) for module in model.modules())


@pytest.mark.slow
def test_detection(picture, tmp_path):
    state = checkpoint(DETECTION, tmp_path / "weights.pth", classes=tuple("0123456789"))
    inferencer = DetInferencer(str(DETECTION), str(tmp_path / "weights.pth"), device="cpu")
    assert_loaded(inferencer.model, state)
    found = inferencer(str(picture), out_dir=str(tmp_path / "out"), pred_score_thr=0.0)["predictions"][0]
    assert len(found["bboxes"]) > 0
    shown = np.asarray(Image.open(tmp_path / "out/vis/astronaut.png"))
    assert shown.shape == (160, 160, 3)
    assert (shown != np.asarray(Image.open(picture))).any()


@pytest.mark.slow
def test_segmentation(picture, tmp_path):
    palette = [[25 * i, 0, 255 - 25 * i] for i in range(11)]
    classes = ("background", *"0123456789")
    state = checkpoint(SEGMENTATION, tmp_path / "weights.pth", classes=classes, palette=palette)
    inferencer = MMSegInferencer(
        str(SEGMENTATION), str(tmp_path / "weights.pth"), classes=list(classes), palette=palette, device="cpu"
    )
    assert_loaded(inferencer.model, state)
    found = inferencer(str(picture), out_dir=str(tmp_path / "out"))["predictions"]
    assert found.shape == (160, 160)
    assert found.min() >= 0 and found.max() <= 10
    shown = np.asarray(Image.open(tmp_path / "out/vis/astronaut.png"))
    assert shown.shape == (160, 160, 3)
    assert (shown != np.asarray(Image.open(picture))).any()


# Another's process, which knows nothing of acon_mm.
OF_ANOTHER = """
import sys
from mmdet.apis import DetInferencer, init_detector

assert "acon_mm" not in sys.modules
config, checkpoint = sys.argv[1:]
for model in (
    init_detector(config, checkpoint, device="cpu"),
    DetInferencer(config, checkpoint, device="cpu").model,
):
    activation = model.backbone.layer1[0].act1
    assert type(activation).__module__ == "acon_mm.layers.acon"
    print(type(activation).__name__, activation.p1.sum().item())
"""


@pytest.mark.slow
def test_the_config_that_a_run_saves_is_enough(configs, tmp_path):
    """Also where the config of the run does not import acon_mm: the tool had."""
    text = configs["detection"].read_text()
    line = 'custom_imports = dict(imports=["acon_mm"], allow_failed_imports=False)\n'
    assert line in text
    (tmp_path / "detection.py").write_text(text.replace(line, ""))
    no_val = ("val_cfg=None", "val_dataloader=None", "val_evaluator=None")
    options = ("train_cfg.max_iters=1", "default_hooks.checkpoint.interval=1", "model.backbone.act_cfg.type=AconC")
    run(train, tmp_path / "detection.py", tmp_path / "work", options=(*options, *no_val))
    checkpoint = tmp_path / "work/iter_1.pth"
    command = [sys.executable, "-c", OF_ANOTHER, str(tmp_path / "work/detection.py"), str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    p1 = load_checkpoint(checkpoint)["state_dict"]["backbone.layer1.0.act1.p1"]
    shown = [each for each in done.stdout.splitlines() if each.startswith("AconC ")]
    assert shown == [f"AconC {p1.sum().item()}"] * 2
