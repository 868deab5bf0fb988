"""One model, unchanged and with ACON everywhere: is every activation switched, at the right width, and nothing else?"""

import contextlib
import gc
import io
import logging
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ...convert import NoActivationsError
from ...convert.sites import find_sites
from ...layers import Acon
from . import configs, samples
from .trace import Trace, explain

#: edges of the pictures, tried in this order until the unchanged model runs
SIZES = (64, 128, 256, 300, 512, 640)
#: proposals of a head, and RoIs of a sampler, at most
_BOXES = 32
#: in messages of errors that a larger picture does not mend: no kernel for CPUs; SAN's class weights for other classes
_NOT_THE_SIZE = ("implementation for device", "weight tensor should be defined")


def check(model_cfg: dict, package: str, act_cfg: dict) -> dict:
    """Build, load, run and differentiate a model.

    Returns:
        a dictionary for JSON. ``status`` is ``'converted'``; ``'none'``: no activation that ``act_cfg`` could mean;
        ``'unbuildable'``: its own package does not build it; ``'failed'``: see ``problems``.
    """
    began, used = time.perf_counter(), time.process_time()
    try:
        with silence():
            result = _check(model_cfg, package, act_cfg)
    finally:
        gc.collect()  # modules refer to each other in circles, and there are gigabytes of them
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
    return {**result, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No warnings, no log, and nothing printed."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _check(model_cfg: dict, package: str, act_cfg: dict) -> dict:
    try:
        original = _build(model_cfg, package)
    except Exception as error:
        return {"status": "unbuildable", "error": _in_short(error)}
    sites, kept = find_sites(original)
    problems = {"cannot be switched": [f"{site.name}: {site.problem}" for site in sites if site.problem]}
    result = {"sites": len(sites), "kept": dict(Counter(kept.values())), "problems": problems}
    try:
        model = _build(_ask(model_cfg, package, original, act_cfg), package)
    except NoActivationsError as error:
        problems["activations, but none was found"] = _Run(original, original).leftovers
        return {**result, "status": _status(problems, "none"), "error": str(error), "problems": _some(problems)}
    except Exception as error:
        problems["does not build with ACON"] = [_in_short(error)]
        return {**result, "status": "failed", "problems": _some(problems)}
    acons = {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, Acon)}
    own = {f"{name}.{key}" for name, module in acons.items() for key in module.state_dict()}
    loaded = model.load_state_dict(original.state_dict(), strict=False)
    replaced = [f"{site.path}." for site in sites if site.current is not None]  # a PReLU has a weight
    problems["keys"] = [key for key in loaded.unexpected_keys if not key.startswith(tuple(replaced))]
    problems["keys"] += sorted(set(loaded.missing_keys) - own)
    problems["not switched"] = [s.name for s in find_sites(model)[0] if not isinstance(s.current, Acon)]
    run = _Run(model, original)
    problems["wrong channels"] = run.wrong_channels
    problems["fails with ACON alone"] = run.broken
    problems["left over"] = run.leftovers
    problems["never called"] = run.dead
    problems["without gradient"] = run.without_gradient
    return {
        **result,
        "status": _status(problems, "converted"),
        "converted": len(set(acons.values())),
        "not_reached": len(run.not_reached),
        "kept_calls": dict(Counter(run.kept.values())),
        "passes": run.passes,
        "not_run": run.not_run,
        "unused": run.unused,
        "problems": _some(problems),
    }


def _status(problems: dict[str, list], otherwise: str) -> str:
    return "failed" if any(problems.values()) else otherwise


def _some(problems: dict[str, list]) -> dict[str, list]:
    return {kind: each for kind, each in problems.items() if each}


def build(model_cfg: dict, package: str) -> nn.Module:
    """The model of a config of ``package``, with the same random weights each time."""
    for each in ("mmdet", "mmseg"):
        if find_spec(each):
            import_module(f"{each}.models")
            import_module(f"{each}.datasets")  # the maintained fork keeps a data preprocessor there
    torch.manual_seed(0)
    root = configs.config_dir(package).parent  # where a config means another one by "configs/..."
    with DefaultScope.overwrite_default_scope(package), contextlib.chdir(root), _process_group():
        return MODELS.build(ConfigDict(model_cfg))


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    """A distributed run of this process alone: mmcv's SyncBN asks for one when it is built."""
    alone = not dist.is_initialized()
    if alone:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        if alone:
            dist.destroy_process_group()


