"""ReLU weights in ACON networks, which compute nearly the same with them, and learn from there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn import functional as F

from acon_mm import AconC, AconFReLU, MetaAconC
from acon_mm.checkpoints import CheckpointError, convert_relu, load_checkpoint, load_state_dict, start_as_relu
from acon_mm.checkpoints.relu import relu_difference
from acon_mm.layers import RELU_BETA
from helpers.loading import convert_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"
DETECTOR = CONFIGS / "detection/retinanet_r18_fpn_6e_digits.py"
SEGMENTOR = CONFIGS / "segmentation/pspnet_r18-d16_1xb8-300_digits-160x160.py"


def model_of(
    path: Path, acon_type: str | None = None, everywhere: bool = False, init: str = "relu", base_channels: int = 16
) -> nn.Module:
    cfg = Config.fromfile(path)
    cfg.model.backbone.update(base_channels=base_channels, stem_channels=base_channels)
    if "neck" in cfg.model:
        cfg.model.neck.in_channels = [base_channels * 2**stage for stage in range(4)]
    else:
        cfg.model.decode_head.in_channels, cfg.model.auxiliary_head.in_channels = base_channels * 8, base_channels * 4
    if acon_type:
        act_cfg = dict(type=acon_type, init=init)
        cfg.model.backbone.act_cfg = act_cfg
        if everywhere:
            cfg.model.backbone.act_sites = "all"
            for head in ("bbox_head", "decode_head", "auxiliary_head"):
                if head in cfg.model:
                    cfg.model[head].update(act_cfg=act_cfg, act_sites="all")
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def as_trained(model: nn.Module) -> nn.Module:
    """The model with statistics and factors as after training, so that features have the size that they have then."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for value, low in ((module.running_var, 0.5), (module.weight.data, 0.5)):
                value.copy_(torch.rand(value.shape, generator=generator) + low)
            for value in (module.running_mean, module.bias.data):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [False, True], ids=["paper", "all"])
@pytest.mark.parametrize("acon_type", ["AconC", "MetaAconC"])
@pytest.mark.parametrize("path", [DETECTOR, SEGMENTOR], ids=["retinanet", "pspnet"])
def test_acon_computes_nearly_the_same(path, acon_type, everywhere):
    relu = as_trained(model_of(path))
    acon = model_of(path, acon_type, everywhere)
    report = load_state_dict(acon, relu.state_dict())
    assert not report.missing and not report.dropped and report.started
    assert relu_difference(acon) < 0.03
    worse = model_of(path, acon_type, everywhere, init="paper")
    load_state_dict(worse, relu.state_dict())
    assert relu_difference(worse) > 0.3


@pytest.mark.parametrize("acon_type", [AconC, MetaAconC])
def test_it_learns_on_from_there(acon_type):
    """p1, p2 and beta get gradients, and fit a function that ReLU cannot compute."""
    torch.manual_seed(0)
    act = acon_type(4, init="relu")
    x = torch.randn(64, 4, 3, 3)
    target = torch.maximum(1.5 * x, -0.5 * x)
    assert F.mse_loss(act(x), F.relu(x)) < 1e-5
    optimizer = torch.optim.AdamW(act.parameters(), lr=0.05, weight_decay=0)
    before = {name: value.clone() for name, value in act.named_parameters()}
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(act(x), target)
        loss.backward()
        optimizer.step()
    assert loss < 1e-3
    learned = {name for name, value in act.named_parameters() if not torch.equal(value, before[name])}
    assert {"p1", "p2", "beta" if acon_type is AconC else "bn2.weight"} <= learned


@pytest.mark.parametrize("norm", ["BN", None])
def test_meta_starts_the_same_in_training_and_evaluation(norm):
    """Its batch norms have no statistics yet. Beta does not depend on them before the last layer has learned."""
    torch.manual_seed(0)
    act = MetaAconC(8, init="relu", norm_cfg=norm and dict(type=norm))
    x = torch.randn(4, 8, 5, 5) + 3 * torch.randn(1, 8, 1, 1)
    torch.testing.assert_close(act.train()(x), act.eval()(x), rtol=0, atol=0)
    assert (act(x) - F.relu(x)).abs().max() <= 0.2785 / RELU_BETA


