"""Time the making of ten masks (0 %, 10 %, ..., 90 %): this project beside torch, numpy, a memcpy and the disk.

    python benchmarks/masks.py [--folder FOLDER]

This takes about three minutes, and 4 GB of disk in FOLDER or in a temporary folder. Two tables are printed and written
to benchmarks/results/masks.md and masks_streaming.md. Times in memory are CPU times of one thread.
"""

import json
import math
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from bench import interleaved, report
from safetensors.torch import save_file
from sparseft.axes.grid import PassFiles
from sparseft.axes.methods import get_method
from sparseft.axes.selection import kernels
from sparseft.axes.selection.ranking import Ranking, by_group, by_layer, by_row
from sparseft.common.command import run
from sparseft.models.checkpoints.checkpoint import BLOCK, Checkpoint
from sparseft.pruning.mask_generator import MaskPass, compute_masks
from sparseft.pruning.masks.mask_file import zero_pruned
from sparseft.pruning.masks.settings import Masks
from sparseft.storage.bits import unpack
from torch.nn.utils.prune import L1Unstructured

SIDE = 4096  # rows and columns of the matrix in memory
# Columns of the matrices in the files, and channels of their MLPs.
HIDDEN = 4096
CHANNELS = 11008
# Decoder layers of the models in files, and threads.
BLOCKS = (2, 4)
THREADS = (1, 2)
REPEATS = 3
LEVELS = list(range(0, 100, 10))  # percent
BLOCK_READ = 8 << 20  # bytes
# Names of the cases that are compared with.
SORT = "torch: one sort, a comparison a level"
TOP_K = "torch: l1_unstructured a level"
PARTITION = "numpy: one partition, a comparison a level"
MEMCPY = "memcpy"
LAYER = "sparseft, scope layer"


def counts_of(total: int) -> np.ndarray:
    """Return how many of `total` weights each level prunes."""
    return np.array([round(Fraction(level * total, 100)) for level in LEVELS], np.int64)


