"""Loads through mmengine's own functions: what is told, what is an error, the ways out, and models left alone."""

import copy
import pickle
from pathlib import Path

import mmdet.models  # registers detectors
import mmseg.models  # noqa: F401  and segmentors
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint
from torch import nn

from acon_mm import AconC, MetaAconC, patches
from acon_mm.checkpoints import CheckpointError, convert_official, load_state_dict
from acon_mm.checkpoints.report import summary
from acon_mm.engine import LoadCheckHook
from helpers.authors_files import make
from helpers.tiny_runs import error_of, log_of, run, test, train

SMALL = dict(depth=18, base_channels=8, stem_channels=8)
ACONC, META = dict(type="AconC", init="relu"), dict(type="MetaAconC", init="relu")


def backbone(act_cfg: dict | None = None, scope: str = "mmdet", **kwargs) -> nn.Module:
    cfg = dict(type=f"{scope}.ResNet", **SMALL | kwargs)
    return MODELS.build(cfg | dict(act_cfg=act_cfg) if act_cfg else cfg)


def retinanet(
    act_cfg: dict | None = ACONC, checkpoint: str | None = None, classes: int = 4, **preprocessor
) -> nn.Module:
    init_default_scope("mmdet")
    cfg = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs/_base_/models/retinanet_r50_fpn.py").model
    cfg.backbone.update(init_cfg=checkpoint and dict(type="Pretrained", checkpoint=checkpoint), **SMALL)
    cfg.backbone.update(depth=50, norm_eval=False, frozen_stages=-1, **(dict(act_cfg=act_cfg) if act_cfg else {}))
    cfg.backbone.base_channels = 4
    cfg.neck.update(in_channels=[16, 32, 64, 128], out_channels=8)
    cfg.bbox_head.update(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=classes)
    cfg.data_preprocessor.update(preprocessor)
    return MODELS.build(cfg)


RAW = dict(mean=[0.0] * 3, std=[1.0] * 3, bgr_to_rgb=False)


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """What loads tell the log."""
    from acon_mm.checkpoints import mmengine_loaders

    lines: list[str] = []
    monkeypatch.setattr(mmengine_loaders, "print_log", lambda text, logger, level: lines.append(text))
    return lines


# What is told


def test_table_of_a_relu_classifier(logged):
    relu = backbone().state_dict()
    model = backbone(ACONC)
    mmengine_checkpoint.load_state_dict(model, relu | {"fc.weight": torch.ones(3, 3), "fc.bias": torch.ones(3)})
    (table,) = logged
    rows = {line[:28].strip(): line[28:].split() for line in table.splitlines()[1:]}
    assert rows["from the checkpoint"][-1] == str(sum("num_batches" not in key for key in relu))
    assert rows["ACON's own, keep their init"][0] == "48" and "init='relu':" in rows["ACON's own, keep their init"]
    assert rows["dropped, not in the model"] == ["2", "fc.weight,", "fc.bias"]
    assert torch.equal(model.layer3[1].conv2.weight, relu["layer3.1.conv2.weight"])


@pytest.mark.parametrize(("init", "advice"), [("relu", None), ("swish", "start as SiLU"), ("paper", "start as random")])
def test_an_init_that_ruins_relu_weights_is_told(init, advice):
    report = load_state_dict(backbone(dict(type="AconC", init=init)), backbone().state_dict())
    assert (advice or "Weights of") in str(report) and ("init='relu' in act_cfg" in str(report)) == (advice is not None)
    assert (report.level > 20) == (advice is not None)


def test_summary():
    assert summary(["layer1.0.act1", "layer2.11.act1", "fc"]) == "layer*.*.act1, fc"
    assert summary([f"name{letter}" for letter in "abcdefgh"]).endswith("namef, 2 more")


# Errors


def prefixed(state):
    return {f"backbone.{key}": value for key, value in state.items()}


def without(start):
    return lambda state: {key: value for key, value in state.items() if not key.startswith(start)}