@pytest.mark.slow
def test_convert_a_whole_model_and_a_backbone():
    relu = as_trained(model_of(DETECTOR))
    source = {"state_dict": relu.state_dict(), "meta": {"dataset_meta": {"classes": ("0",)}, "epoch": 3}}
    converted = convert_relu(model_of(DETECTOR, "MetaAconC", init="swish"), source)
    assert converted.difference < 0.03 and converted.checkpoint["meta"]["dataset_meta"] == {"classes": ("0",)}
    state = converted.checkpoint["state_dict"]
    assert state["backbone.layer1.0.act1._extra_state"] == 2 * RELU_BETA
    assert all(torch.equal(state[key], value) for key, value in relu.state_dict().items())

    of_backbone = {f"module.{key}": value for key, value in relu.backbone.state_dict().items()}
    converted = convert_relu(model_of(DETECTOR, "AconC"), of_backbone | {"module.fc.weight": torch.ones(1)})
    assert "layer1.0.act1.p1" in converted.checkpoint["state_dict"] and converted.report.dropped == ["fc.weight"]
    with pytest.raises(CheckpointError, match=r"it has ACONs already \(layer1.0.act1, ...\)"):
        convert_relu(model_of(DETECTOR, "AconC"), converted.checkpoint)
    with pytest.raises(ValueError, match="RetinaNet has no ACON: give it act_cfg in the config"):
        convert_relu(model_of(DETECTOR), source)
    broken = {
        key: torch.full_like(v, torch.nan) if key == "backbone.conv1.weight" else v
        for key, v in relu.state_dict().items()
    }
    with pytest.raises(CheckpointError, match=r"the weights in the checkpoint are not finite: backbone\.conv1"):
        convert_relu(model_of(DETECTOR, "AconC"), broken)


def test_what_cannot_start_as_relu():
    with pytest.raises(ValueError, match="init must be one of 'paper', got 'relu'"):
        start_as_relu(nn.Sequential(AconFReLU(3)))
    for generator in ("pixel", "layer"):
        with pytest.raises(ValueError, match=f"generator='{generator}' cannot start as ReLU"):
            MetaAconC(3, generator=generator, init="relu")
        with pytest.raises(ValueError, match=f"generator='{generator}' cannot start as ReLU"):
            start_as_relu(nn.Sequential(MetaAconC(3, generator=generator)))


@pytest.mark.slow
def test_the_tool(tmp_path, capsys):
    relu = as_trained(model_of(DETECTOR, base_channels=64))
    torch.save({"state_dict": relu.state_dict()}, tmp_path / "relu.pth")
    config = CONFIGS / "detection/retinanet_r18-aconc_fpn_6e_digits.py"
    convert_checkpoint("relu", tmp_path / "relu.pth", tmp_path / "acon.pth", "--config", config)
    said = capsys.readouterr().out
    assert "Features on a random picture differ from the ReLU network's by" in said and "init='relu'" in said
    state = load_checkpoint(tmp_path / "acon.pth")["state_dict"]
    assert (state["backbone.layer4.1.act2.beta"] == RELU_BETA).all()
    more = ["--cfg-options", "model.bbox_head.num_classes=3"]
    with pytest.raises(SystemExit):
        convert_checkpoint("relu", tmp_path / "relu.pth", tmp_path / "three.pth", "--config", config, *more)
    assert "size mismatch for bbox_head.retina_cls.weight" in capsys.readouterr().err
    assert not (tmp_path / "three.pth").exists()
    more += ["--allow", "bbox_head.retina_cls"]
    convert_checkpoint("relu", tmp_path / "relu.pth", tmp_path / "three.pth", "--config", config, *more)
    bias = load_checkpoint(tmp_path / "three.pth")["state_dict"]["bbox_head.retina_cls.bias"]
    assert len(bias) == 3 * model_of(DETECTOR).bbox_head.num_base_priors
