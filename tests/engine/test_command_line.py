"""The errors of the tools: each is one line on stderr."""

import importlib.util
import os
import pickle
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from acon_mm.analysis.machine import refuse_windows, usable_device
from acon_mm.engine import command_line, devices
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
    assert f"checkpoint {checkpoint} is refused: it asks for posix.system" in error
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
            "cannot read config {path}: [Errno 2] No such file or directory: '{path.parent}/absent.py'",
        ),
        (
            "a.py",
            '_base_ = ["b.json"]',
            "cannot read config {path}: file ",
        ),
        (
            "a.py",
            '_base_ = "absent::a/b.py"',
            "cannot read config {path}: AssertionError: mmengine does not support to load absent config",
        ),
        ("a.py", "_base_ = 1", "cannot read config {path}: _base_ must be a name or a list of names, got 1"),
        ("b.py", "x = 1", "{path} must have default_scope mmdet (detection) or mmseg (segmentation), not None"),
        (
            "c.py",
            'default_scope = "mmdet"',
            "{path} has no model, train_cfg, train_dataloader, optim_wrapper: add it, ",
        ),
        ("e.py", "_base_ = './e.py'", "cannot read config {path}: its _base_ is circular: {path} -> {path}"),
        (
            "f.py",
            "default_scope = 'mmdet'\nmodel = dict(type=int)",
            "model.type in {path} is a class or function, which cannot be saved with the config: write its name, ",
        ),
        (
            "g.py",
            "default_scope = 'mmdet'\nmodel = dict(acts=[dict(a=1), lambda x: x])",
            "model.acts in {path} is a class or function, which cannot be saved with the config: ",
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
    (tmp_path / "b.json").write_text('{"_base_": "mmdet::no/no.py"}')
    if content is not None:
        path.write_text(content)
    error = error_of(capsys, train.main, [str(path), "--work-dir", str(tmp_path)])
    assert error.startswith(message.format(path=path))


def test_a_package_that_is_not_installed(configs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path)
    assert error.endswith("needs mmseg, which is not installed: pip install mmsegmentation")


@pytest.mark.parametrize(
    ("task", "setting", "value", "told"),
    [
        ("detection", "train_dataloader.dataset.ann_file", "no.json", "directory: '{data}/no.json'"),
        ("detection", "val_dataloader.dataset.data_prefix.img", "no/", "missing: {data}/no/"),
        ("segmentation", "train_dataloader.dataset.dataset.data_prefix.seg_map_path", "no", "missing: {data}/no/"),
        ("segmentation", "train_dataloader.dataset.dataset.data_root", "/no", "directory: '/no/images'"),
    ],
)
def test_missing_data(configs, tmp_path, capsys, task, setting, value, told):
    error = error_of(capsys, run, train, configs[task], tmp_path, options=(f"{setting}={value}",))
    assert told.format(data=configs["data"]) in error


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


def resumable(path, **changes):
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": {"epoch": 0, "iter": 1}, "message_hub": {}} | changes, path)


def test_the_newest_whole_checkpoint_is_resumed_from(tmp_path, capsys):
    cfg = Config({"work_dir": str(tmp_path), "launcher": "none"})
    assert train.latest_checkpoint(cfg) is None
    for number in (2, 9, 10):
        resumable(tmp_path / f"iter_{number}.pth")
    pointer = tmp_path / "last_checkpoint"
    pointer.write_text("/elsewhere/iter_9.pth")  # the directory was moved
    assert train.latest_checkpoint(cfg) == str(tmp_path / "iter_9.pth") and capsys.readouterr().err == ""
    pointer.write_text("")
    assert train.latest_checkpoint(cfg) == str(tmp_path / "iter_10.pth")
    assert capsys.readouterr().err.startswith(f"warning: resuming from {tmp_path}/iter_10.pth, because {pointer} is ")
    content = (tmp_path / "iter_10.pth").read_bytes()
    (tmp_path / "iter_10.pth").write_bytes(content[:-50])
    resumable(tmp_path / "iter_9.pth", state_dict={})
    pointer.write_text(str(tmp_path / "iter_10.pth"))
    assert train.latest_checkpoint(cfg) == str(tmp_path / "iter_2.pth")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and f"because checkpoint {tmp_path}/iter_10.pth is damaged" in told[0]
    assert told[1].endswith(f"because {tmp_path}/iter_9.pth has no weights")
    resumable(tmp_path / "iter_3.pth", state_dict={"a": torch.full((1,), torch.nan)})
    (tmp_path / "iter_11.pth").symlink_to("/nowhere")
    assert train.latest_checkpoint(cfg) == str(tmp_path / "iter_2.pth")
    assert "the weights in" in capsys.readouterr().err
    (tmp_path / "iter_2.pth").unlink()
    with pytest.raises(UserError, match=r"iter_10.pth is damaged.*; .*iter_9.pth has no weights"):
        train.latest_checkpoint(cfg)
    pointer.unlink()  # nothing was ever whole
    assert train.latest_checkpoint(cfg) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"optimizer": [1]}, "optimizer"), ({"meta": {"epoch": 1, "iter": "x"}}, "meta.iter"), ({"meta": 1}, "meta")],
)
def test_training_state_of_wrong_types(changes, named, tmp_path):
    resumable(tmp_path / "x.pth", **changes)
    with pytest.raises(UserError, match=f"cannot resume from .*x.pth: it has no {named}[.] To start"):
        command_line.check_checkpoint(str(tmp_path / "x.pth"), to_resume=True)


