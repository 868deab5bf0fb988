"""Draw several pictures of a model's test dataset: the truth above, the model's predictions below."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from PIL import Image

import acon_mm  # noqa: F401  registers activations and datasets
from acon_mm.analysis import predictions
from acon_mm.engine import command_line
from acon_mm.files import replacing


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__, "CONFIG.py epoch_6.pth --out detections.png")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="picture to write")
    parser.add_argument("--num", type=int, default=4, help="number of pictures (default: %(default)s)")
    parser.add_argument(
        "--score-thr", type=command_line.amount, default=0.3, help="lowest score of a box (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        if not args.out.endswith(".png"):
            raise command_line.UserError(f"--out must end in .png, got {args.out}")
        cfg = command_line.load_config(args, needs=("model", "test_dataloader"))
        command_line.check_checkpoint(args.checkpoint)
        drawn = predictions.draw(cfg, args.checkpoint, args.num, args.score_thr)
        with replacing(args.out) as file:
            Image.fromarray(drawn).save(file, format="PNG")
    print(f"Truth and predictions are drawn in {args.out}")


if __name__ == "__main__":
    main()
