"""Errors in one line: what is wrong, and the place in the config that it comes from."""

import re
from collections.abc import Iterator
from itertools import chain
from types import FrameType
from typing import Any

from mmengine.config import Config

from ..errors import UserError
from .data_checks import nothing_usable
from .settings import settings


def is_of_a_batch(error: BaseException) -> bool:
    """Whether an error came while a batch was computed. Its traceback says where in the model."""
    names = {frame.f_code.co_name for frame in _frames(error)}
    return "run_iter" in names and "call_hook" not in names  # of mmengine's loops, but not of a hook


def one_line(error: BaseException) -> str:
    """The text of an error, and the place in the config if it comes from building a part of it."""
    # A worker that loads data gives only the text of its error, with the traceback before it.
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    text = " ".join(str(text).rpartition("acon_mm.errors.DataError: ")[2].split())
    if isinstance(error, UserError):
        return text
    if isinstance(error, KeyError):
        text = text.removesuffix(" None").partition(" Please check whether the value of")[0]
    name = "" if isinstance(error, (ValueError, TypeError, KeyError)) and " " in text else f"{type(error).__name__}: "
    for frame in _frames(error):
        if frame.f_code.co_name == "_serialize_data":  # of an empty data set: NumPy's error says nothing
            text = nothing_usable([frame.f_locals["self"]], 0)
    if isinstance(error, OSError) and error.errno and not error.filename:  # mmengine's writers know it
        written = [frame.f_locals.get(name) for frame in _frames(error) for name in ("filepath", "save_file")]
        if target := next((each for each in written if each), None):
            text = f"cannot write {target}: {error.strerror}"
    sources = [getattr(frame.f_locals.get("self"), "ann_file", None) for frame in _frames(error)]
    readers = ("load_checkpoint", "resume")
    sources += [frame.f_locals.get("filename") for frame in _frames(error) if frame.f_code.co_name in readers]
    if source := next((each for each in sources if isinstance(each, str) and each), None):
        text += f" (while {source} was read)"
    place = _place(error, text)
    return f"{place}: {name}{text}" if place else f"{name}{text}"


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames that an error came through, outermost first; those of the error that it replaced come after."""
    seen: BaseException | None = error
    while seen is not None:
        trace = seen.__traceback__
        while trace is not None:
            yield trace.tb_frame
            trace = trace.tb_next
        seen = seen.__cause__ or seen.__context__


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
    if not place:
        return ""
    # The setting itself, where the text has its name or its value, and only one setting below has that: the innermost
    # one, and rather a name than a value. A name can also be a word, as in "Data is not in the dataset registry".
    best = (0, False, place)
    for word in dict.fromkeys(re.findall(r"\w+", text)):
        found = [
            (len(path), key == word and ("_" in word or not isinstance(value, dict)), [*path, key])
            for path, part in settings(node)
            for key, value in part.items()
            if (key == word and key != "type") or (isinstance(value, str) and value == word)
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
