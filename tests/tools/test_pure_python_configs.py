"""Configs in pure Python: classes as types, and no default_scope."""

import re

import pytest
from mmengine.config import Config

from acon_mm.engine import command_line
from helpers.tiny_runs import SEGMENTATION, error_of, run, test, train, weights

HEAD = """
from mmengine.dataset import DefaultSampler, InfiniteSampler, RepeatDataset
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from mmseg.datasets import BaseSegDataset, LoadAnnotations, PackSegInputs
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, FCNHead, ResNet, SegDataPreProcessor
from mmseg.visualization import SegLocalVisualizer
from mmcv.transforms import LoadImageFromFile
from torch.optim import SGD

from acon_mm import AconC
"""
RUN = """
model.update(backbone=dict(**model["backbone"], act_cfg=dict(type=AconC)))
train_cfg = dict(type=IterBasedTrainLoop, max_iters=1, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01))
default_hooks.update(checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=1))
log_processor = dict(by_epoch=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["", "default_scope = None"])
def test_classes_without_a_scope_are_trained_and_tested(configs, tmp_path, scope):
    text = re.sub(r'\btype="(?!SyncBN)(\w+)"', r"type=\1", SEGMENTATION.replace("{data}", str(configs["data"])))
    text = text.replace('default_scope = "mmseg"', scope)
    (tmp_path / "pure.py").write_text(HEAD + text + RUN)
    run(train, tmp_path / "pure.py", tmp_path / "work")
    assert any(name.endswith("act1.p1") for name in weights(tmp_path / "work/iter_1.pth"))
    saved = tmp_path / "work/pure.py"  # what the run has saved is a config of its own
    assert "mIoU" in run(test, saved, tmp_path / "test", str(tmp_path / "work/iter_1.pth"))


@pytest.mark.parametrize(
    ("model", "package"),
    [
        ("dict(type='mmdet.RetinaNet')", "mmdet"),
        ("dict(type='Wrapper', data=[dict(type='mmseg.ResNet'), dict(type='mmdet.FPN')])", "mmseg"),
        ("dict(type='RetinaNet')", None),
        ("[1]", None),
    ],
)
def test_the_package_by_the_names(tmp_path, capsys, model, package):
    path = tmp_path / "a.py"
    path.write_text(f"model = {model}\n")
    if package is None:
        error = error_of(capsys, train.main, [str(path)])
        assert error.startswith(f"{path} must have default_scope mmdet (detection) or mmseg (segmentation), not None")
    else:
        cfg: Config = command_line.load_config(train.parse_args([str(path)]), needs=())
        assert cfg.default_scope == package
