"""Every config is loaded and built; `test_configs_run.py` runs those for COCO and Cityscapes."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from acon_mm.layers import Acon

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("[!_]*/*.py"))
# caffe: from the authors' weights, whose bottlenecks have their stride first, as Caffe's
ACT = r"(?P<caffe>-caffe)?(?:-(?P<act>(?:meta)?aconc))?"
NAMES = {
    "detection": rf"(?P<algorithm>[a-z-]+)_r\d+{ACT}_fpn_\d+[xe]_(?P<data>coco|digits)\.py",
    "segmentation": rf"(?P<algorithm>[a-z\d]+)_r\d+-d\d+{ACT}_\d+xb\d+-\d+k?_(?P<data>cityscapes|digits)-\d+x\d+\.py",
}
CLASSES = {"aconc": "AconC", "metaaconc": "MetaAconC", None: None}


class Case(NamedTuple):
    path: Path
    #: the ACON class after which the file is named; None for ReLU
    act: str | None
    cfg: Config
    model: nn.Module


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    # A copy, since detectors fill in the configs of their heads. Nothing is downloaded before init_weights().
    return MODELS.build(deepcopy(cfg.model))


def name_of(path: Path) -> dict[str, str | None]:
    match = re.fullmatch(NAMES[path.parent.name], path.name)
    assert match, f"{path.name} is not named as OpenMMLab's configs are: {NAMES[path.parent.name]}"
    return match.groupdict()


def relu_twin(path: Path) -> Config:
    """The config of the same name without ACON: beside `path`, or the one that mmdet or mmseg ships."""
    name = re.sub("-(meta)?aconc", "", path.name)
    if path.with_name(name).exists():
        return read_as_base(str(path.with_name(name)))
    package = {"detection": "mmdet", "segmentation": "mmseg"}[path.parent.name]
    name = name if package == "mmdet" else name.replace("-caffe", "")
    return read_as_base(f"{package}::{name_of(path)['algorithm'].replace('-', '_')}/{name}")


@cache
def read_as_base(name: str) -> Config:
    """A config as others inherit it, which is how mmengine learns the default scope of a config of mmdet or mmseg."""
    return Config.fromstring(f"_base_ = {name!r}", ".py")


#: Meta-ACON on the embedded digits, each model once
FAST = ("metaaconc", "digits")
CASES = [
    pytest.param(path, id=path.stem, marks=[] if all(part in path.stem for part in FAST) else pytest.mark.slow)
    for path in FILES
]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> Case:
    path = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        cfg = Config.fromfile(path)
    with torch.device("meta"):  # no values, which take most of the time and are not looked at
        return Case(path, CLASSES[name_of(path)["act"]], cfg, build(cfg))


def test_all_are_there():
    names = {path.name for path in FILES}
    detectors = [f"{each}-{{}}_fpn_1x_coco.py" for each in ("retinanet_r50", "retinanet_r101", "mask-rcnn_r50")]
    segmentors = [
        f"{each}_r50-d8-{{}}_4xb2-40k_cityscapes-512x1024.py" for each in ("pspnet", "deeplabv3", "deeplabv3plus")
    ]
    detectors += [f"{each}-caffe-{{}}_fpn_1x_coco.py" for each in ("retinanet_r50", "mask-rcnn_r50")]
    segmentors += [f"{each}_r50-d8-caffe-{{}}_4xb2-40k_cityscapes-512x1024.py" for each in ("pspnet", "deeplabv3plus")]
    assert {name.format(act) for name in detectors + segmentors for act in ("aconc", "metaaconc")} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_two_checkpoints_are_kept(path):
    """MMEngine removes the old one before it writes the new one."""
    assert Config.fromfile(path).default_hooks.checkpoint.get("max_keep_ckpts", -1) != 1


@pytest.mark.parametrize("path", sorted((CONFIGS / "segmentation").glob("*.py")), ids=lambda path: path.stem)
def test_acon_comes_before_the_bases_of_mmseg(path):
    """It imports acon_mm, without which the maintained fork does not find them."""
    first = Config._get_base_files(str(path))[0]
    assert first == "../_base_/acon.py" or (path.parent / first) in FILES


def test_activation_is_the_one_in_the_name(case):
    assert {type(module).__name__ for module in case.model.modules() if isinstance(module, Acon)} == {case.act} - {None}


def test_nothing_else_differs_from_relu(case):
    if case.act is None:
        assert relu_twin(case.path).to_dict() == case.cfg.to_dict()
        return
    cfg, twin = case.cfg.to_dict(), relu_twin(case.path).to_dict()
    act_cfg = cfg["model"]["backbone"].pop("act_cfg")
    name = name_of(case.path)
    init = {"init": "paper"} if name["caffe"] else {} if name["data"] == "digits" else {"init": "relu"}
    assert act_cfg == {"type": case.act, **init}
    if name["caffe"]:
        as_the_authors(cfg, twin, case)
    assert cfg["optim_wrapper"].pop("constructor") == "AconOptimWrapperConstructor"
    del cfg["custom_imports"]
    twin.pop("custom_imports", None)
    assert cfg == twin


def as_the_authors(cfg: dict, twin: dict, case: Case) -> None:
    """Check what the authors' weights need, and make it as the twin has it."""
    act = name_of(case.path)["act"]
    assert cfg.pop("raw_bgr") == {"mean": [0.0] * 3, "std": [1.0] * 3, "bgr_to_rgb": False}
    for key in ("mean", "std", "bgr_to_rgb"):
        assert cfg["model"]["data_preprocessor"][key] == {"mean": [0.0] * 3, "std": [1.0] * 3, "bgr_to_rgb": False}[key]
        cfg["model"]["data_preprocessor"][key] = twin["model"]["data_preprocessor"][key]
    backbone, theirs = cfg["model"]["backbone"], twin["model"]["backbone"]
    weights = {"type": "Pretrained", "checkpoint": f"checkpoints/resnet50-{act}.pth"}
    assert backbone["init_cfg"] == weights and backbone["style"] == "caffe" and backbone["type"] == "ResNet"
    assert cfg["model"].get("pretrained") is None
    for owner, other, keys in (
        (backbone, theirs, ("init_cfg", "style", "type")),
        (cfg["model"], twin["model"], ("pretrained",)),
    ):
        for key in keys:
            owner.pop(key, None)
            other.pop(key, None)


