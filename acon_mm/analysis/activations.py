"""What the activations of a checkpoint have learned: figures, a table, and the betas that pictures give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor, nn

from ..compat import strict_zip
from ..errors import UserError
from ..files import write_file
from ..layers import MetaAconC
from ..learned import Layer, RecordedBetas, figures
from .explanation.report import table
from .page import document, rendered, style

#: what a picture is loaded as
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass
class Seen:
    """What Meta-ACON did with pictures.

    Attributes:
        names: of the pictures.
        classes: those in each picture; empty if nobody knows them.
        images: the pictures, ``(H, W, 3)``.
        betas: by the name of the module, the beta of each picture, ``(C,)``.
        maps: by the name of the module, beta over each picture, for the pixel-wise generator.
    """

    names: list[str] = field(default_factory=list)
    classes: list[set[str]] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    betas: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    maps: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def means(self) -> dict[str, Tensor]:
        """The mean beta of each channel, ``(C,)``."""
        return {name: torch.stack(rows).mean(0) for name, rows in self.betas.items()}

    def by_picture(self, most: int) -> dict[str, dict[str, Tensor]]:
        """The betas of the first pictures, by module and picture."""
        return {name: dict(zip(self.names[:most], rows)) for name, rows in self.betas.items()}

    def by_class(self) -> dict[str, dict[str, Tensor]]:
        """The mean betas of the pictures with each class, by module and class; empty without classes."""
        known = sorted(set().union(*self.classes))
        return {
            name: {
                label: torch.stack([row for row, inside in strict_zip(rows, self.classes) if label in inside]).mean(0)
                for label in known
            }
            for name, rows in self.betas.items()
            if known
        }


def needs_pictures(model: nn.Module) -> bool:
    """Whether a beta of the model depends on its input."""
    return any(isinstance(module, MetaAconC) for module in model.modules())


def see(runner: Runner, pictures: str | None, count: int) -> Seen:
    """Run the model on pictures, one by one.

    Args:
        runner: with its model as it was trained.
        pictures: a directory; its subdirectories are classes. None: the test set of the config, with its classes.
        count: how many pictures.

    Raises:
        UserError: the directory has no pictures.
    """
    model, seen = runner.model, Seen()
    model.eval()
    init_default_scope(runner.cfg.default_scope)
    samples = _from_directory(runner.cfg, Path(pictures)) if pictures else _from_test_set(runner.cfg)
    for name, classes, data in islice(samples, count):
        recorded = RecordedBetas(model, keep_maps=True)
        try:
            with torch.no_grad():
                model.test_step(pseudo_collate([data]))
        finally:
            recorded.stop()
        seen.names.append(name)
        seen.classes.append(classes)
        seen.images.append(_image(data["inputs"]))
        # A head that several levels share is called for each of them.
        for module, betas in recorded.means().items():
            seen.betas[module].append(betas)
        for module, calls in recorded.maps.items():
            if calls[0].dim() == 3:  # not after a fully connected layer
                seen.maps[module].append(calls[0][0].numpy())
    return seen


def _from_directory(cfg: Config, directory: Path) -> Iterator[tuple[str, set[str], dict]]:
    files = sorted(path for path in directory.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise UserError(f"--pictures {directory} has no pictures ({', '.join(_SUFFIXES)})")
    pipeline = Compose([each for each in _test_set(cfg).pipeline if "LoadAnnotations" not in str(each["type"])])
    for index, file in enumerate(files):
        relative = file.relative_to(directory)
        yield str(relative), set(relative.parts[:-1][:1]), pipeline({"img_path": str(file), "img_id": index})


def _from_test_set(cfg: Config) -> Iterator[tuple[str, set[str], dict]]:
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    names = dataset.metainfo.get("classes") or ()
    for index in range(len(dataset)):
        data = dataset[index]
        sample = data["data_samples"]
        labels: list[int] = []
        if "gt_instances" in sample:
            labels = sample.gt_instances.labels.tolist()
        elif "gt_sem_seg" in sample:
            labels = sample.gt_sem_seg.data.unique().tolist()
        yield Path(sample.img_path).name, {names[label] for label in labels if label < len(names)}, data


def _test_set(cfg: Config) -> Any:
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    return deepcopy(dataset)


def _image(inputs: Tensor) -> np.ndarray:
    """A picture of a data set, which is (3, H, W) in BGR, for the eye."""
    return np.asarray(Image.fromarray(inputs.numpy().transpose(1, 2, 0)[..., ::-1].astype(np.uint8)))


def drawn(layers: Sequence[Layer], before: Sequence[Layer], seen: Seen | None, most: int = 8) -> dict[str, Any]:
    """All figures, by name. ``most``: how many pictures are shown singly."""
    with style():
        made = figures.learned(layers, before)
        if seen is None or not seen.betas:
            return made
        made["betas_by_picture"] = figures.betas_by(seen.by_picture(most), "picture")
        if by_class := seen.by_class():
            made["betas_by_class"] = figures.betas_by(by_class, "class")
        if seen.maps:
            made["maps"] = figures.maps(seen.images[: min(most, 4)], seen.maps)
    return made


def write(made: Mapping[str, Any], title: str, directory: Path) -> None:
    """Write each figure as PNG and SVG, and all of them as ``activations.html``."""
    pictures = [rendered(figure, name) for name, figure in made.items()]
    for each in pictures:
        each.save(directory)
    pieces = [each.html(figures.CAPTIONS[each.name], inline=False) for each in pictures]
    write_file(directory / "activations.html", document(title, [f"<h1>{title}</h1>", *pieces]))


def text(layers: Sequence[Layer]) -> str:
    """A table of the layers in Markdown, and which of them stayed linear."""
    rows = []
    for layer in layers:
        shares = [f"{share:.0%}" for share in layer.shares().values()]
        middles = ["" if each is None else f"{each.median():.3g}" for each in (layer.p1, layer.p2, layer.beta)]
        rows.append([layer.name, layer.type, str(len(layer.p1)), *shares, *middles])
    linear = [layer.name for layer in layers if layer.shares()["linear"] > 0.5]
    head = ["layer", "type", "channels", "linear", "ReLU", "other", "p1", "p2", "beta"]
    return f"{table(head, rows)}\n\nMost channels are near linear in: {', '.join(linear) or 'none of the layers'}."
