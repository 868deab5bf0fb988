"""What modules make of their entries while they load, and what happens when they report errors or raise."""

import pytest
import torch
from mmcv.cnn import ConvAWS2d
from mmengine.model import BaseTTAModel, MMDistributedDataParallel
from mmengine.registry import MODELS
from torch import nn

from acon_mm import AconC, MetaAconC
from acon_mm.checkpoints import load_state_dict
from acon_mm.checkpoints.comparison import WrongShape, compare, load
from helpers.loading import left_unchanged, refused


class Renames(nn.Linear):
    """A linear layer whose weight had another name once."""

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if f"{prefix}old" in state_dict:
            state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}old")
        super()._load_from_state_dict(state_dict, prefix, *args)


class Objects(nn.Linear):
    """A linear layer that has changed itself when it reports an error, or raises it."""

    raises = False

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        nn.init.zeros_(self.weight)
        if self.raises:
            raise KeyError("objected")
        errors.append(f"{prefix}weight was objected to")


def with_acon(layer: nn.Module) -> nn.Module:
    """A layer between others, of which the last has an ACON."""
    return nn.Sequential(nn.Linear(3, 3), layer, nn.Sequential(nn.BatchNorm1d(3), MetaAconC(3)))


def other_values(model: nn.Module) -> dict:
    """A state dict for a model in which all values differ from the model's."""
    return {key: value + 1 for key, value in model.state_dict().items() if not key.endswith("_extra_state")}


def test_the_comparison_has_names_and_shapes():
    model = with_acon(nn.Linear(3, 3))
    state = other_values(model) | {"1.weight": torch.ones(2, 3), "3.weight": torch.ones(1)}
    del state["0.bias"]
    with left_unchanged(model):
        found = compare(model, state, {})
    assert found.shapes["0.weight"] == (3, 3) and not any("num_batches" in key for key in found.shapes)
    assert found.missing == ["0.bias"] and list(found.unexpected) == ["3.weight"] and not found.errors
    assert found.wrong_shape == {"1.weight": WrongShape(checkpoint=(2, 3), model=(3, 3))}
    assert set(found.shapes) - set(found.loaded) == {"0.bias", "1.weight"} == found.absent


def test_renamed_entries_are_compared_by_their_new_names():
    model = with_acon(Renames(3, 3))
    state = other_values(model)
    state["1.old"] = state.pop("1.weight")
    report = load_state_dict(model, state)
    assert "1.weight" in report.loaded and not report.missing and torch.equal(model[1].weight, state["1.old"])
    refused(model, state | {"1.old": torch.ones(2, 3)}, r"size mismatch for 1.weight: \(2, 3\) in .*, \(3, 3\) in the")


def test_errors_of_a_module_leave_the_model_unchanged():
    model = with_acon(Objects(3, 3))
    refused(model, other_values(model), "the checkpoint does not fit Sequential: 1.weight was objected to[.] If")
    # The module's error is reported, and PyTorch's errors about shapes are not reported twice.
    state = other_values(model) | {"1.weight": torch.ones(2, 3), "1.bias": torch.ones(2)}
    error = refused(model, state, "1.weight was objected to; size mismatch for 1.weight: ")
    assert error.count("1.weight") == 2 and error.count("1.bias") == 1
    model[1].raises = True
    with left_unchanged(model), pytest.raises(KeyError, match="objected"):
        load_state_dict(model, other_values(model))


def test_errors_of_pre_hooks_leave_the_model_unchanged():
    def hook(module, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        errors.append(f"{prefix} was objected to")

    model = with_acon(nn.Linear(3, 3))
    model[2]._register_load_state_dict_pre_hook(hook, with_module=True)
    refused(model, other_values(model), "2[.] was objected to")


@pytest.mark.parametrize(
    ("scale", "message"),
    [(float("nan"), "must be positive and finite, got nan"), (80.0, "is 80 in the checkpoint and 3 in the config")],
)
def test_errors_of_meta_acon_leave_the_model_unchanged(scale, message):
    model = nn.Sequential(nn.Linear(4, 4), MetaAconC(4, beta_scale=3.0), MetaAconC(4))
    state = {key: value + 1 for key, value in model.state_dict().items()}
    state["1._extra_state"] = torch.tensor(scale)
    refused(model, state, f"1.beta_scale {message}")
    state["1._extra_state"] = "a text"
    with left_unchanged(model), pytest.raises(ValueError, match="could not convert string"):
        load_state_dict(model, state)
    state["1._extra_state"] = torch.tensor(3.0)
    load_state_dict(model, state)
    assert model[1].beta_scale == 3 and model[2].beta_scale == 3 and torch.equal(model[1].p1, state["1.p1"])


def test_an_error_that_only_the_load_itself_shows_is_no_checkpoint_error():
    """Of a module that reports an error at the second call alone; the promise is for CheckpointError."""
    calls = []

    def hook(*args):
        calls.append(args)
        if len(calls) == 2:
            args[-1].append("now it was objected to")

    model = with_acon(nn.Linear(3, 3))
    model[0]._register_load_state_dict_pre_hook(hook, with_module=True)
    with pytest.raises(RuntimeError, match="Sequential was loaded in part, since a module failed: now it was objected"):
        load_state_dict(model, other_values(model))


def test_post_hooks_are_called_once_and_see_what_is_missing():
    seen = []
    model = with_acon(nn.Linear(3, 3))
    model.register_load_state_dict_post_hook(lambda module, keys: seen.append((module, list(keys.missing_keys))))
    state = other_values(model)
    del state["0.bias"]
    load_state_dict(model, state)
    assert seen == [(model, ["0.bias"])]


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1, 1)])
def test_the_authors_shapes(shape):
    model = nn.Sequential(AconC(3))
    state = {f"0.{name}": torch.full(shape, 2.0) for name in ("p1", "p2", "beta")}
    assert not load_state_dict(model, state).started and model[0].beta.tolist() == [2.0] * 3
    refused(model, state | {"0.p1": torch.ones(1, 4, 1, 1)}, r"0.p1: \(4,\) in the checkpoint, \(3,\) in the model")


