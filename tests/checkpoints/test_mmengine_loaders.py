"""mmengine's own loaders: they check and report loads into models with ACON, run no code, and else do as before."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from acon_mm import patches
from acon_mm.checkpoints import CheckpointError, load_state_dict, mmengine_loaders
from helpers.loading import ACONC, META, backbone, left_unchanged, retinanet, without


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """What loads write into the log."""
    lines: list[str] = []
    monkeypatch.setattr(mmengine_loaders, "print_log", lambda text, logger, level: lines.append(text))
    return lines


def test_a_load_is_checked_and_its_table_is_logged(logged):
    relu, model = backbone().state_dict(), backbone(ACONC)
    with left_unchanged(model), pytest.raises(CheckpointError, match="it has no weights for layer4"):
        mmengine_checkpoint.load_state_dict(model, without("layer4.", relu))
    assert not logged
    mmengine_checkpoint.load_state_dict(model, relu)
    assert len(logged) == 1 and logged[0].startswith("Weights of ResNet") and "init='relu'" in logged[0]


def test_init_cfg_is_checked(tmp_path, logged):
    state = backbone(depth=50, base_channels=4).state_dict()
    torch.save(state, tmp_path / "whole.pth")
    torch.save(without("layer3.", state), tmp_path / "part.pth")
    retinanet(checkpoint=str(tmp_path / "whole.pth")).init_weights()
    assert logged[0].startswith("Weights of ResNet")
    with pytest.raises(CheckpointError, match="it has no weights for layer3"):
        retinanet(checkpoint=str(tmp_path / "part.pth")).init_weights()


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
    with left_unchanged(model), pytest.raises(CheckpointError, match=f"{place} is refused: it asks for pathlib"):
        load_checkpoint(model, place)
    assert not (tmp_path / "ran").exists()
    patches.uninstall()
    try:  # without the patches, it runs
        load_checkpoint(backbone(), place)
        assert (tmp_path / "ran").exists()
    finally:
        patches.install()


def test_a_truncated_file(tmp_path):
    model = backbone(ACONC)
    torch.save(backbone().state_dict(), tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:30000])
    errors, message = (OSError, RuntimeError), "Invalid argument|central directory"  # which, is up to torch's version
    with left_unchanged(model), pytest.raises(errors, match=message):
        load_checkpoint(model, str(tmp_path / "half.pth"))


# As before


def test_a_name_imported_before_is_mmengines_again_after_uninstall():
    imported = mmengine_checkpoint.load_state_dict
    state = without("layer4.", backbone().state_dict())
    with pytest.raises(CheckpointError):
        imported(backbone(ACONC), state)
    model = backbone(ACONC)
    patches.uninstall()
    try:
        imported(model, state)
    finally:
        patches.install()
    assert torch.equal(model.conv1.weight, state["conv1.weight"])


def test_models_without_acon_load_as_before(logged, capsys):
    """Whatever does not fit; what mmengine prints is the same, too."""
    state = without("layer4.", backbone().state_dict()) | {"x": torch.ones(1), "conv1.weight": torch.ones(2)}

    def load() -> tuple[str, dict]:
        torch.manual_seed(0)
        model = backbone()
        mmengine_checkpoint.load_state_dict(model, state)
        return capsys.readouterr().out, model.state_dict()

    ours = load()
    patches.uninstall()
    try:
        theirs = load()
    finally:
        patches.install()
    assert ours[0] == theirs[0] and "unexpected key in source state_dict: x" in ours[0] and not logged
    assert ours[1].keys() == theirs[1].keys() and all(torch.equal(ours[1][key], theirs[1][key]) for key in ours[1])
    assert torch.equal(ours[1]["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


@pytest.mark.parametrize("act_cfg", [ACONC, META])
def test_a_checkpoint_with_acons_is_an_error_in_a_model_without(act_cfg):
    state, model = backbone(act_cfg).state_dict(), backbone()
    with left_unchanged(model), pytest.raises(CheckpointError, match="where the model has no ACON: set its act_cfg"):
        mmengine_checkpoint.load_state_dict(model, state)


def test_what_is_loaded_is_what_mmengine_loads():
    """The state of a model with ACONs, by our recursion and by mmengine's."""
    patches.uninstall()
    mmengines = mmengine_checkpoint.load_state_dict
    patches.install()
    source = retinanet(META)
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    loaded = []
    for loader in (load_state_dict, mmengines):
        model = retinanet(META)
        loader(model, source.state_dict())
        loaded.append(model.state_dict())
    assert loaded[0].keys() == source.state_dict().keys()
    assert all(torch.equal(loaded[0][key], loaded[1][key]) for key in loaded[0])


@pytest.mark.parametrize("damaged", [True, False])
def test_a_damaged_download_is_fetched_again(damaged, tmp_path, monkeypatch):
    """Also where it came from `torchvision://`: all downloads go through one function."""
    source, cache = tmp_path / "server/x.pth", tmp_path / "hub"
    source.parent.mkdir()
    torch.save({"a": torch.ones(3)}, source)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(cache))
    kept = cache / "checkpoints/x.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(source.read_bytes()[: -50 if damaged else None])
    fetched = []

    def download(url, path, *_, **__):
        fetched.append(url)
        shutil.copy(source, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert CheckpointLoader.load_checkpoint("https://example.com/x.pth", "cpu")["a"].sum() == 3
    assert fetched == ["https://example.com/x.pth"] * damaged


@pytest.mark.parametrize("convert", ["cfloat", "long", "bool", "to_sparse", "numpy"])
@pytest.mark.parametrize("act_cfg", [None, ACONC], ids=["relu", "acon"])
def test_weights_that_are_not_real_numbers(act_cfg, convert):
    """PyTorch would convert the first three, without the imaginary part."""
    model = backbone(act_cfg) if act_cfg else backbone()
    state = dict(model.state_dict())
    mmengine_checkpoint.load_state_dict(model, {name: value.double() for name, value in state.items()})
    for name in ("layer1.0.conv1.weight", "bn1.running_var"):
        with left_unchanged(model), pytest.raises(CheckpointError, match=f"of real numbers: {name}$"):
            mmengine_checkpoint.load_state_dict(model, state | {name: getattr(state[name], convert)()})
