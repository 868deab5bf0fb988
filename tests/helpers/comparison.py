"""Results of a comparison that nobody ran, and a browser."""

import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from acon_mm.analysis.comparison.statistics import difference, spread

VALUES = {
    "ReLU": {0: 0.40, 1: 0.42, 2: 0.41},
    "AconC": {0: 0.45, 1: 0.47, 2: 0.465},
    "<b>Odd</b> & co": {0: 0.41, 2: 0.40},
}


def results(directory: Path) -> dict:
    """Three variants over three seeds; one run of the last has failed."""
    variants, runs = [], []
    for index, (label, values) in enumerate(VALUES.items()):
        mean, std = spread(list(values.values()))
        variants.append(
            {
                "label": label,
                "mean": mean,
                "std": std,
                "values": values,
                "failed": [seed for seed in range(3) if seed not in values],
                "difference": asdict(difference(values, VALUES["ReLU"])) if index else None,
                "step_time": 0.1 + 0.02 * index,
                "inference_time": None,
                "memory": 2**30 * (3 - index),
                "parameters": 10_000_000 + index,
                "flops": None if index == 2 else 2_000_000_000 + index,
                "acons": 0 if index == 0 else 8,
                "sites": 11,
            }
        )
        for seed in range(3):
            done = seed in values
            runs.append(
                {
                    "variant": label,
                    "seed": seed,
                    "status": "done" if done else "failed",
                    "failure": None if done else "exit code 1: it broke",
                    "value": values.get(seed),
                    "metrics": {"coco/bbox_mAP": values[seed]} if done else {},
                    "step_time": 0.1,
                    "memory": 2**30,
                    "inference_time": None,
                    "seconds": 60.0 + seed if done else None,
                    "start": f"digest{seed}",
                    "steps": [{"iter": i, "of": 9, "loss": 2.0 / i + seed / 10, "time": 0.1} for i in range(1, 10)],
                    "validation": [
                        {"iter": i, "metrics": {"coco/bbox_mAP": i / 100 + seed / 50}} for i in (10, 20, 30)
                    ],
                    "directory": str(directory / f"v{index}" / f"seed_{seed}"),
                    "commands": [f"python train.py v{index} {seed}"],
                }
            )
    return {
        "config": "configs/a.py",
        "command": "python tools/analysis_tools/compare.py configs/a.py",
        "metric": "coco/bbox_mAP",
        "less_is_better": False,
        "base": "ReLU",
        "shape": [160, 160],
        "variants": variants,
        "runs": runs,
        "starts": {seed: [f"digest{seed}"] for seed in range(3)},
        "machine": "a computer",
        "versions": {"Python": "3.11", "torch": "2.13"},
    }


def browser() -> str:
    """A Chromium. Without one the test is skipped with this reason: the project cannot install it for everybody."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    reason = "the page is tested in a headless Chromium, and there is none: install it (Debian: chromium)"
    pytest.skip(reason)


def after_script(page: Path, script: str) -> str:
    """The text that a script leaves in the page's title, after the page has loaded in a browser without network."""
    tested = page.with_name("tested.html")
    # An error must not look like an answer.
    wrapped = f"<script>try {{ {script} }} catch (error) {{ document.title = 'error: ' + error; }}</script></body>"
    tested.write_text(page.read_text().replace("</body>", wrapped))
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    profile = f"--user-data-dir={page.with_name('profile')}"
    command += [profile, "--window-size=1000,800", "--dump-dom", tested.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("<title>")[1].split("</title>")[0]
