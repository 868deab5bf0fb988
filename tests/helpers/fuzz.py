"""Random inputs to ACON-C: ``python -m helpers.fuzz BACKEND COUNT`` prints what is wrong, and how many are not."""

import random
import sys

import torch

from acon_mm.ops import backends, functional

from .exactness import assert_exact, layouts, parameters_for


def main(backend: str, count: int) -> None:
    assert backends.backend_for(torch.ones(1)) == backend, backends.backend_for(torch.ones(1))
    rng, right = random.Random(0), 0
    torch.manual_seed(0)
    left = count
    while left > 0:
        rank = rng.choice([2, 3, 4, 4, 5])
        space = [rng.choice([0, 1, 2, 5, 7, 16]) for _ in range(rank - 2)]
        shape = (rng.choice([0, 1, 1, 2, 3, 17]), rng.choice([1, 2, 3, 8, 33]), *space)
        # Triton's interpreter truncates to bfloat16 instead of rounding.
        narrow = torch.float16 if backend == "triton" else torch.bfloat16
        dtype = rng.choice([torch.float32, torch.float32, torch.float16, narrow, torch.float64])
        found = list(layouts(shape, dtype).items())
        for name, (x, dim) in rng.sample(found, min(left, len(found))):
            left -= 1
            shapes = rng.choice(["C", "NC", "N1"])
            parameters = [t * rng.choice([0.01, 1, 10]) for t in parameters_for(x, dim, shapes)]
            try:
                assert_exact(functional.acon_c, x, parameters, dim)
                right += 1
            except Exception as error:
                print(f"{name} {shape} {dtype} {shapes}: {type(error).__name__} {error}".replace("\n", " ")[:300])
    print(right)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
