"""Source of small random modules that activate in all the ways in which people write it."""

from __future__ import annotations

import random
from itertools import permutations

HEADER = '''"""Generated."""

from functools import partial, reduce

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn
from torch.utils.checkpoint import checkpoint
'''

KINDS = ("nn.ReLU()", "nn.ReLU(inplace=True)", "nn.GELU()", "nn.SiLU()", "nn.LeakyReLU(0.2)", "nn.ReLU6()")
FUNCTIONS = (
    *("F.relu({})", "F.relu({}, inplace=False)", "torch.relu({})", "F.silu({})", "F.gelu({}, approximate='tanh')"),
    *("F.leaky_relu({}, 0.3)", "F.leaky_relu({}, negative_slope=0.3)", "({}).relu()", "F.hardswish({})", "F.mish({})"),
    *("F.elu({}, 0.5)", "F.relu(input={})", "nn.ReLU()({})", "torch.selu({})", "torch.ops.aten.relu({})"),
    *("torch.ops.aten.leaky_relu.default({}, 0.3)",),
)
ORDERS = tuple(permutations(("conv", "norm", "act")))


class _Module:
    """The lines of one class: those of ``__init__`` and of ``forward``; ``c`` channels reach the next line."""

    def __init__(self, rng: random.Random, name: str, parts: list[_Module]) -> None:
        self.rng, self.name, self.parts = rng, name, parts
        self.init: list[str] = []
        self.body: list[str] = []
        self.methods: list[str] = []
        self.first = self.c = rng.choice((4, 8))
        self.count = 0
        self.body.append(f"x = {self.conv()}(x)")  # or else any number of channels would fit
        for _ in range(rng.randint(1, 4)):
            getattr(self, rng.choice(WAYS))()

    def new(self, line: str) -> str:
        self.count += 1
        name = f"m{self.count}"
        self.init.append(f"self.{name} = {line}")
        return f"self.{name}"

    def conv(self, out: int | None = None) -> str:
        before, self.c = self.c, out or self.rng.choice((4, 6, 8))
        return self.new(f"nn.Conv2d({before}, {self.c}, 1)")

    def act(self) -> str:
        return self.new(self.rng.choice(KINDS))

    def function(self, x: str) -> str:
        return self.rng.choice(FUNCTIONS).format(x)

    # Ways to activate

    def plain(self) -> None:
        self.body.append(f"x = {self.act()}({self.conv()}(x))")

    def shared(self) -> None:
        act = self.act()
        self.body += [f"x = {act}({self.conv()}(x))", f"x = {act}({self.conv()}(x)) + 1"]

    def functional(self) -> None:
        self.body.append(f"x = {self.function(f'{self.conv()}(x)')}")

    def residual(self) -> None:
        act, one, two = self.act(), self.conv(self.c), self.conv(self.c)
        self.body += ["identity = x", f"x = {two}({self.function(f'{one}(x)')})", "x += identity", f"x = {act}(x)"]

    def before_the_layer(self) -> None:
        act = self.act().replace(", inplace=True", "")
        self.body += [f"y = {act}(x * 1)", f"x = {self.conv()}(y)", f"x = {self.function('x')}"]

    def looped(self) -> None:
        act = self.act()
        layers = self.new(f"nn.ModuleList(nn.Conv2d({self.c}, {self.c}, 1) for _ in range(3))")
        call = self.rng.choice((f"{act}({{}})", self.function("{}")))
        way = self.rng.randrange(5)
        if way == 0:
            self.body += [f"for layer in {layers}:", f"    x = {call.format('layer(x)')}"]
        elif way == 1:
            self.body += [f"for i in range(len({layers})):", f"    x = {call.format(f'{layers}[i](x)')}"]
        elif way == 2:
            self.body += [f"for i, layer in enumerate({layers}[:-1]):", f"    x = {call.format('layer(x)')}"]
            self.body += [f"x = {layers}[-1](x)"]
        elif way == 3:
            self.body += [f"x = sum([{call.format('layer(x)')} for layer in {layers}])"]
        else:
            self.body += [
                f"for one, two in zip({layers}, reversed({layers})):",
                f"    x = {call.format('one(x)')} + two(x)",
            ]

    def several_widths_in_a_loop(self) -> None:
        act, before = self.act(), self.c
        layers = self.new(f"nn.ModuleList([nn.Conv2d({before}, 6, 1), nn.Conv2d(6, 12, 1), nn.Conv2d(12, 4, 1)])")
        self.c = 4
        self.body += [f"for layer in {layers}:", f"    x = {act}(layer(x))"]

    def mixed_list(self) -> None:
        act = self.rng.choice(KINDS)
        layers = [f"nn.Conv2d({self.c}, {self.c}, 1)", "act", f"nn.Conv2d({self.c}, {self.c}, 1)", "act"]
        self.init.append(f"act = {act}")
        list_of = self.new(f"nn.ModuleList([{', '.join(layers)}])")
        self.body += [f"for layer in {list_of}:", "    x = layer(x)"]

    def sequential(self) -> None:
        self.init.append(f"act = {self.rng.choice(KINDS)}")
        norm = self.rng.choice((f"nn.BatchNorm2d({self.c}), ", ""))
        body = f"nn.Conv2d({self.c}, {self.c}, 1), {norm}act"
        self.body.append(f"x = {self.new(f'nn.Sequential({body}, nn.Sequential({body}), nn.Dropout(0.1), {body})')}(x)")

    def conv_module(self) -> None:
        options = f"order={self.rng.choice(ORDERS)}, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU')"
        before, self.c = self.c, self.rng.choice((4, 6))
        self.body.append(f"x = {self.new(f'ConvModule({before}, {self.c}, 1, {options})')}(x)")

    def option(self) -> None:
        act, flag = self.act(), self.new(self.rng.choice(("True", "False", "None")))
        self.body += [f"if {flag}:", f"    x = {act}(x * 2)", "else:", f"    x = {self.function('x * 3')}"]

    def on_data(self) -> None:
        act, conv = self.act(), self.conv()
        self.body += [
            f"x = {conv}(x)",
            "if x.mean() > 0:",
            f"    x = {act}(x * 1)",
            "else:",
            f"    x = {self.function('x')}",
        ]

    def helper(self) -> None:
        act, conv = self.act(), self.conv(self.c)
        name = f"helper{self.count}"
        self.methods += [f"def {name}(self, x, scale=1.0):", f"    return {self.function(f'{conv}({act}(x * scale))')}"]
        self.body.append(f"x = self.{name}(x, 0.5)")

    def inner_function(self) -> None:
        act, conv = self.act(), self.conv()
        self.body += ["def inner(x):", f"    return {act}({conv}(x))", ""]
        self.body.append(self.rng.choice(("x = inner(x)", "x = checkpoint(inner, x, use_reentrant=False)")))

    def alias(self) -> None:
        act, conv = self.act(), self.conv()
        self.body += [f"act = {act}", f"x = act({conv}(act(x * 1)))"]

    def by_name(self) -> None:
        act = self.act()
        self.body.append(f"x = getattr(self, {act.removeprefix('self.')!r})({self.conv()}(x))")

    def function_as_attribute(self) -> None:
        act = self.new(self.rng.choice(("F.relu", "partial(F.leaky_relu, negative_slope=0.1)", "torch.relu")))
        self.body += [f"x = {act}({self.conv()}(x))", f"x = {act}(x - 0.1)"]

    def lambda_as_attribute(self) -> None:
        act = self.new("lambda x: F.leaky_relu(x, 0.1)")
        self.body += [f"x = {act}({self.conv()}(x))", f"x = {act}(x - 0.1)"]

    def made_inside(self) -> None:
        self.body += ["act = partial(F.leaky_relu, negative_slope=0.3)", f"x = act({self.conv()}(x))"]

    def inner_default(self) -> None:
        conv = self.conv()
        self.body += [f"def inner(x, act={self.rng.choice(('F.relu', self.act()))}):", f"    return act({conv}(x))", ""]
        self.body.append("x = inner(x)")

    def by_keyword(self) -> None:
        self.body.append(f"x = {self.act()}(input={self.conv()}(x))")

    def unknown_order(self) -> None:
        before, self.c = self.c, 4
        parts = {"a": f"nn.Conv2d({before}, 6, 1)", "b": "nn.ReLU()", "c": "nn.Conv2d(6, 4, 1)", "d": "nn.SiLU()"}
        layers = self.new(f"nn.ModuleDict(dict({', '.join(f'{k}={v}' for k, v in parts.items())}))")
        way = self.rng.randrange(4)
        if way == 0:
            self.body += [f"for name, layer in {layers}.items():", "    x = layer(x)"]
        elif way == 1:
            self.body += [f"for layer in {layers}.children():", "    x = layer(x)"]
        elif way == 2:
            self.body += ["i = 0", f"while i < len({layers}):", f"    x, i = {layers}['abcd'[i]](x), i + 1"]
        else:
            self.body.append(f"x = reduce(lambda y, layer: layer(y), {layers}.values(), x)")

    def chain(self) -> None:
        act = self.rng.choice(KINDS)
        conv = f"nn.Conv2d({self.c}, {self.c}, 1)"
        self.body.append(f"x = {self.new(f'Chain({conv}, {act}, {conv}, {act})')}(x)")

    def in_place(self) -> None:
        self.body += [f"x = {self.conv()}(x)", self.rng.choice(("x.relu_()", "F.relu_(x)", "F.relu(x, inplace=True)"))]

    def channels_last(self) -> None:
        linear = self.new(f"nn.Linear({self.c}, {self.c})")
        self.body += ["x = x.permute(0, 2, 3, 1)", f"x = {self.function(f'{linear}(x)')}", "x = x.permute(0, 3, 1, 2)"]

    def shuffled(self) -> None:
        conv, self.c = self.conv(16), 4
        self.body.append(f"x = {self.function(f'F.pixel_shuffle({conv}(x), 2)')}")

    def concatenated(self) -> None:
        self.body.append(f"x = {self.act()}(torch.cat([x, {self.function('x * 1')}], dim=1))")
        self.c *= 2

    def part(self) -> None:
        fitting = [part for part in self.parts if part.first == self.c]
        if fitting:
            part = self.rng.choice(fitting)
            self.body.append(f"x = {self.new(f'{part.name}()')}(x)")
            self.c = part.c

    def inherited(self) -> None:
        act = self.act()
        self.body.append(f"x = {act}(super().forward(x))")

    def source(self) -> str:
        lines = [f"class {self.name}(Base):", "    def __init__(self):", "        super().__init__()"]
        lines += [f"        {line}" for line in self.init]
        lines += ["", *(f"    {line}" for line in self.methods), "", "    def forward(self, x):"]
        return "\n".join([*lines, *(f"        {line}" for line in self.body), "        return x"])


WAYS = tuple(
    name
    for name in vars(_Module)
    if not name.startswith("_") and name not in ("new", "conv", "act", "function", "source")
)

BASE = """
class Chain(nn.Sequential):
    def forward(self, x):
        return F.relu(super().forward(x))


class Base(nn.Module):
    def forward(self, x):
        return F.relu(x - 0.5) + x
"""


def random_modules(seed: int, count: int) -> tuple[str, list[tuple[str, int]]]:
    """The source of a Python module with ``count`` classes; their names, each with its input channels."""
    rng = random.Random(seed)
    modules: list[_Module] = []
    for i in range(count):
        modules.append(_Module(rng, f"Net{i}", modules[-8:]))
    text = "\n\n\n".join([HEADER, BASE, *(module.source() for module in modules)])
    return text, [(module.name, module.first) for module in modules]
