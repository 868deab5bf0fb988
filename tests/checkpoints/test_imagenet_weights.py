"""ImageNet weights that OpenMMLab's configs start from, rebuilt by names and shapes: they load into ACON models too."""

from pathlib import Path

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from acon_mm.checkpoints import LoadReport, load_state_dict
from acon_mm.checkpoints.relu import relu_twin
from acon_mm.compat import strict_zip
from helpers.loading import refused

SMALL = dict(depth=50, base_channels=4, stem_channels=8)
ACON = dict(act_cfg=dict(type="AconC", init="relu"))
FC = {"fc.weight": torch.ones(3, 128), "fc.bias": torch.ones(3)}


def build(scope: str = "mmdet", **cfg) -> nn.Module:
    return MODELS.build(dict(type=f"{scope}.ResNet", **SMALL) | cfg)


def source(**cfg) -> dict[str, Tensor]:
    """Weights of a ReLU network in which everything differs from its initial values."""
    state = build(**cfg).state_dict()
    generator = torch.Generator().manual_seed(0)
    for value in state.values():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(value * (0.5 + noise) if value.dim() > 1 else noise + 0.5)
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def loaded(model: nn.Module, state: dict[str, Tensor], **kwargs) -> LoadReport:
    """The report of a load, after which the model has the values that the report names."""
    report = load_state_dict(model, state, **kwargs)
    own, changed = model.state_dict(), {"bn1.running_mean"} if report.folded else set()
    assert {key for key in report.loaded if not torch.equal(own[key], state[key])} == changed
    return report


def test_torchvision_and_pretrained_by_open_mmlab():
    """A classifier beside the backbone, and in old files no counters of batches."""
    state = source()
    report = loaded(build(**ACON), state | FC)
    assert report.dropped == ["fc.weight", "fc.bias"] and not report.missing
    report = loaded(build("mmseg", **ACON), build("mmseg").state_dict() | FC)
    assert report.dropped == ["fc.weight", "fc.bias"] and not report.missing


def test_mmseg_resnet_v1c():
    cfg = dict(type="mmseg.ResNetV1c", depth=50, base_channels=4, stem_channels=8)
    report = loaded(MODELS.build(cfg | ACON), MODELS.build(cfg).state_dict() | FC)
    assert report.dropped == ["fc.weight", "fc.bias"] and not report.missing
    refused(MODELS.build(cfg | ACON), source() | FC, r"it has no weights for stem[.] ")