def _build(model_cfg: dict, package: str) -> nn.Module:
    return revert_sync_batchnorm(build(_made_small(model_cfg), package))


def _made_small(node: Any) -> Any:
    """A model config that runs in little time: few proposals, queries and sentences, and small pictures."""
    if not isinstance(node, dict):
        several = isinstance(node, (list, tuple))
        return type(node)(_made_small(each) for each in node) if several else deepcopy(node)
    node = {key: _made_small(each) for key, each in node.items()}
    # num: of a sampler; num_queries: of a detector, which takes that many of the few places that a small picture has
    where = {"max_per_img": "", "nms_pre": "", "num_proposals": "", "num": "pos_fraction", "num_queries": "bbox_head"}
    for key, beside in where.items():
        if isinstance(node.get(key), int) and (not beside or beside in node):
            node[key] = min(node[key], _BOXES)
    if "img_size" in node:  # of position embeddings
        node["img_size"] = (SIZES[0], SIZES[0])
    if "templates" in node:  # sentences that a text encoder reads for each class
        node["templates"] = ["a photo of a {}."]
    return node


def _ask(model_cfg: dict, package: str, original: nn.Module, act_cfg: dict) -> dict:
    """``act_cfg`` on the model and on all components that activate, or would with an ``act_cfg`` of their own."""
    leave_out = []
    for path in configs.components(model_cfg):
        part = configs.at(model_cfg, path)
        try:
            sites, _ = find_sites(original.get_submodule(path))
        except AttributeError:
            leave_out.append(path)
            continue
        if not sites and not (configs.takes_act_cfg(part, package) and _activates_with(part, package, act_cfg)):
            leave_out.append(path)
    return configs.ask(model_cfg, act_cfg, tuple(leave_out))


def _activates_with(part: dict, package: str, act_cfg: dict) -> bool:
    """Whether a component without activations has some with ``act_cfg``: an FPN has, a mere classifier has not."""
    try:
        _build({**part, "act_cfg": act_cfg, "act_sites": "all"}, package)
    except NoActivationsError:
        return False
    return True