def test_counters_of_batch_norms_may_be_missing_or_too_many():
    model = with_acon(nn.Linear(3, 3))
    state = {key: value for key, value in other_values(model).items() if not key.endswith("num_batches_tracked")}
    versions = {"2.0": {"version": 2}}  # since which PyTorch does not add them itself
    for metadata in ({}, versions):
        assert not compare(model, state, metadata).missing
    report = load_state_dict(model, state | {"0.num_batches_tracked": torch.tensor(1)})
    assert not report.missing and report.dropped == ["0.num_batches_tracked"]


def test_a_tensor_without_dimensions_takes_one_of_old_files():
    model = nn.Sequential(AconC(3))
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    load_state_dict(model, other_values(model) | {"scale": torch.tensor([5.0])})
    assert model.scale == 5
    refused(
        model, other_values(model) | {"scale": torch.ones(2)}, r"scale: \(2,\) in the checkpoint, \(\) in the model"
    )


def test_mmcvs_weight_standardization_computes_its_buffers():
    """`ConvAWS2d` computes two buffers of its weight where the checkpoint does not have them."""
    model = nn.Sequential(ConvAWS2d(2, 3, 3), AconC(3))
    state = {"0.weight": torch.randn(3, 2, 3, 3), "0.bias": torch.ones(3)}
    report = load_state_dict(model, state)
    assert not report.missing
    torch.testing.assert_close(model[0].weight_beta.flatten(), state["0.weight"].mean((1, 2, 3)))
    refused(model, state | {"0.bias": torch.ones(4)}, "size mismatch for 0.bias")


def test_mmdets_heads_translate_names_of_old_files():
    """Heads without anchors had `fcos_cls` for `conv_cls`, in files without versions."""
    head = MODELS.build(
        dict(type="mmdet.FCOSHead", num_classes=2, in_channels=4, feat_channels=4, stacked_convs=1, norm_cfg=None)
    )
    model = nn.ModuleDict(dict(bbox_head=head, act=AconC(3)))
    state = other_values(model)
    old = {key.replace("conv_cls", "fcos_cls"): value for key, value in state.items()}
    report = load_state_dict(model, old)
    assert not report.missing and not report.dropped and "bbox_head.conv_cls.weight" in report.loaded
    assert torch.equal(head.conv_cls.bias, state["bbox_head.conv_cls.bias"])
    old["bbox_head.fcos_cls.bias"] = torch.ones(7)
    refused(model, old, r"size mismatch for bbox_head.conv_cls.bias: \(7,\) in the checkpoint, \(2,\) in the model")


def test_a_module_under_two_names_is_compared_under_both():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, AconC(3), shared)
    state = other_values(model)
    assert set(load_state_dict(model, state).loaded) == set(state)
    refused(model, state | {"2.weight": torch.ones(1)}, "size mismatch for 2.weight")


def test_lazy_modules_take_their_shapes_from_the_checkpoint():
    model = nn.Sequential(nn.LazyLinear(3), AconC(3))
    state = {"0.weight": torch.ones(3, 5), "0.bias": torch.ones(3)}
    load_state_dict(model, state)
    assert torch.equal(model[0].weight, state["0.weight"])


def test_wrappers_are_looked_through():
    class Wrapper(nn.Module):
        def __init__(self, module):
            nn.Module.__init__(self)  # alone, since the others need a process group or a detector
            self.module = module

    class Parallel(Wrapper, MMDistributedDataParallel):
        pass

    class Averaging(Wrapper, BaseTTAModel):
        def merge_preds(self, data_samples_list):
            raise AssertionError("it predicts nothing here")

    model = with_acon(nn.Linear(3, 3))
    state = other_values(model)
    for wrapped in (Parallel(model), Averaging(model)):
        model[0].weight.data.zero_()
        assert load_state_dict(wrapped, state).model == "Sequential" and torch.equal(model[0].weight, state["0.weight"])
    inner = nn.Sequential(Parallel(model[0]), *model[1:])
    assert "0.weight" in load_state_dict(inner, state).loaded


def test_load_takes_any_mapping():
    model = with_acon(nn.Linear(3, 3))
    state = other_values(model)
    load(model, state, {})
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
