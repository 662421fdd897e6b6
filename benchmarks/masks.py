"""Ten masks of one matrix: this project beside torch, against a memcpy of the matrix.

    python benchmarks/masks.py

Takes about a minute; prints the table and writes benchmarks/results/masks.md.
"""

from fractions import Fraction

import numpy as np
import torch
from bench import interleaved, report
from sparseft.checkpoints.checkpoint import magnitude
from sparseft.pruning.mask_generator import select
from sparseft.pruning.mask_ops import pack
from torch.nn.utils.prune import L1Unstructured

SIDE, REPEATS = 2048, 5
LEVELS = list(range(0, 100, 10))


def ours(bits: np.ndarray) -> list[np.ndarray]:
    """As compute_masks does it for a layer: one stable ranking by |w|, then the first round(s n) of it, for every s."""
    return select(np.argsort(magnitude(bits).ravel(), kind="stable"), LEVELS)


def l1_unstructured(weight: torch.Tensor) -> list[torch.Tensor]:
    """torch.nn.utils.prune, a top-k a level."""
    ones = torch.ones_like(weight)
    return [L1Unstructured(amount=level / 100).compute_mask(weight, ones) for level in LEVELS]


def sort_and_compare(weight: torch.Tensor) -> list[torch.Tensor]:
    """One torch.sort; a level keeps what is above its threshold, and cuts every tie."""
    sizes = weight.abs()
    order = sizes.flatten().sort().values
    counts = [level * order.numel() // 100 for level in LEVELS]
    return [sizes > order[count - 1] if count else torch.ones_like(sizes, dtype=torch.bool) for count in counts]


def exact(masks: list[np.ndarray], weight: torch.Tensor) -> bool:
    """Whether the masks are those of a stable sort by torch."""
    order = weight.float().abs().flatten().sort(stable=True).indices.numpy()
    return all(not mask[order[:n]].any() and mask[order[n:]].all() for mask, n in zip(masks, asked(), strict=True))


def asked() -> list[int]:
    """How many weights each level prunes."""
    return [round(Fraction(level * SIDE * SIDE, 100)) for level in LEVELS]


def deviation(masks: list) -> str:
    """The largest number of weights by which a level misses what was asked: + too many pruned, - too few."""
    pruned = [SIDE * SIDE - int(np.count_nonzero(torch.as_tensor(mask).bool().numpy())) for mask in masks]
    return f"{max((found - wish for found, wish in zip(pruned, asked(), strict=True)), key=abs):+d}"


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(SIDE, SIDE, generator=generator).mul_(0.02).bfloat16()
    bits = weight.view(torch.uint16).numpy()
    target, kept = np.empty_like(bits), [mask.reshape(SIDE, SIDE) for mask in ours(bits)]
    if not exact(ours(bits), weight):
        raise SystemExit("our masks are not those of a stable sort by magnitude")
    cases = {
        "sparseft: one ranking, exact": lambda: ours(bits),
        "torch: l1_unstructured a level": lambda: l1_unstructured(weight),
        "torch: one sort, compare a level": lambda: sort_and_compare(weight),
        "sparseft: ten masks packed to bits": lambda: [pack(mask) for mask in kept],
        "memcpy of the matrix": lambda: np.copyto(target, bits),
    }
    times = interleaved(cases, REPEATS)
    peer, limit = times["torch: l1_unstructured a level"], times["memcpy of the matrix"]
    makers = dict(zip(cases, (lambda: ours(bits), lambda: l1_unstructured(weight), lambda: sort_and_compare(weight)),
                      strict=False))  # fmt: skip
    off = {name: deviation(maker()) for name, maker in makers.items()}
    rows = [
        [name, f"{ms:.1f}", f"{ms / peer:.3f}", f"{ms / limit:.0f}", off.get(name, "")] for name, ms in times.items()
    ]
    conditions = [
        f"one matrix of {SIDE} x {SIDE}, bf16, gaussian, in memory; masks of {LEVELS[0]} to {LEVELS[-1]} %",
        f"CPU time of one thread, median of {REPEATS} interleaved turns after a warm-up",
        "off by: weights pruned beyond (+) or short of (-) round(s n), at the worst level",
    ]
    report("masks", "Ten masks of one matrix", conditions, ["", "ms", "x l1_unstructured", "x memcpy", "off by"], rows)


if __name__ == "__main__":
    main()
