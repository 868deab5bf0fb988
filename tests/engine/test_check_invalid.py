"""Runs that stop before they compute with NaN, learn from nothing or load a broken file."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.hooks import LoggerHook
from mmengine.structures import InstanceData
from PIL import Image

from acon_mm.checkpoints import load_checkpoint
from acon_mm.engine import CheckInvalidHook, command_line
from acon_mm.engine.data_checks import check_labels
from acon_mm.errors import DataError
from helpers.faults import NO_VAL
from helpers.tiny_runs import error_of, run, test, train

NAN_INPUT = ("model.data_preprocessor.std=[0.0,1.0,1.0]", "model.data_preprocessor.mean=[0.0,0.0,0.0]")


def with_settings(monkeypatch, config, **settings):
    """Let the tools read a config with these settings, which a command line cannot express."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(settings)
    monkeypatch.setattr(command_line.Config, "fromfile", lambda _: cfg)


@pytest.mark.slow
def test_a_loss_that_is_not_finite(configs, tmp_path, capsys, monkeypatch):
    loss = {"type": "CrossEntropyLoss", "loss_weight": float("nan")}
    with_settings(monkeypatch, configs["segmentation"], **{"model.decode_head.loss_decode": loss})
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, options=NO_VAL)
    assert error.startswith(f"iteration 1, pictures {configs['data']}/images/")
    assert "jpg: decode.loss_ce is not finite. The first layer that is not finite is decode_head.loss_" in error
    assert error.count(f"{configs['data']}/images/") == 2 and not list(tmp_path.glob("*.pth"))


@pytest.mark.slow
def test_the_first_layer_is_named(configs, tmp_path, capsys, monkeypatch):
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, options=(*NO_VAL, *NAN_INPUT))
    assert "The input of the model is not finite" in error
    options = ("optim_wrapper.optimizer.lr=1e38", "train_cfg.max_iters=3", "param_scheduler=None", *NO_VAL)
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, options=options)
    assert (
        error.startswith("iteration 2, ") and "is not finite. The first layer that is not finite is backbone." in error
    )


@pytest.mark.slow
def test_it_can_be_turned_off(configs, tmp_path):
    off = ("default_hooks.check_invalid=None", "train_cfg.max_iters=1", *NO_VAL, *NAN_INPUT)
    run(train, configs["segmentation"], tmp_path, options=off)


@pytest.mark.slow
def test_weights_that_are_not_finite(configs, trained, tmp_path, capsys):
    checkpoint = load_checkpoint(trained["segmentation"])
    tensor = "backbone.layer1.0.conv1.weight"
    checkpoint["state_dict"][tensor] = torch.full_like(checkpoint["state_dict"][tensor], torch.inf)
    torch.save(checkpoint, tmp_path / "x.pth")
    for acon in ((), ("model.backbone.act_cfg.type=AconC",)):
        error = error_of(capsys, run, test, configs["segmentation"], tmp_path, str(tmp_path / "x.pth"), options=acon)
        assert "not finite" in error and tensor in error


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_test_that_computes_nan_has_no_metric(task, configs, trained, tmp_path, capsys):
    """Of an input that is not finite, and of finite weights that cannot be."""
    args = configs[task], tmp_path, str(trained[task])
    error = error_of(capsys, run, test, *args, options=NAN_INPUT)
    assert error.startswith("iteration 1, ") and "is NaN, so no metric would mean anything: " in error
    checkpoint = load_checkpoint(trained[task])
    checkpoint["state_dict"]["backbone.layer1.0.bn1.running_var"].fill_(-1)
    torch.save(checkpoint, tmp_path / "x.pth")
    error = error_of(capsys, run, test, *args[:2], str(tmp_path / "x.pth"))
    assert ".jpg: the output of backbone.layer1 is NaN" in error


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_nothing_to_learn_from(task, configs, tmp_path, capsys):
    if task == "detection":
        annotations = json.loads((configs["data"] / "boxes.json").read_text()) | {"annotations": []}
        (tmp_path / "empty.json").write_text(json.dumps(annotations))
        options = (f"train_dataloader.dataset.ann_file={tmp_path}/empty.json", *NO_VAL)
    else:
        shutil.copytree(configs["data"] / "labels", tmp_path / "labels")
        for path in (tmp_path / "labels").iterdir():
            Image.new("L", (64, 64), 255).save(path)
        options = (f"train_dataloader.dataset.dataset.data_prefix.seg_map_path={tmp_path}/labels", *NO_VAL)
    error = error_of(capsys, run, train, configs[task], tmp_path, options=options)
    left = 0 if task == "detection" else 4  # mmdet's filter
    assert f"the data has nothing usable: of 4 pictures with 0 objects, {left} pictures are left" in error


@pytest.mark.slow
def test_a_file_that_cannot_be_loaded_is_named(configs, tmp_path, capsys):
    shutil.copytree(configs["data"] / "images", tmp_path / "images")
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    data = "train_dataloader.dataset.dataset"
    options = (f"{data}.data_prefix.img_path={tmp_path}/images", "train_dataloader.num_workers=1", *NO_VAL)
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, options=options)
    assert error.startswith(f"cannot load {tmp_path}/images/") and ".jpg with " in error and "Traceback" not in error


