"""Files like those of the authors' release, with random weights and statistics."""

import torch

from acon_mm.checkpoints import authors


def make(depth: int = 50, acon_type: str = "AconC", stem: int = 8, base: int = 4, classes: int = 0) -> dict:
    """The state dict of one of their networks, with few channels by default."""
    generator = torch.Generator().manual_seed(depth)
    layout = authors.Layout(depth, acon_type, stem, base)

    def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            return torch.rand(shape, generator=generator) + 0.5
        if name == "conv1.weight":  # so small that biases matter beside pictures of 0..255
            return torch.randn(shape, generator=generator) * 1e-3
        if name.endswith("weight"):
            return torch.randn(shape, generator=generator) * (2 / torch.Size(shape[1:]).numel()) ** 0.5
        return torch.randn(shape, generator=generator)  # biases, means, slopes and beta

    state = {name: draw(name, shape) for name, shape in authors.shapes(layout).items()}
    if classes:
        features = base * 8 * (1 if layout.basic else 4)
        state |= {"fc.weight": draw("fc.weight", (classes, features)), "fc.bias": draw("fc.bias", (classes,))}
    return state