class _Run:
    """A model in all its passes, and what was seen; lists of names or messages.

    Where a pass fails, the original model tells whether ACON is to blame.
    """

    def __init__(self, model: nn.Module, original: nn.Module):
        self.model, self.original = model, original
        self.initialised = False
        self.passes: dict[str, int] = {}
        self.not_run: dict[str, str] = {}
        self.wrong_channels: list[str] = []
        self.broken: list[str] = []
        self.without_gradient: list[str] = []
        self.unused: list[str] = []  # without gradient as well, but so is the layer before in the original
        self.called: set[str] = set()
        trace = Trace()
        handles = [
            module.register_forward_pre_hook(lambda *_, name=name: self.called.add(name))
            for name, module in model.named_modules(remove_duplicate=False)
        ]
        for name, train, step in samples.passes(model):
            self._pass(name, train, step, trace)
        for handle in handles:
            handle.remove()
        self.kept, self.leftovers = explain(model, trace.calls)
        uncalled = [n for n, m in model.named_modules() if isinstance(m, Acon) and n not in self.called]
        self.dead = [name for name in uncalled if self.passes and _ran(model, name, self.called)]
        self.not_reached = [name for name in uncalled if name not in self.dead]

    def _pass(self, name: str, train: bool, step: Callable, trace: Trace) -> None:
        sizes = [size for size in SIZES if size >= max(self.passes.values(), default=0)]
        while sizes:
            loss, error = _attempt(self.model, step, sizes[0], train, trace)
            if error is None:
                self.passes[name] = sizes[0]
                self.not_run.pop(name, None)
                if loss is not None:
                    self._differentiate(loss, step, sizes[0])
                return
            if isinstance(error, (ValueError, RuntimeError)) and "Acon" in str(error).split(" at ")[0]:
                self.wrong_channels.append(_in_short(error))
                return
            if not self.initialised:  # some parameters are memory as it was found, until then
                self._initialise()
                continue
            _, theirs = _attempt(self.original, step, sizes[0], train, Trace())
            if theirs is None:
                self.broken.append(f"{name} at {sizes[0]}: {_in_short(error)}")
                return
            self.not_run[name] = _in_short(theirs)
            hopeless = any(text in self.not_run[name] for text in _NOT_THE_SIZE)
            if hopeless or isinstance(theirs, (ImportError, AttributeError)):
                return
            sizes.pop(0)

    def _differentiate(self, loss: Tensor, step: Callable, size: int) -> None:
        """Find the ACONs that were called and should learn, but cannot."""
        called = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, Acon) and name in self.called and any(p.requires_grad for p in module.parameters())
        }
        names = _not_reached(loss, called)
        if names:  # or it cannot be told so: a part whose activations are computed again on the way back
            _backward(_attempt(self.model, step, size, True, Trace())[0])
            names = [name for name in names if not _learned(called[name])]
        if not names:
            return
        _backward(_attempt(self.original, step, size, True, Trace())[0])
        paths = {id(module): path for path, module in self.model.named_modules(remove_duplicate=False)}
        places = {site.path: paths[id(site.source)] for site in find_sites(self.model)[0]}
        for name in names:
            theirs = name not in places or any(
                parameter.grad is not None for parameter in self.original.get_submodule(places[name]).parameters()
            )
            (self.without_gradient if theirs else self.unused).append(name)

    def _initialise(self) -> None:
        self.initialised = True
        with contextlib.suppress(Exception):  # a class that wants to fetch weights stays as it is
            self.original.init_weights()
        for parameter in self.original.parameters():
            if parameter.dim() > 1 and not 0 < parameter.abs().max() < 1000:  # SAN has some that it fetches
                nn.init.normal_(parameter, std=0.02)
        self.model.load_state_dict(self.original.state_dict(), strict=False)
        for module in (*self.original.modules(), *self.model.modules()):
            if isinstance(getattr(module, "cache", None), dict):  # and keeps what it computed from them
                module.cache.clear()


def _attempt(
    model: nn.Module, step: Callable, size: int, train: bool, trace: Trace
) -> tuple[Tensor | None, Exception | None]:
    torch.manual_seed(0)
    model.train(train)
    try:
        with torch.set_grad_enabled(train), trace:
            output = step(model, size)
    except Exception as error:
        return None, error
    return (samples.total(output) if train else None), None


def _not_reached(loss: Tensor, modules: dict[str, nn.Module]) -> list[str]:
    """The names of those that the loss gives no gradient. (A backward pass would spend its time on all the others.)"""
    wanted = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True) if wanted and loss.requires_grad else []
    reached = {id(p) for p, gradient in zip(wanted, gradients, strict=False) if gradient is not None}
    return [
        name
        for name, module in modules.items()
        if not all(id(p) in reached for p in module.parameters() if p.requires_grad)
    ]


def _backward(loss: Tensor) -> None:
    if loss.requires_grad:
        loss.backward()


def _learned(module: nn.Module) -> bool:
    return all(p.grad is not None for p in module.parameters() if p.requires_grad)


def _ran(model: nn.Module, name: str, called: set[str]) -> bool:
    """Whether what owns an activation was called, so that the activation should have been as well."""
    owner, _, leaf = name.rpartition(".")
    parent = model.get_submodule(owner)
    if isinstance(parent, nn.Sequential) and owner not in called:  # whose layers are called one by one
        before = [each for each, _ in parent.named_children()]
        return any(f"{owner}.{each}" in called for each in before[: before.index(leaf)])
    while isinstance(model.get_submodule(owner), (nn.ModuleList, nn.ModuleDict)):
        owner = owner.rpartition(".")[0]
    return owner in called


def _in_short(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    _, inside, path = last.filename.rpartition("site-packages/")
    return f"{type(error).__name__}: {text[:400]} ({path if inside else Path(path).name}:{last.lineno})"
