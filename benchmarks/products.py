"""Time the ways in which a CPU can multiply a masked layer's matrices, and compare the fastest with that of
language_model/products.py.

    python benchmarks/products.py

This takes about three minutes. The table is printed and written to benchmarks/results/products.md. Below it is the
fastest way of each dtype, and the way that products.py takes on this machine.
"""

import math
from collections.abc import Callable

import torch
from bench import interleaved, report
from lora import SHAPES, TOKENS
from sparseft.language_model.hardware import keep_freed_memory
from sparseft.language_model.products import Way, way_of
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INPUT = "dX = dY W'"
WEIGHT = "G = dY^T X"
# The first is the one to keep if no other is clearly faster.
WAYS = {
    "torch.mm": Way(),
    "torch.mm, dY^T copied": Way(copy=True),
    "oneDNN": Way(onednn=True),
    "oneDNN, dY^T copied": Way(onednn=True, copy=True),
    "in fp32, rounded": Way(in_fp32=True),
}
REPEATS = 5
# A way must save this part of the time, because smaller differences are noise.
CLEARLY = 0.03


def products(shape: tuple[int, int], tokens: int, dtype: torch.dtype) -> dict[tuple[str, str], Callable[[], Tensor]]:
    """Return a function for each product and way that this machine has. `dX` has no transposed matrix to copy."""
    weight = torch.randn(shape).to(dtype)
    x = torch.randn(tokens, shape[1]).to(dtype)
    dy = torch.randn(tokens, shape[0]).to(dtype)
    gradient = torch.empty_like(weight)
    cases = {}
    for name, way in WAYS.items():
        if not is_possible(way, dtype):
            continue
        cases[WEIGHT, name] = lambda way=way: way.multiply(way.transpose(dy), x, out=gradient)
        if not way.copy:
            cases[INPUT, name] = lambda way=way: way.multiply(dy, weight)
    return cases


def is_possible(way: Way, dtype: torch.dtype) -> bool:
    """Return whether this machine has a way for a dtype. oneDNN may lack it in 16 bits, and fp32 is not widened."""
    if way.in_fp32 and dtype == torch.float32:
        return False
    try:
        way.multiply(torch.ones(2, 2, dtype=dtype), torch.ones(2, 2, dtype=dtype))
    except RuntimeError:
        return False
    return True


def relative_times(dtype: torch.dtype) -> dict[tuple[str, str], float]:
    """Return the time of each product and way in units of torch.mm's, as the geometric mean over all sizes."""
    logs: dict[tuple[str, str], list[float]] = {}
    for shape in SHAPES:
        for tokens in TOKENS:
            times = interleaved(products(shape, tokens, dtype), REPEATS)
            for (product, name), ms in times.items():
                logs.setdefault((product, name), []).append(math.log(ms / times[product, "torch.mm"]))
    return {case: math.exp(sum(values) / len(values)) for case, values in logs.items()}


def time_of_way(name: str, relative: dict[tuple[str, str], float]) -> float:
    """Return the time of both products in one way, in units of torch.mm's."""
    of_input = next(own for own, way in WAYS.items() if way == WAYS[name]._replace(copy=False))
    return relative[INPUT, of_input] + relative[WEIGHT, name]


def best_way(relative: dict[tuple[str, str], float]) -> str:
    """Return the fastest way of a dtype for both products together, or torch.mm if none is clearly faster."""
    times = {name: time_of_way(name, relative) for product, name in relative if product == WEIGHT}
    fastest = min(times, key=times.get)
    return fastest if times[fastest] < (1 - CLEARLY) * times["torch.mm"] else "torch.mm"


def main() -> None:
    """Measure, report, and compare."""
    torch.set_num_threads(1)
    keep_freed_memory()
    relative = {dtype: relative_times(dtype) for dtype in DTYPES}
    rows = []
    for dtype, times in relative.items():
        for product in (INPUT, WEIGHT):
            ways = {name: ratio for (kind, name), ratio in times.items() if kind == product}
            fastest = min(ways, key=ways.get)
            cells = [f"{ways[name]:.2f}" if name in ways else "" for name in WAYS]
            rows.append([f"{product}, {str(dtype).removeprefix('torch.')}", *cells, fastest])
    conditions = [
        "time in units of torch.mm's, geometric mean over the sizes and tokens of lora.py; a copy's time is included",
        f"time of one thread, median of {REPEATS} interleaved turns after a warm-up",
        "freed memory is kept, as train.py does",
    ]
    report("products", "Ways to multiply on a CPU", conditions, ["product, dtype", *WAYS, "fastest"], rows)
    for dtype, times in relative.items():
        print(f"{dtype}: the fastest is {best_way(times)}, and products.py takes {way_of(torch.ones(1, dtype=dtype))}")


if __name__ == "__main__":
    main()
