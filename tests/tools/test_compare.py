"""`tools/analysis_tools/compare.py`, in real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS

from helpers.pages import ROOT
from helpers.tiny_runs import TOOLS, error_of, load_tool

tool = load_tool("analysis_tools/compare")
DETECTOR = str(ROOT / "configs/detection/retinanet_r18_fpn_6e_digits.py")

# The runs with SiLU fail, soon, since a process takes long to start. A hook waits at the fourth step of a run until
# there is a file `go`.
PLUGIN = """
import os, sys, time
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.config import Config
from mmengine.registry import HOOKS

if any("SiLU_seed" in each for each in sys.argv):
    raise RuntimeError("it broke")

@HOOKS.register_module()
class Waiting(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        here = Path(__file__).parent
        if batch_idx == 3 and not (here / "go").exists():
            (here / "waiting").write_text(str(os.getpid()))
            time.sleep(300)
"""


@pytest.fixture
def registry():
    """As it was: the tool imports the plugin here too."""
    yield
    HOOKS.module_dict.pop("Waiting", None)


@pytest.mark.slow
def test_killed_resumed_and_one_run_fails(configs, tmp_path, monkeypatch, capsys, registry):
    (tmp_path / "plugin_of_test.py").write_text(PLUGIN)
    config = tmp_path / "config.py"
    config.write_text(
        f"_base_ = {str(configs['segmentation'])!r}\n"
        'custom_imports = dict(imports=["acon_mm", "plugin_of_test"], allow_failed_imports=False)\n'
        'default_hooks = dict(waiting=dict(type="Waiting"))\n'
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.syspath_prepend(tmp_path)
    work_dir = tmp_path / "out"
    args = [str(config), "--acts", "ReLU", "SiLU", "--seeds", "1", "--work-dir", str(work_dir)]
    options = [
        "--cfg-options",
        "train_cfg.max_iters=5",
        "train_cfg.val_interval=5",
        "default_hooks.checkpoint.interval=2",
    ]
    command = [sys.executable, "-W", "ignore", str(TOOLS / "analysis_tools" / "compare.py"), *args, *options]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 200
        while not (tmp_path / "waiting").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    run = work_dir / "ReLU" / "seed_0"
    assert not (run / "done.json").exists() and (run / "iter_2.pth").exists()
    error = error_of(capsys, tool.main, [*args, "--report", *options])
    assert error == "there is nothing to report, since no run is done"

    with pytest.raises(SystemExit) as exit_:
        tool.main([*args, *options])
    assert exit_.value.code == 1
    out = capsys.readouterr().out
    assert "ReLU, seed 0: mIoU " in out and re.search("SiLU, seed 0: FAILED, exit code 1: error: .*: it broke", out)
    assert "resumed epoch: 0, iter: 2" in (run / "log.txt").read_text()
    results = json.loads((work_dir / "results.json").read_text())
    assert {row["variant"]: row["status"] for row in results["runs"]} == {"ReLU": "done", "SiLU": "failed"}
    (first, *_) = results["runs"]
    assert [line["iter"] for line in first["steps"]] == [1, 2, 3, 4, 5]
    assert first["value"] == first["validation"][-1]["metrics"]["mIoU"]
    for name in ("results.csv", "results.md", "report.html", "figures/metric.png", "figures/loss.svg"):
        assert (work_dir / name).stat().st_size > 0

    capsys.readouterr()
    changed = [*args, *options, "optim_wrapper.optimizer.lr=0.5"]
    assert error_of(capsys, tool.main, changed).startswith(f"{work_dir} has runs with other settings (")


@pytest.mark.slow
def test_slurm(tmp_path, capsys):
    args = [DETECTOR, "--acts", "ReLU", "AconC", "--seeds", "3", "--jobs", "4", "--work-dir", str(tmp_path), "--slurm"]
    tool.main([*args, "--cfg-options", "train_cfg.max_epochs=1"])
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-5%4\n" in script
    (line,) = [line for line in script.splitlines() if line.startswith(sys.executable)]
    start = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert start.returncode == 0, start.stderr
    assert '--only "$SLURM_ARRAY_TASK_ID" ' in line and "--slurm" not in line
    assert line.endswith("--cfg-options train_cfg.max_epochs=1")
    configs = list((tmp_path / "configs").iterdir())
    assert len(configs) == 6 and all(Config.fromfile(each).train_cfg.max_epochs == 1 for each in configs)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--seeds", "0"], "--seeds needs at least one seed from 0 on, got 0"),
        (["--seeds", "3", "3"], "--seeds has a seed twice, got 3 3"),
        (["--jobs", "0"], "argument --jobs: must be 1 or more, got 0"),
        (["--acts", "Relu"], "no activation has the name 'Relu': write it as in an act_cfg, such as AconC"),
        (
            ["--acts", "AconC", "--parts", "decode_head"],
            "AconC: the model has no part 'decode_head': --parts takes model, head, ",
        ),
    ],
)
def test_errors(args, error, tmp_path, capsys):
    data = ["--cfg-options", f"train_dataloader.dataset.data_root={tmp_path}"]
    assert error_of(capsys, tool.main, [DETECTOR, *args, "--work-dir", str(tmp_path), *data]).startswith(error)