def test_a_pipe_and_a_directory_are_no_checkpoints(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match=f"^{path} is no checkpoint: it is not a file$"):
            command_line.check_checkpoint(str(path))


def test_a_changed_tensor_is_damage(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.full((99,), 3.0)}, path)
    content = path.read_bytes()
    place = content.index(torch.full((9,), 3.0).numpy().tobytes())
    path.write_bytes(content[:place] + b"1" + content[place + 1 :])
    with pytest.raises(UserError, match=r"x.pth is damaged: the checksum of .*data/0 is wrong"):
        command_line.check_checkpoint(str(path))


def test_a_checkpoint_without_checksums_is_whole(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(9)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    command_line.check_checkpoint(str(tmp_path / "x.pth"))


def test_a_work_directory_is_used_by_one_training(tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "LOCK_SECONDS", 0.1)
    cfg = Config({"work_dir": str(tmp_path / "work"), "launcher": "none"})
    with command_line.locked(cfg):
        with pytest.raises(UserError, match=f"^another training uses {tmp_path}/work, and would overwrite its "):
            command_line.locked(cfg).__enter__()
        monkeypatch.setenv("RANK", "1")  # of the same training
        with command_line.locked(Config({**cfg, "launcher": "pytorch"})):
            pass
    with command_line.locked(cfg):
        pass
    with pytest.raises(OSError, match="/proc/no"):
        command_line.locked(Config({"work_dir": "/proc/no", "launcher": "none"})).__enter__()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.backbone.act_cfg.r=1.5", "model.backbone.act_cfg.r: r must be an int from 1 to 65536, got 1.5: "),
        ("model.backbone.depth=7", "model.backbone.depth: invalid depth 7 for resnet"),
        ("model.type=Encoder", "model.type: Encoder is not in the mmseg::model registry."),
        ("train_dataloader.dataset.type=Data", "train_dataloader.dataset.type: Data is not in the mmseg::dataset"),
        ("val_evaluator.type=metric", "val_evaluator.type: metric is not in the mmseg::metric registry"),
        ("optim_wrapper.optimizer.lr=x", "optim_wrapper.optimizer: "),
        ("default_hooks.checkpoint.type=Hok", "default_hooks.checkpoint.type: Hok is not in the "),
        ("model=1", "model in {config} must be a dict, got 1"),
        ("train_dataloader.batch_size=0", "train_dataloader.batch_size: "),
        ("train_dataloader.dataset.times=0", "the RepeatDataset of {{'img_path': "),
        ("train_dataloader.dataset=None", "train_dataloader.dataset in {config} must be a dict, got None"),
        ("default_hooks=1", "default_hooks in {config} must be a dict, got 1"),
        ("load_from=openmmlab://no", "KeyError: no (file: openmmlab://no)"),
        ("default_hooks.checkpoint.priority=SOON", "default_hooks.checkpoint.priority: KeyError: SOON"),
        ("log_level=LOUD", "log_level: KeyError: LOUD"),
        ("load_from=3", "a checkpoint is the name of a file or a URL, got 3"),
        ("train_dataloader.batch_size=None", "KeyError: 0 (in pseudo_collate of mmengine.dataset.utils)"),
        ("load_from=file:///x.pth", "file:///x.pth is not supported: give the path of the file without file://"),
    ],
)
def test_errors_name_their_place(configs, tmp_path, capsys, setting, message):
    options = (setting, *(["model.backbone.act_cfg.type=MetaAconC"] if "act_cfg" in setting else []))
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, options=options)
    assert error.startswith(message.format(config=configs["segmentation"]))