def with_(**tensors):
    return lambda state: state | {name.replace("__", "."): value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (prefixed, r"its names begin with backbone: init_cfg=dict\(type='Pretrained', prefix='backbone.'"),
        (without("layer4."), "it has nothing for layer4[.] "),
        (without("layer4.1."), "it has nothing for layer4.1[.] "),
        (with_(layer3__0__conv1__weight=torch.zeros(3)), r"size mismatch for layer3.0.conv1.weight: .*\(\[3\]\)"),
        (with_(layer3__9__conv1__weight=torch.zeros(3)), r"1 of its tensors are not in the model: layer\*.\*.conv1"),
        (with_(layer1__0__conv1__bias=torch.ones(8)), r"1 of its tensors are not in the model: layer\*.\*.conv1.bias"),
        (lambda state: {"other": torch.ones(3)}, "nothing in it fits; it has other, "),
        (
            lambda state: make(18, "AconC", 8, 8),
            "it is the authors' own file: convert it by tools/model_converters/convert_checkpoint.py",
        ),
    ],
)
def test_what_does_not_fit_is_an_error(change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_state_dict(backbone(ACONC), change(backbone().state_dict()))
    assert "LoadCheckHook" in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        with_(fc__weight=torch.ones(3)),
        with_(conv1__bias=torch.zeros(8)),  # adds nothing
        without("layer2.0.downsample.1.running_mean"),
    ],
)
def test_what_changes_nothing_is_none(change):
    load_state_dict(backbone(ACONC), change(backbone().state_dict()))


def test_a_backbone_given_as_a_whole_model():
    with pytest.raises(CheckpointError, match=r"of a backbone alone: model.backbone.init_cfg=dict\(type='Pretrained'"):
        load_state_dict(retinanet(), backbone(depth=50, base_channels=4).state_dict())


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (ACONC, META, r"layer\*.\*.act1, layer\*.\*.act2 is AconC in the checkpoint and MetaAconC in the model"),
        (META, ACONC, r"layer\*.\*.act1, layer\*.\*.act2 is MetaAconC in the checkpoint and AconC in the model"),
    ],
)
def test_another_kind_of_acon(source, target, message):
    with pytest.raises(CheckpointError, match=message):
        load_state_dict(backbone(target), backbone(source).state_dict())


def test_acons_where_the_model_has_others():
    everywhere = MODELS.build(dict(type="mmdet.ResNet", **SMALL, act_cfg=ACONC, act_sites="all"))
    one = MODELS.build(dict(type="mmdet.ResNet", **SMALL, act_cfg=ACONC, act_sites=["act1"]))
    load_state_dict(everywhere, one.state_dict())
    with pytest.raises(
        CheckpointError, match=r"it activates with AconC at relu, layer\*.\*.act2, where the model has no"
    ):
        load_state_dict(one, everywhere.state_dict())


def test_an_acon_of_another_width_and_in_part():
    state = backbone(ACONC).state_dict()
    with pytest.raises(CheckpointError, match=r"size mismatch for layer1.0.act1.p2"):
        load_state_dict(backbone(ACONC), state | {"layer1.0.act1.p2": torch.ones(9)})
    del state["layer1.0.act1.beta"]
    with pytest.raises(
        CheckpointError, match=r"layer1.0.act1 is MetaAconC without fc1 .* in the checkpoint and AconC in"
    ):
        load_state_dict(backbone(ACONC), state)


# Ways out


def test_named_mismatches_pass():
    state = retinanet(classes=4).state_dict()
    model = retinanet(classes=6)
    before = model.bbox_head.retina_cls.weight.clone()
    with pytest.raises(CheckpointError, match=r"size mismatch for bbox_head\.retina_cls\.weight"):
        load_state_dict(model, state)
    for allow in (["bbox_head.retina_cls"], ["*.retina_cls.*"]):
        report = load_state_dict(model, state, allow=allow)
        assert report.wrong_size == ["bbox_head.retina_cls.weight", "bbox_head.retina_cls.bias"]
        assert torch.equal(model.bbox_head.retina_cls.weight, before)


def test_the_hook_names_them_for_a_run(configs, trained, tmp_path, capsys):
    """More classes than the checkpoint has: an error, and with the hook a run."""
    checkpoint, name = trained["segmentation"], "acon.py"
    (tmp_path / name).write_text(
        f"_base_ = {str(configs['segmentation'])!r}\n"
        "model = dict(backbone=dict(act_cfg=dict(type='AconC', init='relu')), decode_head=dict(num_classes=5))\n"
        f"load_from = {str(checkpoint)!r}\n"
    )
    error = error_of(capsys, run, train, tmp_path / name, tmp_path / "refused")
    assert error.startswith("the checkpoint does not fit EncoderDecoder: size mismatch for decode_head.conv_seg.weight")
    with open(tmp_path / name, "a") as file:
        file.write("default_hooks = dict(load_check=dict(type='LoadCheckHook', allow=['decode_head.conv_seg']))\n")
    run(train, tmp_path / name, tmp_path / "run")
    table = log_of(tmp_path / "run")
    assert "dropped, of the wrong size         2  decode_head.conv_seg.weight" in table and "init='relu'" in table
    # Its own checkpoint fits wholly, for test and resume.
    run(test, tmp_path / name, tmp_path / "test", str(tmp_path / "run/iter_2.pth"))
    assert "ACON's own, keep their init        0" in log_of(tmp_path / "test")
    longer = ("train_cfg.max_iters=4",)
    run(train, tmp_path / name, tmp_path / "on", "--resume", str(tmp_path / "run/iter_2.pth"), options=longer)
    assert "ACON's own, keep their init        0" in log_of(tmp_path / "on")


