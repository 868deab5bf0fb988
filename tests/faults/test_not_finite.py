"""NaN and infinity at every entrance."""

import pytest
import torch
from mmengine.config import Config

from acon_mm.checkpoints import load_checkpoint, reading
from acon_mm.engine import command_line
from helpers.faults import NO_VAL, ending
from helpers.tiny_runs import run, test, train

NAN, INF = float("nan"), float("inf")
ENTRANCES = {
    "input": {"model.data_preprocessor.mean": [NAN, 0.0, 0.0], "model.data_preprocessor.std": [1.0, 1.0, 1.0]},
    "infinite input": {"model.data_preprocessor.mean": [0.0] * 3, "model.data_preprocessor.std": [0.0, 1.0, 1.0]},
    "step": {"optim_wrapper.optimizer.lr": 1e38},
    "gradient": {"optim_wrapper.optimizer.weight_decay": INF},
    "loss": {"{loss}.loss_weight": NAN},
    "infinite loss": {"{loss}.loss_weight": INF},
}
LOSSES = {"detection": "model.rpn_head.loss_bbox", "segmentation": "model.decode_head.loss_decode"}


@pytest.mark.parametrize("task", LOSSES)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_training(entrance, task, configs, tmp_path, tally, capsys, monkeypatch):
    for act in ("AconC", "MetaAconC", "ReLU"):
        work_dir = tmp_path / act
        cfg = Config.fromfile(configs[task])
        if task == "segmentation":
            cfg.model.decode_head.loss_decode = dict(type="CrossEntropyLoss")
        cfg.merge_from_dict({key.format(loss=LOSSES[task]): value for key, value in ENTRANCES[entrance].items()})
        if act != "ReLU":
            cfg.model.backbone.act_cfg = dict(type=act)
        monkeypatch.setattr(command_line.Config, "fromfile", lambda _, cfg=cfg: cfg)
        options = ("default_hooks.checkpoint.interval=1", "train_cfg.max_iters=4", "param_scheduler=None", *NO_VAL)
        outcome, text = ending(lambda w=work_dir, o=options: run(train, configs[task], w, options=o), capsys)
        for path in work_dir.glob("*.pth"):
            if reading.not_finite(load_checkpoint(path)["state_dict"]):
                outcome, text = "lost", f"{path} is not finite"
        named = "finite" in text
        tally("lost" if outcome == "survived" else outcome if named else "unclear", f"{act}: {text}")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_weights(value, configs, trained, tmp_path, tally, capsys):
    for task in LOSSES:
        for tensor in ("backbone.conv1.weight", "backbone.bn1.running_var", "backbone.layer1.0.conv1.weight"):
            checkpoint = load_checkpoint(trained[task])
            checkpoint["state_dict"] = {k: v.clone() for k, v in checkpoint["state_dict"].items()}
            checkpoint["state_dict"][tensor].view(-1)[0] = value
            path = tmp_path / "x.pth"
            torch.save(checkpoint, path)
            for tool, args, options in (
                (test, [str(path)], ()),
                (train, ["--resume", str(path)], NO_VAL),
                (train, [], (f"load_from={path}", *NO_VAL)),
            ):
                call = lambda t=task, f=tool, a=args, o=options: run(f, configs[t], tmp_path / "w", *a, options=o)  # noqa: E731
                outcome, text = ending(call, capsys)
                tally("lost" if outcome == "survived" else outcome if tensor in text else "unclear", text)