def test_debug_shows_the_traceback(configs, tmp_path):
    with pytest.raises(KeyError, match="Encoder is not in the mmseg::model registry"):
        run(train, configs["segmentation"], tmp_path, "--debug", options=("model.type=Encoder",))


@pytest.mark.parametrize("option", ["a", "=1"])
def test_options_that_are_none(configs, option, capsys):
    error = error_of(capsys, train.main, [str(configs["segmentation"]), "--cfg-options", option])
    assert error == f"--cfg-options: {option!r} is not KEY=VALUE"


def test_activations_that_nothing_reads_are_told(configs, tmp_path, capsys):
    path = tmp_path / "x.py"
    for text, told in (
        ("act_cfg = dict(type='AconC')", "act_cfg"),
        ("act_cfg = dict(type='AconC')\nmodel = dict(backbone=dict(act_cfg=act_cfg))", None),
        ("model_wrapper_cfg = dict(type='X', act_cfg=dict(type='AconC'))", "model_wrapper_cfg.act_cfg"),
        ("optim_wrapper = dict(paramwise_cfg=dict(acon=dict(lr_mult=2)))", "optim_wrapper.paramwise_cfg.acon"),
    ):
        path.write_text(f"_base_ = {str(configs['segmentation'])!r}\n{text}")
        args = train.parse_args([str(path)])
        command_line.load_config(args, needs=("model",))
        warned = capsys.readouterr().err
        assert warned.startswith(f"warning: nothing reads {told}: ") if told else warned == ""


@pytest.mark.parametrize(
    ("rank", "size", "local"), [("2", "2", "0"), ("-1", "2", "0"), ("0", "0", "0"), ("0", "1", "x")]
)
def test_ranks_that_cannot_be(configs, tmp_path, capsys, monkeypatch, rank, size, local):
    for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", local), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, str(value))
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, "--launcher", "pytorch")
    assert error.startswith("the rank of a process must be below the number of processes")


def test_devices_that_cannot_be_used():
    with pytest.raises(UserError, match=r"^--device no cannot be used: "):
        usable_device("no")
    assert usable_device("cpu") == torch.device("cpu")


def test_tools_that_do_not_run_on_windows_say_so(monkeypatch):
    refuse_windows("compare.py")
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(UserError, match=r"compare\.py does not run on Windows.*use WSL"):
        refuse_windows("compare.py")


@pytest.mark.parametrize(
    ("text", "imports"),
    [
        ("", ["acon_mm"]),
        ("custom_imports = dict(imports='json')", ["json", "acon_mm"]),
        ("custom_imports = dict(imports=['json'], allow_failed_imports=True)", ["json", "acon_mm"]),
        ("custom_imports = dict(imports=['acon_mm.datasets'])", ["acon_mm.datasets"]),
    ],
)
def test_the_config_of_a_run_imports_acon_mm(tmp_path, text, imports):
    """Without it, nobody else could build the model from the config that the run saves."""
    path = tmp_path / "a.py"
    path.write_text(f'default_scope = "mmdet"\n{text}\n')
    args = train.parse_args([str(path)])
    cfg = command_line.load_config(args, needs=())
    cfg.dump(tmp_path / "saved.py")
    saved = Config.fromfile(tmp_path / "saved.py").custom_imports
    assert saved.imports == imports and saved.get("allow_failed_imports", False) == ("True" in text)


@pytest.mark.parametrize("named", [True, False])
def test_amp_takes_names_and_classes(named):
    def amp(wrapper: type) -> Config:
        return Config({"launcher": "none", "optim_wrapper": {"type": wrapper.__name__ if named else wrapper}})

    cfg = amp(OptimWrapper)
    command_line.use_amp(cfg)
    assert cfg.optim_wrapper.type == "AmpOptimWrapper" and cfg.optim_wrapper.loss_scale == "dynamic"
    cfg = amp(AmpOptimWrapper)
    command_line.use_amp(cfg)
    devices.fit_config(cfg)
    assert cfg.optim_wrapper.type == "BFloat16OptimWrapper"


def test_a_syntax_error_in_a_config(tmp_path, capsys):
    path = tmp_path / "a.py"
    path.write_text("x = (1,\n")
    error = error_of(capsys, train.main, [str(path), "--work-dir", str(tmp_path)])
    assert error.startswith(f"cannot read config {path}: ")
