"""The five models on the embedded digits, through the tools: two iterations, a test, a resumed run, two processes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SAMPLE = dict(num_train=8, num_val=4)
CONFIGS = {
    "retinanet": "detection/retinanet_r18-metaaconc_fpn_6e_digits.py",
    "mask-rcnn": "detection/mask-rcnn_r18-aconc_fpn_6e_digits.py",
    "pspnet": "segmentation/pspnet_r18-d16-metaaconc_1xb8-300_digits-160x160.py",
    "deeplabv3": "segmentation/deeplabv3_r18-d16-aconc_1xb8-300_digits-160x160.py",
    "deeplabv3plus": "segmentation/deeplabv3plus_r18-d16-metaaconc_1xb8-300_digits-160x160.py",
}
METRICS = {
    "retinanet": {"coco/bbox_mAP"},
    "mask-rcnn": {"coco/bbox_mAP", "coco/segm_mAP"},
    **{model: {"aAcc", "mIoU", "mAcc"} for model in ("pspnet", "deeplabv3", "deeplabv3plus")},
}


def tool(name: str):
    spec = importlib.util.spec_from_file_location(f"digits_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def options(model: str, iterations: int) -> list[str]:
    """Few pictures, and one validation at the end."""
    by = "max_epochs" if model in ("retinanet", "mask-rcnn") else "max_iters"
    length = iterations // 2 if by == "max_epochs" else iterations  # an epoch has 8 pictures in batches of 4
    loaders = [f"{loader}_dataloader" for loader in ("train", "val", "test")]
    sample = [f"{loader}.dataset.sample.{key}={value}" for loader in loaders for key, value in SAMPLE.items()]
    sizes = [f"{loader}.batch_size=4" for loader in loaders]
    saved = f"default_hooks.checkpoint.interval={length}"
    # Without a threshold, as an untrained RetinaNet finds nothing above its own.
    anything = ["model.test_cfg.score_thr=0.0"] if model == "retinanet" else []
    return [*sample, *sizes, f"train_cfg.{by}={length}", f"train_cfg.val_interval={length}", saved, *anything]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory to run in: the configs look for data/digits below it, and make it."""
    directory = tmp_path_factory.mktemp("digits")
    before = Path.cwd()
    os.chdir(directory)
    yield directory
    os.chdir(before)


@pytest.mark.parametrize("model", CONFIGS)
def test_two_iterations_and_a_test(place, model):
    """Every ACON's parameters move, and the test of the checkpoint gives what the validation gave."""
    config, work_dir = str(ROOT / "configs" / CONFIGS[model]), place / model
    name = [f"experiment_name={model}", f"visualizer.name={model}"]
    tool("train")([config, "--work-dir", str(work_dir), "--cfg-options", *options(model, 2), *name])
    checkpoint = (work_dir / "last_checkpoint").read_text()
    name = [f"experiment_name={model}-test", f"visualizer.name={model}-test"]
    test_args = [config, checkpoint, "--work-dir", str(work_dir), "--show-dir", str(work_dir / "painted")]
    metrics = tool("test")([*test_args, "--cfg-options", *options(model, 2), *name])
    assert METRICS[model] <= metrics.keys()
    assert sum(1 for _ in (work_dir / "painted").rglob("*.png")) == SAMPLE["num_val"]
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    slopes = {key: value for key, value in weights.items() if key.endswith((".p1", ".p2"))}
    assert len(slopes) == 2 * 16
    # Before the last norm of a block, which starts at zero, nothing learns in the first iteration.
    assert all(value.isfinite().all() for value in weights.values())
    assert sum(not torch.equal(value, value.round()) for value in slopes.values()) >= 16


def test_resume_goes_on(place):
    model = "pspnet"
    config, work_dir = str(ROOT / "configs" / CONFIGS[model]), place / model
    assert (work_dir / "last_checkpoint").exists(), "the test above trains it"
    name = [f"experiment_name={model}-on", f"visualizer.name={model}-on"]
    args = [config, "--work-dir", str(work_dir), "--resume", "--cfg-options", *options(model, 4), *name]
    tool("train")(args)
    meta = torch.load(work_dir / "iter_4.pth", weights_only=True)
    assert meta["meta"]["iter"] == 4
    assert meta["optimizer"]["state"][0]["step"] == 4


def test_two_processes_agree(place, tmp_path):
    """Two gloo processes over the digits: the same parameters on both afterwards, other data in between."""
    (tmp_path / "digest_hook.py").write_text(
        "import torch\n"
        "from mmengine.dist import get_rank\n"
        "from mmengine.hooks import Hook\n"
        "from mmengine.registry import HOOKS\n"
        "@HOOKS.register_module()\n"
        "class DigestHook(Hook):\n"
        "    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):\n"
        "        self.seen = data_batch['data_samples'][0].img_path\n"
        "    def after_train(self, runner):\n"
        "        weights = {k: v.clone() for k, v in runner.model.module.named_parameters()}\n"
        "        torch.save(dict(seen=self.seen, weights=weights), f'{runner.work_dir}/rank{get_rank()}.pth')\n"
    )
    (tmp_path / "config.py").write_text(
        f"_base_ = {str(ROOT / 'configs' / CONFIGS['retinanet'])!r}\n"
        "custom_imports = dict(imports=['acon_mm', 'acon_mm.datasets', 'digest_hook'])\n"
        "custom_hooks = [dict(type='DigestHook')]\n"
    )
    script = ["bash", str(ROOT / "tools" / "dist_train.sh"), str(tmp_path / "config.py"), "2", "--work-dir", "both"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PORT": "29623", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        [*script, "--cfg-options", *options("retinanet", 2), "train_dataloader.batch_size=2"],
        check=True,
        cwd=place,
        env=environment,
        timeout=300,
    )
    first, second = (torch.load(place / "both" / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert first["seen"] != second["seen"]
    assert first["weights"].keys() == second["weights"].keys()
    for key, value in first["weights"].items():
        assert torch.equal(value, second["weights"][key]), key
