"""Test a detector (mmdet config) or a segmentor (mmseg config) with the metrics in its config."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config

import acon_mm  # noqa: F401  registers activations and datasets
from acon_mm.engine import command_line


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__, "CONFIG.py work_dirs/CONFIG/epoch_6.pth --show-dir pictures")
    command_line.add_launch(parser)
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("--out", help="save predictions: detection to a .pkl file, segmentation to a directory")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="save pictures of the predictions in this directory")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds for which --show shows a picture")
    parser.add_argument("--tta", action="store_true", help="use test-time augmentation")
    return parser.parse_args(argv)


def draw_predictions(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Enable the visualization hook of the config."""
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        name = "DetVisualizationHook" if cfg.default_scope == "mmdet" else "SegVisualizationHook"
        raise command_line.UserError(
            f"--show and --show-dir need default_hooks.visualization in the config: dict(type='{name}')"
        )
    hook.update(draw=True, show=show, wait_time=wait_time)
    if cfg.default_scope == "mmseg":
        hook.setdefault("interval", 1)  # the hook's default is every 50th picture
    if show_dir is not None:
        directory = str(Path(show_dir).absolute())
        if cfg.default_scope == "mmdet":
            hook.test_out_dir = directory
        else:
            cfg.visualizer.save_dir = directory


def use_tta(cfg: Config) -> None:
    """Wrap the model in `tta_model` and set `tta_pipeline` for the data. The default for detection is flips."""
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    if cfg.default_scope == "mmdet":
        tta_cfg = {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}
        cfg.setdefault("tta_model", {"type": "DetTTAModel", "tta_cfg": tta_cfg})
        if "tta_pipeline" not in cfg:
            cfg.tta_pipeline = [*deepcopy(dataset.pipeline[:-1]), flips()]
    missing = [key for key in ("tta_model", "tta_pipeline") if key not in cfg]
    if missing:
        raise command_line.UserError(f"--tta needs {' and '.join(missing)} in the config of a segmentor")
    cfg.model = {**cfg.tta_model, "module": cfg.model}
    dataset.pipeline = cfg.tta_pipeline


def flips() -> dict:
    """The last steps of a detection pipeline, for the picture and its mirror image."""
    meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
    mirror = [{"type": "RandomFlip", "prob": 1.0}, {"type": "RandomFlip", "prob": 0.0}]
    return {"type": "TestTimeAug", "transforms": [mirror, [{"type": "PackDetInputs", "meta_keys": meta_keys}]]}


def save_predictions(cfg: Config, out: str) -> None:
    """Save detections with one more metric, and label maps with the first metric of a segmentor."""
    if isinstance(cfg.test_evaluator, dict) and "metrics" not in cfg.test_evaluator:
        cfg.test_evaluator = [cfg.test_evaluator]
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else cfg.test_evaluator.metrics
    if cfg.default_scope == "mmdet":
        if not out.endswith((".pkl", ".pickle")):
            raise command_line.UserError(f"--out of a detector must end in .pkl or .pickle, got {out}")
        metrics.append({"type": "DumpDetResults", "out_file_path": out})
    else:
        # mmseg makes it in the first process only, and another process may need it earlier.
        Path(out).mkdir(parents=True, exist_ok=True)
        metrics[0].update(output_dir=out, keep_results=True)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the test. Log the metrics and return them."""
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        cfg = command_line.load_config(args, needs=("model", "test_cfg", "test_dataloader", "test_evaluator"))
        command_line.check_checkpoint(args.checkpoint)
        cfg.load_from, cfg.resume = args.checkpoint, False
        if args.show or args.show_dir:
            draw_predictions(cfg, args.show, args.show_dir, args.wait_time)
        if args.tta:
            use_tta(cfg)
        if args.out:
            save_predictions(cfg, args.out)
        return command_line.build_runner(cfg).test()


if __name__ == "__main__":
    main()
