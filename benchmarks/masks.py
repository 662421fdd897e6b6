"""Ten masks (0 %, 10 %, ..., 90 %): this project beside torch and numpy, against a memcpy and the disk.

    python benchmarks/masks.py [--folder FOLDER]

Takes about three minutes and 4 GB in FOLDER (a temporary one if left out); prints two tables and writes them to
benchmarks/results/masks.md and masks_streaming.md. Times in memory are CPU times of one thread.
"""

import argparse
import json
import math
import multiprocessing
import os
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from bench import interleaved, report
from safetensors.torch import save_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.masks import mask_kernels as kernels
from sparseft.masks.mask_file import unpack
from sparseft.pruning.mask_generator import compute_masks
from sparseft.pruning.scores import row_blocks
from sparseft.pruning.selection import Selection, select_together
from sparseft.study.config import Masks
from torch.nn.utils.prune import L1Unstructured

SIDE, REPEATS = 4096, 3
LEVELS = list(range(0, 100, 10))
BLOCK_READ = 8 << 20  # bytes


def counts_of(total: int) -> np.ndarray:
    """How many weights each level prunes."""
    return np.array([round(Fraction(level * total, 100)) for level in LEVELS], np.int64)


class Ours:
    """One matrix as the mask generator takes it: bits, uint16 or uint32 (SIDE, SIDE)."""

    def __init__(self, bits: np.ndarray) -> None:
        self.flat, self.keep = bits.reshape(-1), False
        self.packed = np.zeros((len(LEVELS), bits.size // 8), np.uint8)
        dtype = "BF16" if bits.itemsize == 2 else "F32"
        self.selection = Selection(self.blocks, {"w": bits.shape}, {"w": dtype}, LEVELS, self.emit)

    def blocks(self, _: str):
        """The matrix in the blocks in which a file is read."""
        return (self.flat[SIDE * rows.start : SIDE * rows.stop] for rows in row_blocks(SIDE, SIDE))

    def emit(self, _: str, offset: int, packed: np.ndarray) -> None:
        """Keep the masks, if they are asked for."""
        if self.keep:
            self.packed[:, offset : offset + packed.shape[1]] = packed

    def layer(self) -> None:
        """Scope layer, block by block as a file is read, with the quantiles for the report."""
        select_together(self.selection, ["w"])

    def row(self) -> None:
        """Scope row."""
        kernels.write_row_masks(self.flat, SIDE, counts_of(SIDE), self.packed)

    def group(self) -> None:
        """2:4."""
        kernels.write_group_masks(self.flat, SIDE, 4, np.array([2]), self.packed[:1])

    def masks(self) -> np.ndarray:
        """The masks of scope layer, bool (levels, SIDE, SIDE)."""
        self.keep = True
        self.layer()
        self.keep = False
        return np.stack([unpack(level.reshape(SIDE, -1), (SIDE, SIDE)) for level in self.packed])


def l1_unstructured(weight: torch.Tensor) -> list[torch.Tensor]:
    """torch.nn.utils.prune, a top-k a level."""
    ones = torch.ones_like(weight)
    return [L1Unstructured(amount=level / 100).compute_mask(weight, ones) for level in LEVELS]


def sort_and_compare(weight: torch.Tensor) -> list[torch.Tensor]:
    """One torch.sort; a level keeps what is above its threshold, and cuts every tie."""
    sizes = weight.abs()
    order = sizes.flatten().sort().values
    return [sizes > order[n - 1] if n else torch.ones_like(sizes, dtype=torch.bool) for n in counts_of(sizes.numel())]


def partition_and_compare(sizes: np.ndarray) -> list[np.ndarray]:
    """One np.partition of the magnitudes' bits, and a comparison a level; cuts every tie."""
    counts = counts_of(sizes.size)
    parts = np.partition(sizes.reshape(-1), counts[1:] - 1)
    return [sizes > parts[n - 1] if n else np.ones(sizes.shape, bool) for n in counts]


def deviation(masks: list | np.ndarray) -> str:
    """The largest number of weights by which a level misses what was asked: + too many pruned, - too few."""
    pruned = [SIDE * SIDE - int(np.count_nonzero(torch.as_tensor(mask).bool().numpy())) for mask in masks]
    return f"{max((found - int(n) for found, n in zip(pruned, counts_of(SIDE * SIDE), strict=True)), key=abs):+d}"


def in_memory() -> None:
    """The first table."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(SIDE, SIDE, generator=generator).mul_(0.02)
    weight = full.bfloat16()
    bits, bits32 = weight.view(torch.uint16).numpy(), full.view(torch.uint32).numpy()
    ours, ours32 = Ours(bits), Ours(bits32)
    target, target32 = np.empty_like(bits), np.empty_like(bits32)
    check_exact(ours, weight)
    check_exact(ours32, full)
    half = ours.packed[5].copy()  # of scope layer: check_exact was the last to write
    cases = {
        "sparseft, scope layer": ours.layer,
        "sparseft, scope row": ours.row,
        "sparseft, 2:4 alone": ours.group,
        "sparseft, apply one mask in place": lambda: kernels.zero_pruned(target.reshape(-1), SIDE, half),
        "sparseft, validate one mask": lambda: kernels.survey(target.reshape(-1), SIDE, half, np.uint16(1)),
        "numpy: one partition, a comparison a level": lambda: partition_and_compare(bits & np.uint16(0x7FFF)),
        "torch: one sort, a comparison a level": lambda: sort_and_compare(weight),
        "torch: l1_unstructured a level": lambda: l1_unstructured(weight),
        "memcpy": lambda: np.copyto(target, bits),
        "sparseft, scope layer, fp32": ours32.layer,
        "sparseft, scope row, fp32": ours32.row,
        "memcpy, fp32": lambda: np.copyto(target32, bits32),
    }
    times = interleaved(cases, REPEATS)
    off = {
        "sparseft, scope layer": deviation(ours.masks()),
        "torch: one sort, a comparison a level": deviation(sort_and_compare(weight)),
        "numpy: one partition, a comparison a level": deviation(partition_and_compare(bits & np.uint16(0x7FFF))),
    }
    sort, topk = times["torch: one sort, a comparison a level"], times["torch: l1_unstructured a level"]
    ten = [name for name in times if "scope" in name or "level" in name]  # the others are not ten masks
    rows = []
    for name, ms in times.items():
        limit = times["memcpy, fp32" if name.endswith("fp32") else "memcpy"]
        ratios = [f"{peer / ms:.1f}" if name in ten and "fp32" not in name else "" for peer in (sort, topk)]
        rows.append([name, f"{ms:.2f}", f"{ms / limit:.2f}", *ratios, off.get(name, "")])
    report(
        "masks",
        "Ten masks of one matrix in memory",
        [
            f"{SIDE} x {SIDE} gaussian weights, bf16 where not said otherwise; levels {LEVELS[0]} to {LEVELS[-1]} %",
            f"CPU milliseconds of one thread, median of {REPEATS} interleaved turns; memcpy to an array that is already"
            " there, which costs less than one to new memory",
            "sparseft's masks were equal to a stable sort's, weight by weight; `off` is by how many weights a level misses",
        ],
        ["case", "ms", "x memcpy", "torch.sort is slower by", "top-k is slower by", "off"],
        rows,
    )


def check_exact(ours: Ours, weight: torch.Tensor) -> None:
    """Stop if the masks are not those of a stable sort by torch."""
    order = weight.float().abs().flatten().sort(stable=True).indices.numpy()
    for mask, n in zip(ours.masks().reshape(len(LEVELS), -1), counts_of(weight.numel()), strict=True):
        if mask[order[:n]].any() or not mask[order[n:]].all():
            raise SystemExit("our masks are not those of a stable sort by magnitude")


def make_checkpoint(folder: Path, blocks: int) -> Checkpoint:
    """A LLaMA-7B of so many decoder layers, gaussian bf16, a file each."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(11008 * 4096, generator=generator).mul_(0.02).bfloat16()
    shapes = {"mlp.gate_proj": (11008, 4096), "mlp.up_proj": (11008, 4096), "mlp.down_proj": (4096, 11008)}
    shapes |= {f"self_attn.{name}_proj": (4096, 4096) for name in "qkvo"}
    shapes |= dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (4096,))
    ends = {"model.embed_tokens.weight": (32, 4096), "model.norm.weight": (4096,)}
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
    config = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 32, "hidden_size": 4096}
    config |= {"intermediate_size": 11008, "num_hidden_layers": blocks, "vocab_size": 32, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    checkpoint = Checkpoint(folder)
    checkpoint.__dict__["digest"] = "not hashed"  # a prepared model has its digest in manifest.json
    return checkpoint


class AnonymousMemory:
    """Peak of the process's anonymous resident memory, MB, sampled; file pages do not count, the kernel takes them back."""

    def __enter__(self) -> "AnonymousMemory":
        self.peak, self.running = 0.0, True
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
    """(wall seconds, CPU seconds, the process's peak MB) of all ten mask files."""
    few = np.zeros(4, np.uint16)  # compiled code is loaded before
    kernels.count_high(few, np.zeros(kernels.BINS, np.int32))
    kernels.write_masks(few, 4, few[:1], np.zeros(1, np.int64), np.zeros((1, 1), np.uint8))
    paths = [folder / f"{level:02d}.pt" for level in LEVELS]
    wall, cpu = time.perf_counter(), time.process_time()
    with (
        AnonymousMemory() as memory,
        compute_masks(checkpoint, "unstructured", LEVELS, paths, Masks(), threads=threads),
    ):
        pass
    return time.perf_counter() - wall, time.process_time() - cpu, memory.peak


def read_and_write(checkpoint: Checkpoint, folder: Path) -> float:
    """Seconds to read the checkpoint's bytes and to write and sync as many as the ten masks have."""
    buffer, total = memoryview(bytearray(BLOCK_READ)), sum(file.stat().st_size for file in checkpoint.files)
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
    """The second table."""
    rows = []
    for blocks in (2, 4):
        checkpoint = make_checkpoint(folder / f"model{blocks}", blocks)
        weights = sum(tensor.nbytes for tensor in checkpoint.tensors.values()) // 2
        for threads in (1, 2):
            runs = []
            for turn in range(REPEATS):
                target = folder / f"masks-{blocks}-{threads}-{turn}"
                target.mkdir()
                with multiprocessing.get_context("spawn").Pool(1) as fresh:
                    measured = fresh.apply(stream, (checkpoint, target, threads))
                runs.append((*measured, read_and_write(checkpoint, target)))
                for file in target.iterdir():
                    file.unlink()
            wall, cpu, peak, limit = (sorted(column)[REPEATS // 2] for column in zip(*runs, strict=True))
            rows.append([f"{2 * weights / 1e9:.2f} GB, {threads} thread{'s' * (threads > 1)}", f"{wall:.2f}", f"{limit:.2f}",
                         f"{wall / limit:.2f}", f"{1e9 * cpu / weights:.2f}", f"{peak:.0f}"])  # fmt: skip
    report(
        "masks_streaming",
        "Ten mask files from sharded safetensors",
        [
            "decoder layers of LLaMA-7B, synthetic; ten packed .pt files with checksums, synced; the model's digest known",
            "beside it: one thread reads the same bytes, then writes and syncs as many; files were in the page cache before",
            f"medians of {REPEATS} turns, each in a new process; memory is all its anonymous pages, torch's and numba's among them",
        ],
        ["model", "s", "read and write, s", "ratio", "ns of CPU a weight", "peak memory, MB"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    torch.set_num_threads(1)
    folder = parser.parse_args().folder
    in_memory()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        streaming(Path(temporary))


if __name__ == "__main__":
    main()
