"""Bad values for everything that a config or a command line can set, made from the signatures."""

import inspect
import json

import pytest
import torch
from mmengine.registry import MODELS

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC
from acon_mm.engine import CheckInvalidHook, LoadCheckHook, command_line
from acon_mm.layers.base import Acon
from helpers.faults import NO_VAL, ending, in_session
from helpers.tiny_runs import run, test, train

BAD = (None, True, -1, 0, 1.5, 100000, "x", "1", "", float("nan"), float("inf"), [], [1], {}, {"type": "XN"}, object)
TYPES = (AconA, AconB, AconC, AconFReLU, MetaAconC)


def options_of(cls: type) -> list[str]:
    """The names of all options of a class and of its bases."""
    inits = [base.__init__ for base in cls.__mro__ if issubclass(base, (Acon, CheckInvalidHook, LoadCheckHook))]
    found = dict.fromkeys(name for init in inits for name in inspect.signature(init).parameters)
    return [name for name in found if name not in ("self", "args", "kwargs")]


@pytest.mark.parametrize("cls", TYPES)
def test_activations(cls, tally, capsys):
    """Each is refused with its place, or gives a network whose output is finite."""
    for option in [*options_of(cls), "no_such_option"]:
        for value in BAD:
            act_cfg = {"type": cls.__name__, option: value}
            cfg = command_line.Config({"model": {"type": "mmdet.ResNet", "depth": 18, "act_cfg": act_cfg}})

            def build(cfg=cfg):
                model = MODELS.build(cfg.model)
                assert all(each.isfinite().all() for each in model(torch.randn(2, 3, 32, 32)))

            outcome, text = ending(in_session(build), capsys)
            # The rank of its input shows only when it runs.
            place = option if option == "channel_dim" else f"model.act_cfg.{option}"
            placed = outcome != "clear" or place in text
            tally(outcome if placed else "unclear", f"{option}={value!r}: {text}")


SETTINGS = (
    *("model.backbone.act_cfg=7", "model.backbone.act_cfg.type=Acon", "model.backbone.act_cfg.kind=AconC"),
    *("model.backbone.depth=7", "model.backbone.type=ResNot", "model.decode_head.num_classes=x"),
    *("model.decode_head.norm_cfg.type=XN", "model.decode_head.norm_cfg=7", "model.type=Encoder", "model=1"),
    *("optim_wrapper.optimizer.type=SGDD", "optim_wrapper.optimizer.lr=x", "optim_wrapper=1", "optim_wrapper.type=O"),
    *("train_cfg.type=Loop", "train_cfg.max_iters=x", "train_cfg.max_iters=None", "param_scheduler.0.type=X"),
    *("train_dataloader.dataset.type=Data", "train_dataloader.dataset.dataset.pipeline.0.type=Load"),
    *("train_dataloader.batch_size=0", "train_dataloader.batch_size=x", "train_dataloader.sampler.type=S"),
    *("train_dataloader.num_workers=-1", "default_hooks.checkpoint.type=Hook", "default_hooks.checkpoint.interval=x"),
    *("custom_hooks.0.type=X", "default_hooks.load_check.type=LoadCheckHook", "visualizer.type=V", "launcher=x"),
    *("train_dataloader.dataset.dataset.metainfo.classes=()", "model.backbone.init_cfg.type=X", "randomness.seed=x"),
    *("train_dataloader.dataset.times=0", "train_dataloader.dataset=None", "default_hooks=1", "randomness=1"),
    *("env_cfg.dist_cfg=1", "log_processor.type=X", "load_from=file:///x.pth", "load_from=/no.pth", "resume=True"),
)


def test_settings(configs, tmp_path, tally, capsys):
    for setting in SETTINGS:
        options = (*NO_VAL, setting)
        outcome, text = ending(lambda o=options: run(train, configs["segmentation"], tmp_path, options=o), capsys)
        tally(outcome, f"{setting}: {text}")


def test_command_lines(configs, trained, tmp_path, tally, capsys, monkeypatch):
    config, checkpoint = str(configs["segmentation"]), str(trained["segmentation"])
    for tool, arguments in (
        (train, [config, "--cfg-options", "a"]),
        (train, [config, "--cfg-options", "=1"]),
        (train, [config, "--cfg-options", "model=1"]),
        (train, [config, "--resume", "/no.pth"]),
        (train, [config, "--launcher", "slurm"]),
        (train, [str(tmp_path)]),
        (train, [config, "--work-dir", config]),
        (test, [config, "file:///x.pth"]),
        (test, [config, config]),
        (test, [config, str(tmp_path)]),
        (test, [config, checkpoint, "--tta"]),
    ):
        outcome, text = ending(lambda t=tool, a=arguments: t.main(a), capsys)
        tally("lost" if outcome == "survived" else outcome, f"{arguments[1:]}: {text}")
    for rank, size in (("2", "2"), ("-1", "2"), ("x", "2"), ("0", "0")):
        for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
            monkeypatch.setenv(name, value)
        outcome, text = ending(lambda: train.main([config, "--launcher", "pytorch"]), capsys)
        tally("lost" if outcome == "survived" else outcome, f"rank {rank} of {size}: {text}")


def test_configs(configs, tmp_path, tally, capsys):
    base = f"_base_ = {str(configs['segmentation'])!r}\n"
    for name, text in {
        "syntax.py": "model = dict(",
        "circular.py": "_base_ = './circular.py'",
        "error.py": base + "x = 1 / 0",
        "no_base.py": "_base_ = './no.py'",
        "no_package.py": "_base_ = 'no::a.py'",
        "no_config.py": "_base_ = 'mmdet::no/no.py'",
        "import.py": base + "import no_such_module",
        "undefined.py": base + "x = {{_base_.no}}",
        "delete.py": base + "model = dict(backbone=dict(_delete_=True))",
        "class.py": base + "from acon_mm import AconC\nmodel = dict(backbone=dict(act_cfg=dict(type=AconC)))",
        "empty.py": "",
        "list.json": "[1]",
        "cut.json": '{"model": ',
        "cut.yaml": "model: [",
        "bytes.py": "\0",
    }.items():
        path = tmp_path / name
        path.write_text(text)
        outcome, message = ending(lambda p=path: run(train, p, tmp_path / "work", options=NO_VAL), capsys)
        placed = outcome != "clear" or name in message or "model." in message
        tally(outcome if placed else "unclear", f"{name}: {message}")


def test_checkpoints(configs, trained, tmp_path, tally, capsys):
    path = tmp_path / "x.pth"
    for content in (None, 1, [], {}, {"state_dict": None}, {"state_dict": 1}, {"state_dict": {"a": None}}, json):
        torch.save(content if content is not json else json.dumps({}), path)
        outcome, text = ending(lambda: run(test, configs["segmentation"], tmp_path, str(path)), capsys)
        tally("clear" if "x.pth" in text else "unclear", f"{content!r}: {outcome}: {text}")
