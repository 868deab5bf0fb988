"""The errors of the tools: each is one line on stderr."""

import importlib.util
import os
import pickle
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from acon_mm.engine import command_line
from acon_mm.errors import UserError
from helpers.tiny_runs import error_of, run, test, train


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
    """Some loaders would read a refused file again with `weights_only=False`. Only they read URLs."""
    seen = []
    monkeypatch.setattr(
        command_line, "build_runner", lambda cfg: mock.Mock(test=lambda: seen.append(loads_code(tmp_path)))
    )
    run(test, configs["segmentation"], tmp_path, "https://example.com/a.pth")
    assert seen == [False]
    assert loads_code(tmp_path)  # the rule ends with the tool


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
        (b"x" * 100, "checkpoint {path} is damaged or not a checkpoint: "),
        (
            {"state_dict": {}},
            "cannot resume from {path}: it has no meta, message_hub. To start a new ",
        ),
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
            "cannot read config {path}: [Errno 2] No such file or directory: ",
        ),
        ("b.py", "x = 1", "{path} must have default_scope mmdet (detection) or mmseg (segmentation), not None"),
        (
            "c.py",
            'default_scope = "mmdet"',
            "{path} has no model, train_cfg, train_dataloader, optim_wrapper: add it, ",
        ),
        (
            "d.py",
            'custom_imports = dict(imports=["absent_module"])',
            "cannot read config {path}: No module named 'absent_module'",
        ),
    ],
)
def test_unusable_configs(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    error = error_of(capsys, train.main, [str(path), "--work-dir", str(tmp_path)])
    assert error.startswith(message.format(path=path))


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
    assert error.startswith(f"the data set is missing: {setting} is {place.format(data=configs['data'])}, which ")
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
        command_line.check_data(config(type=name), "test_dataloader")
        command_line.check_data(config(type=MakesItsData), "test_dataloader")
    command_line.check_data(config(type="BaseSegDataset", data_root="s3://no"), "test_dataloader")
    command_line.check_data(config(type="BaseSegDataset", backend_args={"backend": "petrel"}), "test_dataloader")
    with pytest.raises(UserError, match=r"test_dataloader\.dataset\.datasets\.0\.data_root is /no/"):
        command_line.check_data(config(type="BaseSegDataset"), "test_dataloader")


@pytest.mark.parametrize(
    ("tool", "task", "args", "options", "message"),
    [
        (train, "segmentation", ["--auto-scale-lr"], (), "--auto-scale-lr needs the batch size for which the learning"),
        (train, "segmentation", [], ("train_cfg.max_iters.x=1",), "--cfg-options does not fit {config}: max_iters="),
        (
            train,
            "segmentation",
            [],
            ("param_scheduler.9.end=1",),
            "--cfg-options does not fit {config}: Index 9 ",
        ),
        (train, "segmentation", ["--amp"], ("optim_wrapper.type=Other",), "--amp needs optim_wrapper.type "),
        (train, "segmentation", ["--launcher", "mpi"], (), "--launcher mpi needs OMPI_COMM_WORLD_RANK, OMPI_COMM_"),
        (test, "detection", ["--out", "a.json"], (), "--out of a detector must end in .pkl or .pickle, got a.json"),
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