def test_the_hook_takes_a_list():
    with pytest.raises(TypeError, match=r"allow must be a list of names, got 'bbox_head'"):
        LoadCheckHook(allow="bbox_head")


# Other sources


def test_yolov5_names():
    """ConvModule's `activate` is `act` there; its Meta-ACON has no norms, its parameters are (1, C, 1, 1)."""
    from mmcv.cnn import ConvModule

    c = 32
    shapes = {"p1": (1, c, 1, 1), "p2": (1, c, 1, 1), "fc1.weight": (16, c, 1, 1), "fc1.bias": (16,)}
    shapes |= {"fc2.weight": (c, 16, 1, 1), "fc2.bias": (c,)}
    state = {f"act.{name}": torch.randn(shape) for name, shape in shapes.items()} | {
        "conv.weight": torch.randn(c, 3, 1, 1)
    }
    model = ConvModule(3, c, 1, bias=False, act_cfg=dict(type="MetaAconC", norm_cfg=None))
    report = load_state_dict(model, state)
    assert not (report.started or report.missing or report.dropped) and model.activate.beta_scale == 1
    x = torch.randn(2, 3, 4, 4)
    z = model.conv(x)
    pooled = z.mean((2, 3), keepdim=True)
    hidden = nn.functional.conv2d(pooled, state["act.fc1.weight"], state["act.fc1.bias"])
    beta = nn.functional.conv2d(hidden, state["act.fc2.weight"], state["act.fc2.bias"]).sigmoid()
    p1, p2 = state["act.p1"], state["act.p2"]
    torch.testing.assert_close(model(x), (p1 - p2) * z * (beta * (p1 - p2) * z).sigmoid() + p2 * z)
    with pytest.raises(
        CheckpointError, match=r"only a part of activate, without bn1.* \(yolov5's has no norms: norm_cfg"
    ):
        load_state_dict(ConvModule(3, c, 1, bias=False, act_cfg=dict(type="MetaAconC")), state)


def test_beta_scale_goes_with_the_parameters():
    saved = MetaAconC(4, init="relu").state_dict()
    for init in ("paper", "swish"):
        module = MetaAconC(4, init=init)
        module.load_state_dict(saved)
        assert module.beta_scale == MetaAconC(4, init="relu").beta_scale
    given = MetaAconC(4, beta_scale=3.0)
    with pytest.raises(RuntimeError, match=r"beta_scale is 80 in the checkpoint and 3 in the config: leave it out"):
        given.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="beta_scale must be positive and finite, got nan"):
        MetaAconC(4).load_state_dict(saved | {"_extra_state": torch.tensor(float("nan"))})


def test_states_of_version_0_1_0():
    """They had no beta_scale: the config's was meant. Those of the authors, (1, C, 1, 1), have the paper's."""
    saved = {name: value for name, value in MetaAconC(4).state_dict().items() if name != "_extra_state"}
    module = MetaAconC(4)
    module.load_state_dict(saved)
    assert module.beta_scale == 2
    module.load_state_dict(saved | {name: saved[name].view(1, 4, 1, 1) for name in ("p1", "p2")})
    assert module.beta_scale == 1


def test_states_with_the_scale_under_its_old_name():
    saved = MetaAconC(4, init="relu").state_dict()
    saved["beta_scale"] = saved.pop("_extra_state").float()
    module = MetaAconC(4)
    module.load_state_dict(saved)
    assert module.beta_scale == 80 and "beta_scale" not in module.state_dict()


@pytest.mark.parametrize("generator", ["channel", "layer", "pixel"])
def test_functional_call_takes_the_state_dict(generator):
    module = MetaAconC(4, generator=generator, beta_scale=3.0)
    module.eval()
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(torch.func.functional_call(module, module.state_dict(), (x,)), module(x))


def test_a_moving_average_starts_from_relu_weights_too():
    """EMAHook loads with strict=True; ACON's own parameters are no reason to fail."""
    relu = backbone().state_dict()
    load_state_dict(backbone(ACONC), relu, strict=True)
    with pytest.raises(CheckpointError, match=r"it lacks layer\*\.\*\.downsample"):
        load_state_dict(backbone(ACONC), without("layer2.0.downsample.1.running_mean")(relu), strict=True)