def test_caffe_resnet50_has_a_bias_in_its_first_convolution():
    """`open-mmlab://detectron2/resnet50_caffe`: norms are scale and shift alone, conv1.bias is not zero.

    mm's ReLU network leaves the bias out; what Caffe's computes is conv1 with it.
    """
    state = source(style="caffe")
    for key, value in state.items():
        if key.endswith(("running_mean", "running_var")):
            value.fill_(float(key.endswith("var")))
    state["conv1.bias"] = torch.linspace(-1, 1, 8)
    before = {key: value.clone() for key, value in state.items()}
    model = build(style="caffe", **ACON)
    report = loaded(model, state)
    assert report.folded == ["conv1.bias"] and not (report.dropped or report.missing)
    assert "folded into the next norm          1  conv1.bias" in str(report)
    assert all(torch.equal(value, before[key]) for key, value in state.items())  # the caller's stay

    relu, caffe = relu_twin(model), build(style="caffe")
    caffe.conv1 = nn.Conv2d(3, 8, 7, 2, 3)
    caffe.load_state_dict(state)
    relu.eval(), caffe.eval()
    picture = torch.randn(1, 3, 32, 32)
    for a, b in strict_zip(relu(picture), caffe(picture)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


def test_other_biases_of_convolutions():
    """Detectron gives every convolution a bias of zeros; others say something, but only the stem's norm is known."""
    state = source(style="caffe")
    zeros = {
        key.removesuffix("weight") + "bias": torch.zeros(len(value)) for key, value in state.items() if value.dim() == 4
    }
    report = loaded(build(style="caffe", **ACON), state | zeros)
    assert len(report.dropped) == 53 and not report.folded
    state["layer1.0.conv1.bias"] = torch.ones(4)
    message = r"1 of its tensors are not in the model: layer\*.\*.conv1.bias.*allow="
    refused(build(style="caffe", **ACON), state, message)


def test_a_bias_of_another_shape_is_not_folded():
    refused(build(**ACON), source() | {"conv1.bias": torch.ones(1)}, "are not in the model: conv1.bias")


def test_a_bias_without_running_mean_is_named():
    """With a group norm there is nothing to put it into; `allow` drops it, as mm does."""
    norm = dict(norm_cfg=dict(type="GN", num_groups=2))
    state = build(**norm).state_dict() | {"conv1.bias": torch.ones(8)}
    refused(build(**norm, **ACON), state, r"are not in the model: conv1.bias.*allow=")
    assert loaded(build(**norm, **ACON), state, allow=["conv1.bias"]).dropped == ["conv1.bias"]


def test_parts_of_a_backbone():
    """Faster R-CNN C4: the backbone has no fourth stage, and the box head's shared part has nothing else."""
    state = source(style="caffe") | {"conv1.bias": torch.ones(8)} | FC
    c4 = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,), style="caffe")
    report = loaded(build(**c4, **ACON), state)
    assert not report.missing and {key.partition(".")[0] for key in report.dropped} == {"layer4", "fc"}
    head = MODELS.build(dict(type="mmdet.ResLayer", depth=50, stage=3, stride=2, style="caffe", norm_eval=True, **ACON))
    full = {key: value for key, value in head.state_dict().items() if "act" not in key}
    report = loaded(head, full | {"conv1.weight": torch.ones(2), "conv1.bias": torch.ones(2)} | FC)
    assert not report.missing and report.started


def test_offsets_of_deformable_convolutions_start_anew():
    cfg = dict(dcn=dict(type="DCNv2", deform_groups=1), stage_with_dcn=(False, False, False, True))
    report = loaded(build(**cfg, **ACON), source() | FC)
    assert report.missing and all("conv_offset" in key for key in report.missing)


def test_hrnet_of_a_classifier():
    stage = dict(num_modules=1, num_branches=2, block="BASIC", num_blocks=(1, 1), num_channels=(4, 8))
    extra = dict(
        stage1=dict(num_modules=1, num_branches=1, block="BOTTLENECK", num_blocks=(1,), num_channels=(4,)),
        stage2=stage,
        stage3=stage | dict(num_branches=3, num_blocks=(1,) * 3, num_channels=(4, 8, 16)),
        stage4=stage | dict(num_branches=4, num_blocks=(1,) * 4, num_channels=(4, 8, 16, 32)),
    )
    cfg = dict(type="mmdet.HRNet", extra=extra)
    others = ("incre_modules.0.0.conv1", "downsamp_modules.0.0", "final_layer.0", "classifier")
    more = {f"{name}.{leaf}": torch.ones(3) for name in others for leaf in ("weight", "bias")}
    report = loaded(MODELS.build(cfg | ACON), MODELS.build(cfg).state_dict() | more)
    assert len(report.dropped) == 8 and not report.missing


def test_mmpretrain_by_prefix(tmp_path: Path):
    """`checkpoint=..., prefix='backbone.'`, as mm's configs take ResNets of mmpretrain."""
    state = {f"backbone.{key}": value for key, value in source().items()} | {"head.fc.weight": torch.ones(3, 3)}
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "cls.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "cls.pth"), prefix="backbone.")
    model = build(init_cfg=init, **ACON)
    model.init_weights()
    assert torch.equal(model.layer4[2].conv3.weight, state["backbone.layer4.2.conv3.weight"])