def test_only_acon_parameters_escape_weight_decay(case):
    optimizer = build_optim_wrapper(case.model, case.cfg.optim_wrapper).optimizer
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    base = case.cfg.optim_wrapper.optimizer.weight_decay
    assert base > 0
    slopes = {p for m in case.model.modules() if isinstance(m, Acon) for p in m._parameters.values()}
    # mmengine gives no setting to frozen parameters, which no step changes.
    trained = {name: p for name, p in case.model.named_parameters() if p.requires_grad}
    assert {name for name, p in trained.items() if decay[p] != (0 if p in slopes else base)} == set()
    assert bool(slopes & set(trained.values())) == (case.act is not None)


@pytest.mark.slow
@pytest.mark.parametrize("act", ["aconc", "metaaconc"])
def test_starts_close_to_the_relu_of_pretrained_weights(act):
    path = CONFIGS / f"segmentation/pspnet_r50-d8-{act}_4xb2-40k_cityscapes-512x1024.py"
    cfg, twin = Config.fromfile(path), relu_twin(path)
    torch.manual_seed(0)
    picture = torch.rand(2, 3, 64, 64)
    relu = revert_sync_batchnorm(build(twin).backbone)
    errors = {}
    for init in ("relu", "swish"):
        cfg.model.backbone.act_cfg.init = init
        acon = revert_sync_batchnorm(build(cfg).backbone)
        missing, unexpected = acon.load_state_dict(relu.state_dict(), strict=False)
        assert not unexpected and all(".act2." in name for name in missing)
        with torch.no_grad():
            # After the first stage: deeper, random weights amplify any difference.
            ours, theirs = acon(picture)[0], relu(picture)[0]
        errors[init] = ((ours - theirs).norm() / theirs.norm()).item()
    assert errors["relu"] < 0.01 and errors["swish"] > 0.1