# Notes


@pytest.fixture(scope="module")
def authors_weights(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("authors") / "converted.pth"
    torch.save(convert_official(make(50, "AconC")), path)
    return str(path)


def test_a_detector_starts_from_the_authors_weights(authors_weights, logged):
    model = retinanet(dict(type="AconC"), authors_weights, **RAW)
    with pytest.raises(CheckpointError, match="style='caffe' of the backbone, not 'pytorch'"):
        model.init_weights()
    model = MODELS.build(retinanet_cfg(authors_weights))
    model.init_weights()
    assert "ACON's own, keep their init        0" in logged[-1]
    assert torch.equal(model.backbone.layer1[0].act2.p1, torch.load(authors_weights)["state_dict"]["layer1.0.act2.p1"])


def retinanet_cfg(checkpoint: str, preprocessor: dict = RAW, **backbone_options) -> dict:
    init_default_scope("mmdet")
    cfg = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs/_base_/models/retinanet_r50_fpn.py").model
    own = dict(depth=50, stem_channels=8, base_channels=4, style="caffe", act_cfg=dict(type="AconC"))
    cfg.backbone.update(own | dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint)) | backbone_options)
    if cfg.backbone.act_cfg is None:
        del cfg.backbone["act_cfg"]
    cfg.neck.update(in_channels=[16, 32, 64, 128], out_channels=8)
    cfg.bbox_head.update(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=4)
    cfg.data_preprocessor.update(preprocessor)
    return cfg


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(style="pytorch"), "it needs style='caffe' of the backbone, not 'pytorch'"),
        (dict(preprocessor=RAW | dict(bgr_to_rgb=True)), "it needs pictures in BGR: set bgr_to_rgb=False"),
        (
            dict(preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0] * 3, bgr_to_rgb=False)),
            r"it needs mean=\[0.0, 0.0, 0.0\] in data_preprocessor, not \[103.53, 116.28, 123.675\]",
        ),
        (dict(act_cfg=None), r"it activates with AconC: give the backbone act_cfg=\{'type': 'AconC'\}"),
        (
            dict(act_cfg=dict(type="MetaAconC")),
            r"layer\*.\*.act2 is AconC in the checkpoint and MetaAconC in the model",
        ),
        (dict(base_channels=8), "it needs base_channels=4 of the backbone, not 8"),
        (dict(depth=101), "it needs depth=50 of the backbone, not 101"),
        (dict(deep_stem=True), "it needs a backbone of type='ResNet', with one 7x7 convolution as stem"),
    ],
)
def test_a_note_that_does_not_fit(authors_weights, change, message):
    cfg = retinanet_cfg(authors_weights, **change)
    if cfg.backbone.base_channels == 8:
        cfg.neck.in_channels = [32, 64, 128, 256]
    with pytest.raises(CheckpointError, match=message):
        MODELS.build(cfg).init_weights()


def test_a_note_stays_through_training_and_prefix(authors_weights, tmp_path):
    """What is trained from such weights is held to the note as well, whole or by its backbone alone."""
    model = MODELS.build(retinanet_cfg(authors_weights))
    model.init_weights()
    torch.save({"state_dict": mmengine_checkpoint.get_state_dict(copy.deepcopy(model))}, tmp_path / "whole.pth")
    wrong = MODELS.build(retinanet_cfg(authors_weights, preprocessor=RAW | dict(bgr_to_rgb=True)))
    with pytest.raises(CheckpointError, match="it needs pictures in BGR"):
        load_checkpoint(wrong, str(tmp_path / "whole.pth"))
    of_backbone = dict(type="Pretrained", checkpoint=str(tmp_path / "whole.pth"), prefix="backbone.")
    right = MODELS.build(retinanet_cfg(authors_weights, init_cfg=of_backbone))
    right.init_weights()
    with pytest.raises(CheckpointError, match="it needs style='caffe'"):
        MODELS.build(retinanet_cfg(authors_weights, init_cfg=of_backbone, style="pytorch")).init_weights()
    # Other weights on top: the note is theirs no more.
    plain = {key: value for key, value in model.state_dict().items()}
    load_state_dict(right, plain)
    assert not any("acon_mm" in entry for entry in right.state_dict()._metadata.values())


