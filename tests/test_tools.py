"""`tools/`: real runs of a tiny Mask R-CNN and a tiny FCN on pictures made here, and every refusal by its text."""

import importlib.util
import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from acon_mm import cpu, runtime
from acon_mm.checkpoints import load_checkpoint
from acon_mm.errors import UserError

TOOLS = Path(__file__).parents[1] / "tools"
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
    # no threshold: an untrained detector shall find something
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
data_root = "{data}/"
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_pipeline = [*test_pipeline[:-1], dict(type="PackDetInputs")]
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
    dataset=dict(**dataset, pipeline=train_pipeline),
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
    """A detection and a segmentation config over the same pictures: a bright and a dark rectangle on noise."""
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
    """One run in this process, under a name of its own: MMEngine keeps loggers and visualizers by name."""
    name = f"run{next(_names)}"
    own = (f"experiment_name={name}", f"visualizer.name={name}")
    return tool.main([str(config), *args, "--work-dir", str(work_dir), "--cfg-options", *own, *options])


@pytest.fixture(scope="session")
def trained(configs, tmp_path_factory) -> dict[str, Path]:
    """A checkpoint after two iterations each."""
    work_dirs = {task: tmp_path_factory.mktemp(task) for task in ("detection", "segmentation")}
    for task, work_dir in work_dirs.items():
        run(train, configs[task], work_dir)
    return {task: work_dir / "iter_2.pth" for task, work_dir in work_dirs.items()}


def log_of(work_dir: Path) -> str:
    return "".join(path.read_text() for path in sorted(work_dir.glob("*/*.log")))


def error_of(capsys, function, *args, **kwargs) -> str:
    """The one line that a tool says on stderr before it exits with 1."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        function(*args, **kwargs)
    lines = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0].removeprefix("error: ")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["state_dict"]


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {key for key in first if not torch.equal(first[key], second[key])}


# What the flags do


def test_detector(configs, trained, tmp_path):
    out, painted = tmp_path / "found.pkl", tmp_path / "painted"
    args = [str(trained["detection"]), "--out", str(out), "--show-dir", str(painted)]
    metrics = run(test, configs["detection"], tmp_path / "work", *args)
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= metrics.keys() and 0 <= metrics["coco/bbox_mAP"] <= 1
    found = pickle.loads(out.read_bytes())
    assert [each["img_id"] for each in found] == list(range(PICTURES))
    assert all(len(each["pred_instances"]["bboxes"]) == 5 for each in found)
    assert sorted(path.name for path in painted.iterdir()) == [f"{index}.jpg" for index in range(PICTURES)]


def test_segmentor(configs, trained, tmp_path):
    out, painted = tmp_path / "labels", tmp_path / "painted"
    args = [str(trained["segmentation"]), "--out", str(out), "--show-dir", str(painted)]
    metrics = run(test, configs["segmentation"], tmp_path / "work", *args)
    truth, predicted = (
        np.stack([np.asarray(Image.open(root / f"{index}.png")) for index in range(PICTURES)])
        for root in (configs["data"] / "labels", out)
    )
    ious = [np.sum((truth == k) & (predicted == k)) / np.sum((truth == k) | (predicted == k)) for k in range(3)]
    assert metrics["mIoU"] == pytest.approx(100 * np.mean(ious), abs=0.006)
    assert len(list(painted.rglob("*.png"))) == PICTURES


def test_tta_of_a_detector_flips_by_default(configs, trained, tmp_path):
    # mmdet has no TTA for masks
    no_masks = ("model.roi_head.mask_head=None", "model.roi_head.mask_roi_extractor=None", "test_evaluator.metric=bbox")
    metrics = run(test, configs["detection"], tmp_path, str(trained["detection"]), "--tta", options=no_masks)
    assert "coco/bbox_mAP" in metrics
    cfg = Config.fromfile(tmp_path / "detection.py")
    assert (cfg.model.type, cfg.model.module.type) == ("DetTTAModel", "MaskRCNN")
    assert cfg.test_dataloader.dataset.pipeline[-1].type == "TestTimeAug"


def test_tta_of_a_segmentor_is_in_its_config(configs, trained, tmp_path, capsys):
    args = [configs["segmentation"], tmp_path, str(trained["segmentation"]), "--tta"]
    assert error_of(capsys, run, test, *args) == "--tta needs tta_model and tta_pipeline in the config of a segmentor"
    config = tmp_path / "tta.py"
    config.write_text(
        f"_base_ = {str(configs['segmentation'])!r}\n"
        'tta_model = dict(type="SegTTAModel")\n'
        'flips = [dict(type="RandomFlip", prob=p) for p in (0.0, 1.0)]\n'
        'last = [[dict(type="LoadAnnotations")], [dict(type="PackSegInputs")]]\n'
        'tta_pipeline = [dict(type="LoadImageFromFile"), dict(type="TestTimeAug", transforms=[flips, *last])]\n'
    )
    assert "mIoU" in run(test, config, *args[1:])
    assert Config.fromfile(tmp_path / "tta.py").model.type == "SegTTAModel"


def test_resumed_training_equals_uninterrupted(configs, trained, tmp_path):
    """Iteration, optimizer state, schedule and data order go on where they stopped."""
    four = ("train_cfg.max_iters=4",)
    run(train, configs["segmentation"], tmp_path / "whole", options=four)
    run(train, configs["segmentation"], tmp_path / "rest", "--resume", str(trained["segmentation"]), options=four)
    whole, rest = (load_checkpoint(tmp_path / name / "iter_4.pth") for name in ("whole", "rest"))
    assert rest["meta"]["iter"] == 4 and "resumed epoch: 0, iter: 2" in log_of(tmp_path / "rest")
    assert not differing(whole["state_dict"], rest["state_dict"])
    assert differing(weights(trained["segmentation"]), rest["state_dict"])
    assert whole["param_schedulers"] == rest["param_schedulers"]


def test_resume_without_a_value(configs, tmp_path):
    """From the latest checkpoint, and from scratch where there is none, as after a crash before the first."""
    run(train, configs["segmentation"], tmp_path, "--resume", options=("load_from=elsewhere.pth",))
    assert "Auto resumed from the latest checkpoint None" in log_of(tmp_path)
    run(train, configs["segmentation"], tmp_path, "--resume", options=("train_cfg.max_iters=4",))
    assert "resumed epoch: 0, iter: 2" in log_of(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA takes AmpOptimWrapper as it is")
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_amp_on_cpu_is_bfloat16(configs, trained, tmp_path, task):
    run(train, configs[task], tmp_path, "--amp")
    assert "Mixed precision in bfloat16" in log_of(tmp_path)
    mixed = weights(tmp_path / "iter_2.pth")
    assert {each.dtype for each in mixed.values()} == {torch.float32, torch.int64}
    assert all(each.isfinite().all() for each in mixed.values())
    assert differing(mixed, weights(trained[task]))


def test_auto_scale_lr(configs, tmp_path):
    """Batches of 2 where the learning rate is meant for 8."""
    run(train, configs["detection"], tmp_path, "--auto-scale-lr", options=("param_scheduler=None",))
    optimizer = load_checkpoint(tmp_path / "iter_2.pth")["optimizer"]
    assert {group["lr"] for group in optimizer["param_groups"]} == {0.01 * 2 / 8}


# Distributed


RANK_HOOK = """
import hashlib
from pathlib import Path
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class WriteRank(Hook):
    def after_train(self, runner):
        digests = {}
        for kind in ("parameters", "buffers"):
            values = [value.detach().numpy().tobytes() for value in getattr(runner.model.module, kind)()]
            digests[kind] = hashlib.sha256(b"".join(values)).hexdigest()
        lines = [dist.get_backend(), str(dist.get_world_size()), digests["parameters"], digests["buffers"]]
        Path(runner.work_dir, f"rank{runner.rank}").write_text("\\n".join(lines))
