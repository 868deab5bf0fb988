"""`tools/deployment/export_onnx.py`: networks as ONNX files, equal to PyTorch's."""

import pytest
import torch

from helpers.tiny_runs import error_of, load_tool

tool = load_tool("deployment/export_onnx")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
META = "model.backbone.act_cfg.type=MetaAconC"

DETECTOR = """
_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["acon_mm"])
model = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None, act_cfg=dict(type="MetaAconC")),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=2),
)
"""


@pytest.mark.slow
def test_a_detector(tmp_path, capsys):
    config, checkpoint, out = tmp_path / "config.py", tmp_path / "net.pth", tmp_path / "net.onnx"
    config.write_text(DETECTOR)
    cfg = tool.command_line.Config.fromfile(config)
    tool.init_default_scope("mmdet")
    model = tool.MODELS.build(cfg.model).eval()
    torch.save({"state_dict": model.state_dict()}, checkpoint)
    tool.main([str(config), str(checkpoint), "--out", str(out), "--shape", "64", "96"])
    assert f"Wrote {out}; its outputs are within " in capsys.readouterr().out
    assert {node.domain for node in onnx.load(out).graph.node} <= {"", "ai.onnx"}  # standard operators alone
    x = torch.randn(3, 3, 64, 96)  # another number of pictures than at the export
    found = runtime.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    scores, boxes = model(x, mode="tensor")
    expected = [each.detach() for each in (*scores, *boxes)]
    torch.testing.assert_close([torch.from_numpy(each) for each in found], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_segmentor(configs, trained, tmp_path):
    out = tmp_path / "net.onnx"
    tool.main([str(configs["segmentation"]), str(trained["segmentation"]), "--out", str(out), "--shape", "64", "64"])
    (logits,) = runtime.InferenceSession(out, providers=["CPUExecutionProvider"]).get_outputs()
    assert logits.shape[1:] == [3, 8, 8]


@pytest.mark.parametrize(
    ("task", "args", "error"),
    [
        ("segmentation", ["--out", "net.pt"], "--out must end in .onnx, got net.pt"),
        ("segmentation", ["--out", "net.onnx", "--shape", "0", "64"], "argument --shape: must be 1 or more, got 0"),
        pytest.param("detection", ["--out", "net.onnx"], "is a two-stage detector", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_exported(configs, tmp_path, monkeypatch, capsys, task, args, error):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, "net.pth")
    assert error in error_of(capsys, tool.main, [str(configs[task]), "net.pth", *args])
    assert not list(tmp_path.glob("*.onnx"))