@pytest.mark.slow
def test_a_label_beyond_the_classes_is_named(configs, tmp_path, capsys):
    shutil.copytree(configs["data"] / "labels", tmp_path / "labels")
    for path in (tmp_path / "labels").iterdir():
        Image.new("L", (64, 64), 7).save(path)
    options = (f"train_dataloader.dataset.dataset.data_prefix.seg_map_path={tmp_path}/labels", *NO_VAL)
    Image.new("L", (64, 64), 1).save(tmp_path / "labels/0.png")
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, options=options)
    assert f"{tmp_path}/labels/" in error and error.endswith("has the labels [7], but there are only 3 classes")


def test_one_process_writes_the_metrics():
    """All processes would write the same file at the same time."""
    for rank in (0, 1):
        hook = LoggerHook()
        runner = SimpleNamespace(model=torch.nn.Linear(1, 1), hooks=[hook], rank=rank)
        CheckInvalidHook().before_test(runner)
        if rank == 0:
            with pytest.raises(AttributeError):  # it wants a runner
                hook.after_test_epoch(None)
        else:
            hook.after_test_epoch(None)


def test_no_iterations(configs, tmp_path, capsys):
    options = ("train_cfg.max_iters=0", *NO_VAL)
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, options=options)
    assert error == "train_cfg trains for 0 iterations: max_epochs or max_iters must be at least 1"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_boxes_of_a_batch(value):
    model = torch.nn.Module()
    model.num_classes = 3
    for boxes in (torch.ones(2, 4), HorizontalBoxes(torch.ones(2, 4))):
        sample = DetDataSample(metainfo={"img_path": "a.jpg"}, gt_instances=InstanceData(bboxes=boxes))
        batch = {"data_samples": [sample], "inputs": torch.zeros(1, 3, 4, 4)}
        check_labels(batch, model, None)
        getattr(boxes, "tensor", boxes)[1, 2] = value
        with pytest.raises(DataError, match=r"^a.jpg has a box that is not finite$"):
            check_labels(batch, model, None)


def checked(field, labels, model, classes=(), **metainfo):
    """Check a batch of one picture of 4 x 4."""
    content = SimpleNamespace(data=torch.tensor(labels), labels=torch.tensor(labels))
    sample = SimpleNamespace(metainfo={"img_path": "a.jpg", **metainfo}, **{field: content})
    batch = {"data_samples": [sample], "inputs": [torch.zeros(3, 4, 4)]}
    check_labels(batch, model, SimpleNamespace(metainfo={"classes": classes}))


@pytest.mark.parametrize("field", ["gt_sem_seg", "gt_instances"])
def test_labels_of_a_batch(field):
    model = torch.nn.ModuleList([torch.nn.ReLU()])
    model[0].num_classes, model[0].ignore_index = 3, 9

    def check(labels, classes=()):
        checked(field, [labels * 2] * 4 if field == "gt_sem_seg" else labels, model, classes)

    check([0, 2, 9, 255][:2] if field == "gt_sem_seg" else [0, 2, 9, 255])
    check([9, 255])
    check([3, 0], classes="abcd")
    with pytest.raises(DataError, match=r"^a.jpg has the labels \[3, 4\], but there are only 3 classes$"):
        check([4, 3])
    for batch in (None, [1], {"data_samples": {"unsupervised": []}}, {}):
        check_labels(batch, model, None)


def test_labels_that_a_box_head_takes_for_the_background():
    """A mask head, or the data set, may know more classes."""
    model = torch.nn.ModuleDict({name: torch.nn.ReLU() for name in ("rpn_head", "bbox_head", "mask_head")})
    for head, count in zip(model.values(), (1, 2, 3)):
        head.num_classes = count
    checked("gt_instances", [0, 1], model, classes="abc")
    with pytest.raises(DataError, match=r"^a.jpg has the labels \[2\], but there are only 2 classes$"):
        checked("gt_instances", [0, 2], model, classes="abc")


def test_label_maps_of_another_size():
    model = torch.nn.Module()
    model.num_classes = 3
    checked("gt_sem_seg", [[0] * 5] * 8, model, ori_shape=(8, 5))  # in tests, only the picture is resized
    with pytest.raises(DataError, match=r"^a.jpg: the label map has the size \(8, 5\), and the picture \(4, 4\)$"):
        checked("gt_sem_seg", [[0] * 5] * 8, model)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["train", "val", "test"])
def test_an_error_in_the_model_names_batch_and_layer(tool, configs, trained, tmp_path, capsys):
    options = ["model.decode_head.in_index=0"] if tool != "val" else ["model.test_cfg.mode=x"]
    if tool == "train":
        options += NO_VAL
    args = [str(trained["segmentation"])] if tool == "test" else []
    error = error_of(capsys, run, test if args else train, configs["segmentation"], tmp_path, *args, options=options)
    layer = "" if tool == "val" else "decode_head.convs.0.conv, "
    assert error.startswith(f"iteration 1, {layer}pictures {configs['data']}/images/")
    assert "Traceback" not in error
