"""Errors in one line: what is wrong, and the place that it comes from: in the config, or the batch of a run."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.runner import BaseLoop
from torch.utils._pytree import tree_flatten

from ..checkpoints.comparison import unwrapped
from ..errors import DataError, UserError
from .data_checks import nothing_usable


def batch_of(error: BaseException) -> str:
    """The batch that a loop of mmengine's computed when an error came, and the layer; '' if it computed none."""
    frames = list(_frames(error))
    loops = [frame.f_locals for frame in frames if frame.f_code.co_name == "run_iter"]
    loop = next((each for each in loops if isinstance(each.get("self"), BaseLoop)), None)
    if loop is None or any(frame.f_code.co_name == "call_hook" for frame in frames):
        return ""
    iteration = getattr(loop["self"], "_iter", loop.get("idx", 0)) + 1
    samples = (each.metainfo for each in tree_flatten(loop.get("data_batch"))[0] if hasattr(each, "metainfo"))
    pictures = ", ".join(str(each.get("img_path")) for each in samples)
    names = {id(module): name for name, module in unwrapped(loop["self"].runner.model).named_modules()}
    within = [names.get(id(frame.f_locals.get("self"))) for frame in frames if frame.f_code.co_name == "forward"]
    layer = next(filter(None, reversed(within)), None)
    return f"iteration {iteration}{f', {layer}' * bool(layer)}, pictures {pictures or 'unknown'}"


def one_line(error: BaseException) -> str:
    """The text of an error, and where it is from: the batch or the place in the config, the file or the function."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if "Original Traceback" in text:  # a worker that loads data gives only the text of its error, after the traceback
        text = re.split(r"\n\s+.*(?=\n\S)", text)[-1].strip().removeprefix("acon_mm.errors.DataError: ")
    text = " ".join(text.split())
    frames = list(_frames(error))
    place = batch_of(error)
    if not isinstance(error, UserError):
        text = _explained(error, text)
        place = place or _place(error, text)
    file = next(filter(None, map(_file, frames)), None)
    if file and file not in text and not isinstance(error, DataError) and not getattr(error, "filename", None):
        text += f" (file: {file})"
    elif not (file or place or isinstance(error, (UserError, OSError))):
        text += f" (in {frames[-1].f_code.co_name} of {frames[-1].f_globals['__name__']})"
    return f"{place}: {text}" if place else text


def _explained(error: BaseException, text: str) -> str:
    for frame in _frames(error):
        if frame.f_code.co_name == "_serialize_data":  # of an empty data set: NumPy's error says nothing
            return nothing_usable([frame.f_locals["self"]], 0)
    if isinstance(error, KeyError):
        text = text.removesuffix(" None").partition(" Please check whether the value of")[0]
    kind = type(error).__name__
    if (isinstance(error, (ValueError, TypeError, KeyError)) and " " in text) or text.startswith(f"{kind}: "):
        return text
    return f"{kind}: {text or traceback.extract_tb(error.__traceback__)[-1].line}"


def _file(frame: FrameType) -> str | None:
    """The file that a function of mmengine's or of a data set reads or writes."""
    found = [frame.f_locals.get(name) for name in ("filepath", "save_file", "ann_file")]
    found += [getattr(frame.f_locals.get("self"), name, None) for name in ("ann_file", "checkpoint")]
    if frame.f_code.co_name in ("load_checkpoint", "resume"):
        found.append(frame.f_locals.get("filename"))
    return next((str(each) for each in found if each and isinstance(each, (str, Path))), None)


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames that an error came through, outermost first; those of the error that it replaced come after."""
    seen: BaseException | None = error
    while seen is not None:
        yield from (frame for frame, _ in traceback.walk_tb(seen.__traceback__))
        seen = seen.__cause__ or seen.__context__


def settings(node: Any) -> Iterator[tuple[list[str], dict]]:
    """All dictionaries in a config, with their places, level by level."""
    level: list[tuple[list[str], Any]] = [([], node)]
    while level:
        below = []
        for place, part in level:
            if isinstance(part, (dict, Config)):
                yield place, part
            pairs = part.items() if isinstance(part, (dict, Config)) else enumerate(part)
            below += [([*place, str(k)], v) for k, v in pairs if isinstance(v, (dict, list, tuple))]
        level = below


def _place(error: BaseException, text: str) -> str:
    """The setting that an error comes from, such as ``model.backbone.act_cfg.r``; '' if it is not known."""
    root: Any = None
    node: Any = None
    place: list[str] = []
    for frame in _frames(error):
        cfg = frame.f_locals.get("cfg", frame.f_locals.get("dataloader"))
        if node is None:
            root = node = cfg if isinstance(cfg, Config) else None
        elif isinstance(cfg, dict) and frame.f_code.co_name.startswith("build"):
            below = ((part, place + path) for path, part in settings(node))  # or itself, once more
            anywhere = ((part, path) for path, part in settings(root))
            fitting = (found for found in chain(below, anywhere) if _fits(found[0], cfg))
            node, place = next(fitting, (node, place))
    # The setting itself, where the text has its name or its value, and only one setting below has that: the innermost
    # one, and rather a name than a value. But in "Data is not in the dataset registry", a KeyError, the name is a word.
    # Where no part is known, only the key of a KeyError counts, as a value anywhere in the config.
    best = (0, False, place)
    for word in dict.fromkeys(re.findall(r"\w+", text)):
        found = [
            (len(path), (key == word) != isinstance(error, KeyError), [*path, key])
            for path, part in (settings(node) if place or (node and isinstance(error, KeyError)) else ())
            for key, value in part.items()
            if (key == word and key != "type" and place) or (isinstance(value, str) and value == word)
        ]
        if len(found) == 1:
            depth, by_name, path = found[0]
            best = max(best, (depth + 1, by_name, place + path), key=lambda each: each[:2])
    return ".".join(best[2])


def _fits(setting: dict, cfg: dict) -> bool:
    """Whether ``cfg`` was made of this setting: something may have been taken out of it or added."""
    if "type" not in cfg:
        return setting == cfg
    return setting.get("type") == cfg["type"] and all(cfg[key] == setting[key] for key in cfg.keys() & setting.keys())