"""


def script(name: str, *args: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", str(TOOLS / name), *map(str, args)]
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA takes nccl")
def test_two_processes_on_cpu(configs, trained, tmp_path):
    """Started elsewhere than in the repository, by a relative path with a space in it."""
    (tmp_path / "write_rank.py").write_text(RANK_HOOK)
    config = tmp_path / "two processes.py"
    config.write_text(
        f"_base_ = {str(configs['segmentation'])!r}\n"
        'custom_imports = dict(imports=["acon_mm", "write_rank"], allow_failed_imports=False)\n'
        'custom_hooks = [dict(type="WriteRank")]\n'
    )
    env = {"PORT": "29611", "PYTHONPATH": str(tmp_path)}
    done = script("dist_train.sh", config.name, 2, "--work-dir", "work dir", cwd=tmp_path, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    work_dir = tmp_path / "work dir"
    first, second = ((work_dir / f"rank{rank}").read_text().split("\n") for rank in (0, 1))
    assert first[:3] == second[:3] and first[:2] == ["gloo", "2"]
    assert first[3] != second[3]  # BN has seen other pictures in each process
    assert log_of(work_dir).count("SyncBN does not work without CUDA: 11 layers are reverted to BN.") == 1
    assert differing(weights(work_dir / "iter_2.pth"), weights(trained["segmentation"]))

    checkpoint = work_dir / "iter_2.pth"
    done = script(
        "dist_test.sh", config.name, checkpoint, 2, "--work-dir", "tested", "--out", "labels", cwd=tmp_path, **env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "labels").iterdir())) == PICTURES
    alone = run(test, configs["segmentation"], tmp_path / "alone", str(checkpoint))
    (result,) = (tmp_path / "tested").glob("*/*.json")
    assert json.loads(result.read_text())["mIoU"] == alone["mIoU"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA takes nccl")
@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_other_launchers_on_cpu(configs, tmp_path, launcher):
    """A job of one process, as such a launcher would describe it."""
    described = dict(zip(cpu.RANK_VARIABLES[launcher], ("0", "1", "0"), strict=True))
    with mock.patch.dict(os.environ, described | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29612"}):
        run(train, configs["segmentation"], tmp_path, "--launcher", launcher)
    assert f"Distributed launcher: {launcher}" in log_of(tmp_path)
    assert "layers are reverted to BN" in log_of(tmp_path)
    assert not dist.is_initialized()
    # One of its threads that outlives the interpreter would abort the process, now and then.
    assert not [task for task in Path("/proc/self/task").glob("*/comm") if "gloo" in task.read_text()]


def test_slurm_script_passes_everything_on(tmp_path):
    (tmp_path / "srun").write_text('#!/bin/sh\nfor each; do echo "$each"; done\necho "$PYTHONPATH"')
    (tmp_path / "srun").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "GPUS": "4", "SRUN_ARGS": "--qos=low --exclusive"}
    args = ["part", "job", "my config.py", "--cfg-options", "a.b=x y"]

    def arguments(**more: str) -> list[str]:
        command = ["bash", str(TOOLS / "slurm_train.sh"), *args]
        return subprocess.run(command, env=env | more, capture_output=True, text=True, check=True).stdout.splitlines()

    expected = ["-p", "part", "--job-name=job", "--gres=gpu:4", "--ntasks=4", "--ntasks-per-node=4"]
    expected += ["--cpus-per-task=5", "--kill-on-bad-exit=1", "--qos=low", "--exclusive", "python", "-u"]
    expected += [str(TOOLS / "train.py"), "my config.py", "--launcher", "slurm", "--cfg-options", "a.b=x y"]
    assert arguments()[:-1] == expected
    assert arguments()[-1].startswith(f"{TOOLS}/..")
    assert not any("gres" in each for each in arguments(GRES=""))


@pytest.mark.parametrize(
    ("name", "usage"), [("dist_train.sh", 2), ("dist_test.sh", 3), ("slurm_train.sh", 3)], ids=lambda value: str(value)
)
def test_scripts_tell_their_usage(tmp_path, name, usage):
    done = script(name, *["x"] * (usage - 1), cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


# Refusals


@pytest.mark.parametrize("how", ["test", "resume", "resume latest", "load_from"])
def test_a_checkpoint_with_code_is_refused(configs, tmp_path, capsys, how):
    class Code:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    checkpoint = tmp_path / "code.pth"
    torch.save({"state_dict": {}, "meta": Code()}, checkpoint)
    (tmp_path / "last_checkpoint").write_text(str(checkpoint))
    tool, args, options = {
        "test": (test, [str(checkpoint)], ()),
        "resume": (train, ["--resume", str(checkpoint)], ()),
        "resume latest": (train, ["--resume"], ()),
        "load_from": (train, [], (f"load_from={checkpoint}",)),
    }[how]
    error = error_of(capsys, run, tool, configs["segmentation"], tmp_path, *args, options=options)
    assert error.startswith(f"checkpoint {checkpoint} is refused: it asks for posix.system")
    assert not (tmp_path / "ran").exists()


def test_loaders_that_would_fall_back_are_held_to_weights_only(configs, trained, tmp_path, monkeypatch):
    """Some loaders read again with `weights_only=False` what was refused; a URL is read by these only."""
    seen = []
    monkeypatch.setattr(runtime, "build_runner", lambda cfg: mock.Mock(test=lambda: seen.append(loads_code(tmp_path))))
    run(test, configs["segmentation"], tmp_path, "https://example.com/a.pth")
    assert seen == [False]
    assert loads_code(tmp_path)  # the hold ends with the tool


def loads_code(tmp_path: Path) -> bool:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "linear.pth")
    try:
        return bool(torch.load(tmp_path / "linear.pth", weights_only=False))
    except pickle.UnpicklingError:
        return False


def test_the_opt_out_of_safe_loading_is_refused(configs, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    error = error_of(capsys, run, test, configs["segmentation"], tmp_path, str(trained["segmentation"]))
    assert error == "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, which lets a checkpoint run any code: unset it"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no checkpoint {path}"),
        (b"x" * 100, "checkpoint {path} is damaged or none: "),
        ({"state_dict": {}}, "cannot resume from {path}: it has no meta, message_hub, optimizer. To start from its "),
    ],
)
def test_unusable_checkpoints(configs, tmp_path, capsys, content, message):
    path = tmp_path / "a.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, "--resume", str(path))
    assert error.startswith(message.format(path=path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.py", None, "cannot read config {path}: no such file"),
        ("a.txt", "x = 1", "cannot read config {path}: Only py/yml/yaml/json type are supported now!"),
        (
            "a.py",
            '_base_ = "absent.py"',
            "cannot read config {path}: [Errno 2] No such file or directory: '{parent}/absent.py'",
        ),
        ("b.py", "x = 1", "{path} must have default_scope mmdet (detection) or mmseg (segmentation), not None"),
        (
            "c.py",
            'default_scope = "mmdet"',
            "{path} has no model, train_cfg, train_dataloader, optim_wrapper: add it, ",
        ),
    ],
)
def test_unusable_configs(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    error = error_of(capsys, train.main, [str(path), "--work-dir", str(tmp_path)])
    assert error.startswith(message.format(path=path, parent=tmp_path))


def test_a_package_that_is_not_installed(configs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path)
    assert error.endswith("needs mmseg, which is not installed: pip install mmsegmentation")


@pytest.mark.parametrize(
    ("task", "setting", "value", "place"),
    [
        ("detection", "train_dataloader.dataset.ann_file", "no.json", "{data}/no.json"),
        ("detection", "val_dataloader.dataset.data_prefix.img", "no/", "{data}/no/"),
        ("segmentation", "train_dataloader.dataset.dataset.data_prefix.seg_map_path", "no", "{data}/no"),
        ("segmentation", "train_dataloader.dataset.dataset.data_root", "/no", "/no/"),
    ],
)
def test_missing_data(configs, tmp_path, capsys, task, setting, value, place):
    error = error_of(capsys, run, train, configs[task], tmp_path, options=(f"{setting}={value}",))
    assert error.startswith(f"the data set is not there: {setting} is {place.format(data=configs['data'])}. ")
    dataset = setting[: setting.index(".", setting.rindex("dataset"))]
    assert error.endswith(f"--cfg-options {dataset}.data_root=DIRECTORY")


@pytest.mark.parametrize("scoped", [True, False])
def test_data_that_is_made_on_first_use_or_is_elsewhere(scoped):
    def config(**dataset) -> Config:
        joined = {"type": "ConcatDataset", "datasets": [{"data_root": "/no", **dataset}]}
        return Config({"default_scope": "mmseg", "test_dataloader": {"dataset": joined}})

    class MakesItsData:
        makes_own_data = True

    name = "mmseg.MakesItsData" if scoped else "MakesItsData"
    with mock.patch.dict(DATASETS.module_dict if not scoped else DATASETS.children["mmseg"].module_dict):
        (DATASETS.children["mmseg"] if scoped else DATASETS).register_module(module=MakesItsData)
        runtime.check_data(config(type=name), "test_dataloader")
        runtime.check_data(config(type=MakesItsData), "test_dataloader")
    runtime.check_data(config(type="BaseSegDataset", data_root="s3://no"), "test_dataloader")
    runtime.check_data(config(type="BaseSegDataset", backend_args={"backend": "petrel"}), "test_dataloader")
    with pytest.raises(UserError, match=r"test_dataloader\.dataset\.datasets\.0\.data_root is /no/"):
        runtime.check_data(config(type="BaseSegDataset"), "test_dataloader")


@pytest.mark.parametrize(
    ("tool", "task", "args", "options", "message"),
    [
        (train, "segmentation", ["--auto-scale-lr"], (), "--auto-scale-lr needs the batch size that the learning rate"),
        (train, "segmentation", [], ("train_cfg.max_iters.x=1",), "--cfg-options does not fit {config}: max_iters="),
        (
            train,
            "segmentation",
            [],
            ("param_scheduler.9.end=1",),
            "--cfg-options does not fit {config}: Index 9 exceeds",
        ),
        (train, "segmentation", ["--amp"], ("optim_wrapper.type=Other",), "--amp works with optim_wrapper.type "),
        (train, "segmentation", ["--launcher", "mpi"], (), "--launcher mpi needs OMPI_COMM_WORLD_RANK, OMPI_COMM_"),
        (test, "detection", ["--out", "a.json"], (), "--out of a detector must end in .pkl or .pickle, not a.json"),
        (test, "detection", ["--show-dir", "a"], ("default_hooks.visualization=None",), "--show and --show-dir need "),
    ],
)
def test_flags_that_do_not_fit(configs, trained, tmp_path, capsys, tool, task, args, options, message):
    args = [str(trained[task]), *args] if tool is test else args
    error = error_of(capsys, run, tool, configs[task], tmp_path, *args, options=options)
    assert error.startswith(message.format(config=configs[task]))


def test_only_the_first_process_of_a_machine_tells_the_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit, match="1"):
        train.main([str(tmp_path / "absent.py"), "--launcher", "pytorch"])
    assert capsys.readouterr().err == ""
