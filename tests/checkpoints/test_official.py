"""The authors' files are converted, and the result is compared with their network; other files are refused."""

import os
import re

import mmdet.models  # noqa: F401  registers its ResNet
import mmseg.models  # noqa: F401  registers its own
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from acon_mm.checkpoints import CheckpointError, authors, convert_official, load_checkpoint, official, requirements
from acon_mm.checkpoints.acon_types import acons_of
from acon_mm.compat import strict_zip
from helpers.authors_files import make
from helpers.loading import convert_checkpoint

ACON_TYPES = ("AconC", "MetaAconC")


class TheirBottleneck(nn.Module):
    """A block of `authors.forward`, written again with modules: stride first, biases, ACON after the 3x3."""

    def __init__(self, into: int, channels: int, stride: int, acon_type: str):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, channels, 1, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = nn.Conv2d(channels, 4 * channels, 1), nn.BatchNorm2d(4 * channels)
        self.acon = TheirAcon(channels, acon_type)
        self.downsample = None
        if stride > 1 or into != 4 * channels:
            self.downsample = nn.Sequential(nn.Conv2d(into, 4 * channels, 1, stride), nn.BatchNorm2d(4 * channels))

    def forward(self, x):
        out = self.acon(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(out)) + (self.downsample(x) if self.downsample else x))


class TheirAcon(nn.Module):
    def __init__(self, channels: int, acon_type: str):
        super().__init__()
        self.p1, self.p2 = (nn.Parameter(torch.randn(1, channels, 1, 1)) for _ in range(2))
        if acon_type == "AconC":
            self.beta = nn.Parameter(torch.ones(1, channels, 1, 1))
        else:
            hidden = max(16, channels // 16)
            self.fc1, self.bn1 = nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden)
            self.fc2, self.bn2 = nn.Conv2d(hidden, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x):
        beta = getattr(self, "beta", None)
        if beta is None:
            beta = self.bn2(self.fc2(self.bn1(self.fc1(x.mean((2, 3), keepdim=True))))).sigmoid()
        d = self.p1 * x - self.p2 * x
        return d * (beta * d).sigmoid() + self.p2 * x


def their_network(acon_type: str, stem: int, base: int) -> nn.Module:
    net, into = nn.Sequential(), stem
    net.add_module("conv1", nn.Conv2d(3, stem, 7, 2, 3))
    net.add_module("bn1", nn.BatchNorm2d(stem))
    net.add_module("relu", nn.ReLU())
    net.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
    for stage, count in enumerate((3, 4, 6, 3)):
        blocks = nn.Sequential()
        for index in range(count):
            blocks.append(TheirBottleneck(into, base * 2**stage, 2 if stage and not index else 1, acon_type))
            into = base * 2**stage * 4
        net.add_module(f"layer{stage + 1}", blocks)
    return net


@pytest.mark.parametrize("acon_type", ACON_TYPES)
def test_the_reference_is_their_network(acon_type):
    """`authors.forward`, which the conversion is compared with, against a network of modules."""
    state = make(50, acon_type)
    net = their_network(acon_type, 8, 4).eval()
    unknown = net.load_state_dict(state, strict=False)
    assert not unknown.unexpected_keys and all("num_batches_tracked" in key for key in unknown.missing_keys)
    net, state = net.double(), {key: value.double() for key, value in state.items()}
    picture = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 255
    with torch.no_grad():
        torch.testing.assert_close(authors.forward(state, authors.layout_of(state), picture)[-1], net(picture))


@pytest.mark.parametrize("acon_type", ACON_TYPES)
@pytest.mark.parametrize("depth", [18, 50, 101])
def test_stage_outputs_and_logits(depth, acon_type):
    """In float32, as it will run; the converter itself compares in double precision."""
    state = make(depth, acon_type, classes=7)
    converted = convert_official({"state_dict": {f"module.{k}": v for k, v in state.items()}}, keep_classifier=True)
    weights, layout = converted["state_dict"], authors.layout_of(state)
    backbone = official.build_backbone(layout)
    assert set(weights) - {"fc.weight", "fc.bias"} == {
        key for key in backbone.state_dict() if not key.endswith("num_batches_tracked")
    }
    official.load_state_dict(backbone, weights)
    backbone.eval()
    picture = torch.rand(2, 3, 64, 96) * 255
    with torch.no_grad():
        ours, theirs = list(backbone(picture)), authors.forward(state, layout, picture)
        ours.append(F.linear(ours[-1].mean((2, 3)), weights["fc.weight"], weights["fc.bias"]))
    assert len(ours) == len(theirs) == 5
    for a, b in strict_zip(ours, theirs):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    scales = [value for key, value in weights.items() if key.endswith("_extra_state")]
    assert scales == [1.0] * (len(acons_of(backbone)) if acon_type == "MetaAconC" else 0)