class Ours:
    """Make masks of one matrix as the mask generator does. `bits` are the weights as uint16 or uint32, (SIDE, SIDE)."""

    def __init__(self, bits: np.ndarray) -> None:
        self.flat = bits.reshape(-1)
        self.keep = False
        self.packed = np.zeros((len(LEVELS), bits.size // 8), np.uint8)
        dtype = "BF16" if bits.itemsize == 2 else "F32"
        self.ranking = Ranking(self.blocks, {"w": bits.shape}, {"w": dtype}, LEVELS, self.emit)

    def blocks(self, _: str) -> Iterator[np.ndarray]:
        """Return the matrix in the blocks in which a file is read."""
        return iter(np.array_split(self.flat, range(BLOCK, self.flat.size, BLOCK)))

    def emit(self, _: str, offset: int, packed: np.ndarray) -> None:
        """Keep the masks, if `keep` is set."""
        if self.keep:
            self.packed[:, offset : offset + packed.shape[1]] = packed

    def layer(self) -> None:
        """Select with scope layer, block by block as a file is read."""
        by_layer(self.ranking)

    def row(self) -> None:
        """Select with scope row."""
        by_row(self.ranking)

    def group(self) -> None:
        """Select with the pattern 2:4."""
        by_group(replace(self.ranking, percents=[50]), 4)

    def masks(self) -> np.ndarray:
        """Return the masks of scope layer, bool (levels, SIDE, SIDE)."""
        self.keep = True
        self.layer()
        self.keep = False
        return np.stack([unpack(level.reshape(SIDE, -1), (SIDE, SIDE)) for level in self.packed])


def l1_unstructured(weight: torch.Tensor) -> list[torch.Tensor]:
    """Return the masks of torch.nn.utils.prune, which computes a top-k per level."""
    ones = torch.ones_like(weight)
    return [L1Unstructured(amount=level / 100).compute_mask(weight, ones) for level in LEVELS]


def sort_and_compare(weight: torch.Tensor) -> list[torch.Tensor]:
    """Return the masks by one torch.sort. A level keeps the weights above its threshold, and prunes all ties."""
    sizes = weight.abs()
    order = sizes.flatten().sort().values
    return [sizes > order[n - 1] if n else torch.ones_like(sizes, dtype=torch.bool) for n in counts_of(sizes.numel())]


def partition_and_compare(sizes: np.ndarray) -> list[np.ndarray]:
    """Return the masks by one np.partition of the magnitudes' bits and a comparison per level, which prunes all
    ties."""
    counts = counts_of(sizes.size)
    parts = np.partition(sizes.reshape(-1), counts[1:] - 1)
    return [sizes > parts[n - 1] if n else np.ones(sizes.shape, bool) for n in counts]


def deviation(masks: list | np.ndarray) -> str:
    """Return by how many weights the worst level differs from its request: + if too many are pruned, - if too few."""
    pruned = [SIDE * SIDE - int(np.count_nonzero(torch.as_tensor(mask).bool().numpy())) for mask in masks]
    differences = [count - int(wanted) for count, wanted in zip(pruned, counts_of(SIDE * SIDE), strict=True)]
    return f"{max(differences, key=abs):+d}"


def in_memory() -> None:
    """Measure the masks of one matrix in memory, and report."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(SIDE, SIDE, generator=generator).mul_(0.02)
    weight = full.bfloat16()
    times = interleaved(cases_in_memory(weight, full), REPEATS)
    magnitudes = weight.view(torch.uint16).numpy() & np.uint16(0x7FFF)
    off = {
        LAYER: deviation(Ours(weight.view(torch.uint16).numpy()).masks()),
        SORT: deviation(sort_and_compare(weight)),
        PARTITION: deviation(partition_and_compare(magnitudes)),
    }
    rows = []
    for name, ms in times.items():
        is_fp32 = name.endswith("fp32")
        makes_ten = "scope" in name or "level" in name
        ratios = [f"{times[peer] / ms:.1f}" if makes_ten and not is_fp32 else "" for peer in (SORT, TOP_K)]
        limit = times[f"{MEMCPY}, fp32" if is_fp32 else MEMCPY]
        rows.append([name, f"{ms:.2f}", f"{ms / limit:.2f}", *ratios, off.get(name, "")])
    conditions = [
        f"{SIDE} x {SIDE} gaussian weights, bf16 where not said otherwise; levels {LEVELS[0]} to {LEVELS[-1]} %",
        f"CPU milliseconds of one thread, median of {REPEATS} interleaved turns; memcpy to an array that is already"
        " there, which costs less than one to new memory",
        "sparseft's masks were equal to a stable sort's, weight by weight; `off` is by how many weights a level misses",
    ]
    header = ["case", "ms", "x memcpy", "torch.sort is slower by", "top-k is slower by", "off"]
    report("masks", "Ten masks of one matrix in memory", conditions, header, rows)


def cases_in_memory(weight: torch.Tensor, full: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Return what to time, by name. `weight` is `full` in bf16. Stop if our masks are not exact."""
    bits = weight.view(torch.uint16).numpy()
    bits32 = full.view(torch.uint32).numpy()
    target = np.empty_like(bits)
    target32 = np.empty_like(bits32)
    ours = Ours(bits)
    ours32 = Ours(bits32)
    check_exact(ours, weight)
    check_exact(ours32, full)
    # check_exact has computed the masks of scope layer. This one prunes half of the weights.
    half = ours.packed[5].reshape(SIDE, -1).copy()
    return {
        LAYER: ours.layer,
        "sparseft, scope row": ours.row,
        "sparseft, 2:4 alone": ours.group,
        "sparseft, apply one mask in place": lambda: zero_pruned(target, half),
        PARTITION: lambda: partition_and_compare(bits & np.uint16(0x7FFF)),
        SORT: lambda: sort_and_compare(weight),
        TOP_K: lambda: l1_unstructured(weight),
        MEMCPY: lambda: np.copyto(target, bits),
        f"{LAYER}, fp32": ours32.layer,
        "sparseft, scope row, fp32": ours32.row,
        f"{MEMCPY}, fp32": lambda: np.copyto(target32, bits32),
    }


def check_exact(ours: Ours, weight: torch.Tensor) -> None:
    """Stop if the masks are not those of a stable sort by torch."""
    order = weight.float().abs().flatten().sort(stable=True).indices.numpy()
    for mask, n in zip(ours.masks().reshape(len(LEVELS), -1), counts_of(weight.numel()), strict=True):
        if mask[order[:n]].any() or not mask[order[n:]].all():
            raise SystemExit("our masks are not those of a stable sort by magnitude")


def make_checkpoint(folder: Path, blocks: int) -> Checkpoint:
    """Write a LLaMA-7B with `blocks` decoder layers of gaussian bf16 weights, in a file each, and return it."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(CHANNELS * HIDDEN, generator=generator).mul_(0.02).bfloat16()
    shapes = dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (CHANNELS, HIDDEN)) | {"mlp.down_proj": (HIDDEN, CHANNELS)}
    shapes |= {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (HIDDEN,))
    ends = {"model.embed_tokens.weight": (32, HIDDEN), "model.norm.weight": (HIDDEN,)}
    save_file(
        {name: pool[: math.prod(shape)].reshape(shape).clone() for name, shape in ends.items()},
        folder / "ends.safetensors",
    )
    index = dict.fromkeys(ends, "ends.safetensors")
    for block in range(blocks):
        file = f"model-{block}.safetensors"
        tensors = {
            f"model.layers.{block}.{name}.weight": pool[: math.prod(shape)].reshape(shape).clone()
            for name, shape in shapes.items()
        }
        save_file(tensors, folder / file)
        index |= dict.fromkeys(tensors, file)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_attention_heads": 32}
    config |= {"hidden_size": HIDDEN, "intermediate_size": CHANNELS, "num_hidden_layers": blocks}
    config |= {"vocab_size": 32, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    checkpoint = Checkpoint(folder)
    # A prepared model has its digest in manifest.json, so the measurement includes no hashing.
    checkpoint.__dict__["digest"] = "not hashed"
    return checkpoint


class AnonymousMemory:
    """Sample the peak of the process's anonymous resident memory, in MB.

    Pages of files do not count, because the kernel can take them back."""

    def __enter__(self) -> "AnonymousMemory":
        self.peak = 0.0
        self.running = True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    def _watch(self) -> None:
        while self.running:
            status = Path("/proc/self/status").read_text()
            self.peak = max(self.peak, int(status.split("RssAnon:")[1].split()[0]) / 1024)
            time.sleep(0.005)


def stream(checkpoint: Checkpoint, folder: Path, threads: int) -> tuple[float, float, float]:
    """Make all ten mask files. Return the seconds, the CPU seconds and the process's peak memory in MB."""
    # Load the compiled code before the clock starts.
    few = np.zeros(4, np.uint16)
    kernels.count_high(few, np.zeros(kernels.BINS, np.int32))
    kernels.write_masks(few, 4, few[None, :1], np.zeros((1, 1), np.int64), np.zeros((1, 1), np.uint8))
    places = PassFiles([folder / f"{level:02d}.pt" for level in LEVELS], folder / "report.json")
    wall = time.perf_counter()
    cpu = time.process_time()
    with AnonymousMemory() as memory:
        compute_masks(MaskPass(checkpoint, get_method("unstructured"), LEVELS, places, Masks(), threads=threads))
    return time.perf_counter() - wall, time.process_time() - cpu, memory.peak


def read_and_write(checkpoint: Checkpoint, folder: Path) -> float:
    """Return the seconds to read the checkpoint's bytes, and to write and sync as many bytes as the ten masks have."""
    buffer = memoryview(bytearray(BLOCK_READ))
    total = sum(file.stat().st_size for file in checkpoint.files)
    begin = time.perf_counter()
    for file in checkpoint.files:
        with open(file, "rb", buffering=0) as source:
            while source.readinto(buffer):
                pass
    for level in LEVELS:
        with open(folder / f"plain{level}", "wb", buffering=0) as target:
            for start in range(0, total // 16, BLOCK_READ):
                target.write(buffer[: min(BLOCK_READ, total // 16 - start)])
            os.fsync(target.fileno())
    return time.perf_counter() - begin


def streaming(folder: Path) -> None:
    """Measure the mask files of sharded checkpoints, and report."""
    rows = []
    for blocks in BLOCKS:
        checkpoint = make_checkpoint(folder / f"model{blocks}", blocks)
        weights = sum(tensor.nbytes for tensor in checkpoint.tensors.values()) // 2
        for threads in THREADS:
            name = f"{2 * weights / 1e9:.2f} GB, {threads} thread{'s' * (threads > 1)}"
            turns = [stream_once(checkpoint, folder / f"{blocks}-{threads}-{turn}", threads) for turn in range(REPEATS)]
            wall, cpu, peak, limit = (sorted(column)[REPEATS // 2] for column in zip(*turns, strict=True))
            nanoseconds = 1e9 * cpu / weights
            rows.append(
                [name, f"{wall:.2f}", f"{limit:.2f}", f"{wall / limit:.2f}", f"{nanoseconds:.2f}", f"{peak:.0f}"]
            )
    conditions = [
        "decoder layers of LLaMA-7B, synthetic; ten packed .pt files with checksums, synced; the model's digest known",
        "beside it: one thread reads the same bytes, then writes and syncs as many; files were in the page"
        " cache before",
        f"medians of {REPEATS} turns, each in a new process; memory is all its anonymous pages, torch's and"
        " numba's among them",
    ]
    header = ["model", "s", "read and write, s", "ratio", "ns of CPU a weight", "peak memory, MB"]
    report("masks_streaming", "Ten mask files from sharded safetensors", conditions, header, rows)


def stream_once(checkpoint: Checkpoint, folder: Path, threads: int) -> tuple[float, float, float, float]:
    """Return what `stream` returns in a new process, and the seconds of the disk. The files are removed."""
    folder.mkdir()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        measured = pool.apply(stream, (checkpoint, folder, threads))
    seconds = read_and_write(checkpoint, folder)
    for file in folder.iterdir():
        file.unlink()
    return (*measured, seconds)


def main(*, folder: Path | None = None) -> None:
    """Measure in memory and on the disk.

    Args:
        folder: folder on the disk to measure
    """
    torch.set_num_threads(1)
    in_memory()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        streaming(Path(temporary))


if __name__ == "__main__":
    run(main)
