"""Tiny runs of `tools/`: a Mask R-CNN and an FCN on four pictures, and helpers for their tests."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acon_mm.checkpoints import load_checkpoint

logging.raiseExceptions = False  # a logger of an earlier test writes into the output of that test, which is closed

TOOLS = Path(__file__).parents[2] / "tools"
SIZE, PICTURES = 64, 4


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(f"acon_mm_{name}_tool", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train, test = load_tool("train"), load_tool("test")

DETECTION = """
_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["acon_mm"], allow_failed_imports=False)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(depth=18, base_channels=8, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_classes=2),
    ),
    # no threshold, so that an untrained detector finds something
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
data_root = "{data}/"
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
dataset = dict(
    type="CocoDataset",
    data_root=data_root,
    ann_file="boxes.json",
    data_prefix=dict(img="images/"),
    metainfo=dict(classes=("bright", "dark")),
)
loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader = dict(
    **loader,
    batch_sampler=None,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(**dataset, pipeline=test_pipeline),
)
val_dataloader = dict(**loader, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "boxes.json")
test_evaluator = val_evaluator
auto_scale_lr = dict(enable=False, base_batch_size=8)
"""

SEGMENTATION = """
default_scope = "mmseg"
custom_imports = dict(imports=["acon_mm"], allow_failed_imports=False)
norm_cfg = dict(type="SyncBN")
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 64), pad_val=0, seg_pad_val=255),
    backbone=dict(
        type="ResNet",
        depth=18,
        base_channels=8,
        stem_channels=8,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(0, 1),
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        type="FCNHead",
        in_channels=16,
        in_index=1,
        channels=8,
        num_convs=1,
        num_classes=3,
        dropout_ratio=0.0,  # resuming does not restore the state of random numbers
        norm_cfg=norm_cfg,
    ),
    test_cfg=dict(mode="whole"),
)
pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
dataset = dict(
    type="BaseSegDataset",
    data_root="{data}",
    data_prefix=dict(img_path="images", seg_map_path="labels"),
    metainfo=dict(classes=("background", "bright", "dark"), palette=[[0, 0, 0], [255, 255, 255], [99, 99, 99]]),
    pipeline=pipeline,
)
train_dataloader = dict(
    batch_size=2, sampler=dict(type="InfiniteSampler"), dataset=dict(type="RepeatDataset", times=2, dataset=dataset)
)
val_dataloader = dict(batch_size=1, sampler=dict(type="DefaultSampler", shuffle=False), dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = [val_evaluator]
default_hooks = dict(visualization=dict(type="SegVisualizationHook"))
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD"))
train_cfg = dict()
"""

SCHEDULE = """
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=2, val_interval=2)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(optimizer=dict(lr=0.01, momentum=0.9))
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2))
randomness = dict(seed=0)
log_processor = dict(by_epoch=False)
"""


@pytest.fixture(scope="session")
def configs(tmp_path_factory) -> dict[str, Path]:
    """A detection and a segmentation config with the same pictures: a bright and a dark rectangle on noise."""
    root = tmp_path_factory.mktemp("tools")
    for name in ("images", "labels"):
        (root / name).mkdir()
    images, annotations = [], []
    rng = np.random.default_rng(0)
    for index in range(PICTURES):
        picture = rng.integers(90, 160, (SIZE, SIZE, 3), dtype=np.uint8)
        labels = np.zeros((SIZE, SIZE), np.uint8)
        for category, (left, value) in enumerate([(4 + index, 255), (34 + index, 0)], start=1):
            x, y, w, h = left, 10 + 5 * index, 20, 24
            picture[y : y + h, x : x + w] = value
            labels[y : y + h, x : x + w] = category
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotation = {"id": len(annotations) + 1, "image_id": index, "category_id": category, "iscrowd": 0}
            annotations.append(annotation | {"bbox": [x, y, w, h], "area": w * h, "segmentation": [polygon]})
        Image.fromarray(picture).save(root / "images" / f"{index}.jpg")
        Image.fromarray(labels).save(root / "labels" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.jpg", "width": SIZE, "height": SIZE})
    categories = [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}]
    (root / "boxes.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    paths = {"detection": root / "detection.py", "segmentation": root / "segmentation.py", "data": root}
    (root / "detection.py").write_text(DETECTION.replace("{data}", str(root)) + SCHEDULE)
    (root / "base.py").write_text(SEGMENTATION.replace("{data}", str(root)))
    (root / "segmentation.py").write_text('_base_ = "base.py"\n' + SCHEDULE)
    return paths


_names = itertools.count()


def run(tool, config: Path, work_dir: Path, *args: str, options: tuple[str, ...] = ()):
    """One run in this process. It has its own name, since MMEngine keeps loggers and visualizers by name."""
    name = f"run{next(_names)}"
    own = (f"experiment_name={name}", f"visualizer.name={name}")
    return tool.main([str(config), *args, "--work-dir", str(work_dir), "--cfg-options", *own, *options])


@pytest.fixture(scope="session")
def trained(configs, tmp_path_factory) -> dict[str, Path]:
    """The checkpoints of both configs after two iterations."""
    work_dirs = {task: tmp_path_factory.mktemp(task) for task in ("detection", "segmentation")}
    for task, work_dir in work_dirs.items():
        run(train, configs[task], work_dir)
    return {task: work_dir / "iter_2.pth" for task, work_dir in work_dirs.items()}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_script(name: str, *args: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    """Run a shell script of `tools/` with this interpreter as its `python` and a free port for its processes."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PORT": free_port(), **env}
    command = ["bash", str(TOOLS / name), *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def log_of(work_dir: Path) -> str:
    return "".join(path.read_text() for path in sorted(work_dir.glob("*/*.log")))


def error_of(capsys, function, *args, **kwargs) -> str:
    """The one line that a tool prints on stderr before it exits with 1, or with 2 for wrong arguments."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        function(*args, **kwargs)
    lines = capsys.readouterr().err.splitlines()
    assert exit_.value.code in (1, 2) and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0].removeprefix("error: ")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["state_dict"]


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {key for key in first if not torch.equal(first[key], second[key])}