def test_mmseg_preprocessors_are_read_too(authors_weights):
    init_default_scope("mmseg")
    own = dict(type="ResNet", depth=50, stem_channels=8, base_channels=4, style="caffe", act_cfg=dict(type="AconC"))
    head = dict(type="FCNHead", in_channels=128, in_index=3, channels=8, num_classes=3)
    for bgr_to_rgb in (False, True):
        preprocessor = dict(type="SegDataPreProcessor", **RAW | dict(bgr_to_rgb=bgr_to_rgb))
        init = dict(type="Pretrained", checkpoint=authors_weights)
        model = MODELS.build(
            dict(
                type="EncoderDecoder",
                data_preprocessor=preprocessor,
                backbone=own | dict(init_cfg=init),
                decode_head=head,
            )
        )
        model = revert_sync_batchnorm(model)
        if bgr_to_rgb:
            with pytest.raises(CheckpointError, match="it needs pictures in BGR"):
                model.init_weights()
        else:
            model.init_weights()


# Files


@pytest.mark.parametrize("place", ["torchvision://resnet18", "https://nowhere.invalid/resnet18-1.pth"])
def test_addresses(tmp_path, monkeypatch, logged, place):
    """Files come from torch.hub's cache here, which is read as downloads are; code in one is refused."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    urls = {"resnet18": "https://nowhere.invalid/resnet18-1.pth"}
    monkeypatch.setattr(mmengine_checkpoint, "get_torchvision_models", lambda: urls)  # it needs torchvision
    cache = tmp_path / "hub/checkpoints/resnet18-1.pth"
    cache.parent.mkdir(parents=True)
    state = backbone().state_dict() | {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    torch.save(state, cache)
    model = backbone(ACONC)
    load_checkpoint(model, place)
    assert "dropped, not in the model          2  fc.weight, fc.bias" in logged[-1]
    assert torch.equal(model.conv1.weight, state["conv1.weight"])

    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": state, "meta": Code()}, cache)
    with pytest.raises(CheckpointError, match=f"{place} is refused: it asks for pathlib"):
        load_checkpoint(model, place)
    assert not (tmp_path / "ran").exists()
    patches.uninstall()
    try:  # without the effect, it runs
        load_checkpoint(backbone(), place)
        assert (tmp_path / "ran").exists()
    finally:
        patches.install()


def test_damaged_files(tmp_path):
    torch.save(backbone().state_dict(), tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:30000])
    with pytest.raises((RuntimeError, OSError)):
        load_checkpoint(backbone(ACONC), str(tmp_path / "half.pth"))


def test_a_pretrained_file_is_checked_before_the_start(configs, tmp_path, capsys):
    options = ("model.backbone.init_cfg.type=Pretrained", "model.backbone.init_cfg.checkpoint=no.pth")
    error = error_of(capsys, run, train, configs["segmentation"], tmp_path, options=options)
    assert error == "model.backbone.init_cfg.checkpoint: there is no checkpoint no.pth"


# Left alone


def test_models_without_acon_load_as_before(logged, capsys):
    """Whatever does not fit; what mmengine prints is the same, too."""
    state = without("layer4.")(backbone().state_dict()) | {"x": torch.ones(1), "conv1.weight": torch.ones(2)}
    printed = []
    for _ in range(2):
        torch.manual_seed(0)
        model = backbone()
        mmengine_checkpoint.load_state_dict(model, state)
        printed.append((capsys.readouterr().out, model.state_dict()))
        patches.uninstall()
    patches.install()
    (first, ours), (second, theirs) = printed
    assert first == second and "unexpected key in source state_dict: x" in first
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not logged and not retinanet(None, "x.pth").backbone.__dict__.get("_acon_data_preprocessor")


def test_what_is_loaded_is_what_mmengine_loads():
    """A model with ACONs, its own state: our recursion and mmengine's, through a wrapper."""
    source = retinanet(META)
    for parameter in source.parameters():
        nn.init.normal_(parameter)

    class Wrapper(mmengine_checkpoint.BaseTTAModel):
        def merge_preds(self, *_):
            raise AssertionError

    patches.uninstall()
    mmengines = mmengine_checkpoint.load_state_dict
    patches.install()
    loaded = []
    for loader in (load_state_dict, mmengines):
        model = retinanet(META)
        loader(Wrapper(model), source.state_dict())
        loaded.append(model.state_dict())
    assert all(torch.equal(loaded[0][key], loaded[1][key]) for key in loaded[0])


def test_models_still_copy_and_pickle(authors_weights):
    model = MODELS.build(retinanet_cfg(authors_weights))
    model.init_weights()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.backbone._acon_data_preprocessor is twin.data_preprocessor
        assert "acon_mm" in twin.state_dict()._metadata["backbone"]


def test_acons_alone():
    module = AconC(3)
    load_state_dict(module, {name: torch.full((3,), 2.0) for name in ("p1", "p2", "beta")})
    assert module.p2.tolist() == [2.0] * 3