def test_the_tool(tmp_path, capsys):
    torch.save(make(50, "MetaAconC", classes=7), tmp_path / "theirs.pth")
    convert_checkpoint("official", tmp_path / "theirs.pth", tmp_path / "new/ours.pth")
    said = capsys.readouterr().out
    worst = float(re.search(r"authors' network's by (\S+) relative", said)[1])
    assert worst < 1e-6  # the folded means are rounded to float32
    assert "16 MetaAconC" in said and "style='caffe'" in said and "bgr_to_rgb=False" in said
    read = load_checkpoint(tmp_path / "new/ours.pth")
    assert not any(key.startswith("fc.") for key in read["state_dict"])
    required = requirements.requirements_in(read["state_dict"])[""]
    assert (
        required["style"] == "caffe"
        and required["act_cfg"] == {"type": "MetaAconC"}
        and required["input"]["mean"] == [0.0] * 3
    )
    convert_checkpoint("show", tmp_path / "new/ours.pth")
    shown = capsys.readouterr().out
    assert "ACONs: 16 MetaAconC" in shown and said.endswith(shown)


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_the_tool_writes_over_its_source(link, tmp_path):
    source = target = tmp_path / "theirs.pth"
    torch.save(make(50, "AconC"), source)
    if link:
        target = tmp_path / "link.pth"
        link(source, target)
    wanted = official.convert_official(load_checkpoint(source))["state_dict"]
    wanted = {key: value.clone() for key, value in wanted.items()}
    convert_checkpoint("official", source, target)
    assert_close(dict(load_checkpoint(target)["state_dict"]), wanted, rtol=0, atol=0)


def test_the_tool_says_in_one_line_where_it_cannot_write(tmp_path, capsys):
    torch.save(make(50, "AconC"), tmp_path / "theirs.pth")
    with pytest.raises(SystemExit):
        convert_checkpoint("official", tmp_path / "theirs.pth", tmp_path)
    assert capsys.readouterr().err == f"error: cannot write {tmp_path}: it is not a file\n"


def drop(prefix):
    return lambda state: {key: value for key, value in state.items() if not key.startswith(prefix)}


def reshaped(key, shape):
    return lambda state: state | {key: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("layer3."), "differs from the authors' file, .*: layer3 is missing$"),
        (drop("layer3.5."), r"the authors have no ResNet with stages of \(3, 4, 5, 3\) bottlenecks"),
        (drop("layer2.1.conv2.bias"), r": layer2.1.conv2.bias is missing$"),
        (drop("layer2.1.acon.p2"), r": layer2.1.acon.p2 is missing$"),
        (reshaped("layer2.0.acon.p1", (1, 4, 1, 1)), r": layer2.0.acon.p1 is \(1, 4, 1, 1\), not \(1, 8, 1, 1\)$"),
        (reshaped("layer2.0.acon.p2", (8,)), r": layer2.0.acon.p2 is \(8,\), not \(1, 8, 1, 1\)$"),
        (reshaped("layer1.0.conv4.weight", (1,)), ": layer1.0.conv4.weight is unknown$"),
        (lambda state: {k: v for k, v in state.items() if "acon" not in k}, "not a network of the authors with ACON"),
        (lambda state: {"backbone." + k: v for k, v in state.items()}, "it is not a ResNet of the authors' release"),
        (lambda state: state | {"bn1.running_var": torch.full((8,), torch.nan)}, "bn1.running_var has values that are"),
    ],
)
def test_what_is_wrong_with_a_file(change, message):
    state = make()
    convert_official(state)
    with pytest.raises(CheckpointError, match=message):
        convert_official(change(state))


def test_nothing_is_written_when_the_outputs_differ(tmp_path, capsys, monkeypatch):
    torch.save(make(), tmp_path / "theirs.pth")
    convert = official._convert

    def wrong(state, layout):  # one bias of 53 is left out
        converted = convert(state, layout)
        converted["layer3.2.bn2.running_mean"] = state["layer3.2.bn2.running_mean"]
        return converted

    monkeypatch.setattr(official, "_convert", wrong)
    with pytest.raises(SystemExit):
        convert_checkpoint("official", tmp_path / "theirs.pth", tmp_path / "ours.pth")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the outputs of the converted network differ by")
    assert not (tmp_path / "ours.pth").exists()


def test_truncated_files_and_code(tmp_path, capsys):
    torch.save(make(), tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:20000])
    torch.save({"state_dict": make(), "code": nn.Linear(1, 1)}, tmp_path / "code.pth")
    for name, message in (
        ("half", "half.pth is damaged or not a checkpoint"),
        ("code", "code.pth is refused: it asks for torch.nn"),
    ):
        with pytest.raises(SystemExit):
            convert_checkpoint("official", tmp_path / f"{name}.pth", tmp_path / "ours.pth")
        assert message in capsys.readouterr().err
    assert not (tmp_path / "ours.pth").exists()


def test_mmseg_backbones_load_it_too():
    converted = convert_official(make(50, "AconC"))["state_dict"]
    cfg = dict(
        type="mmseg.ResNet", depth=50, style="caffe", stem_channels=8, base_channels=4, act_cfg=dict(type="AconC")
    )
    report = official.load_state_dict(MODELS.build(cfg), converted)
    assert not (report.missing or report.started or report.dropped)
