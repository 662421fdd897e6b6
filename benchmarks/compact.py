"""Time what a structured mask saves: the compact model beside the masked and the dense one.

    python benchmarks/compact.py models/smollm2

Prefill, generation and a LoRA step are timed. This takes about two minutes for SmolLM2-135M. The table is printed and
written to benchmarks/results/compact.md.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from bench import interleaved, report
from sparseft.axes.grid import MASK_NAME
from sparseft.common.command import run
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.models.language_model.batches import Example, collate
from sparseft.models.language_model.loss import AnswerLoss
from sparseft.models.language_model.model import load_model
from sparseft.models.language_model.weights import memory_path, unfuse_experts
from sparseft.pruning.compact import compact
from sparseft.pruning.masks.mask_file import Mask, read_mask
from sparseft.storage.hashes import sha256
from sparseft.training.lora.masked_lora import attach
from sparseft.training.lora.merge import merge
from sparseft.training.settings import Training
from torch import Tensor, nn

PERCENTS = (30, 50)
BATCH = 4
TOKENS = 128
ANSWER = 8  # tokens at the end of an example that a LoRA step trains
PROMPT = 16  # tokens before the generation
NEW = 32  # tokens that are generated
REPEATS = 5
SETTINGS = Training(lora_r=8, lora_alpha=16.0)
SCRIPT = Path(__file__).parents[1] / "workflow/scripts/compute_masks.py"
# Relative distance of the logits in fp32. Compact and masked sum in different orders in every layer.
BOUND = 1e-3
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """Hold a checkpoint to measure.

    With `masks` it is trained in mode sparse_to_sparse, which trains the same function as the compact model."""

    folder: Path
    sizes: dict
    masks: Callable[[str], Tensor] | None = None


def subjects(dense: Path, work: Path) -> tuple[dict[str, Subject], list[str]]:
    """Return the checkpoints by name, and a note per sparsity.

    The checkpoints are the dense one, and a masked and a compact one per sparsity."""
    by_name, notes = {}, []
    for percent, path in compute_masks(dense, work).items():
        mask = read_mask(path)
        masked = work / f"masked{percent}"
        small = work / f"compact{percent}"
        merge(Checkpoint(dense), mask, sha256(path), None, masked)
        record = compact(Checkpoint(masked), path, small)
        by_name.setdefault("dense", Subject(dense, record["before"]))
        by_name[f"masked {percent} %"] = Subject(masked, record["before"], partial(kept_of, mask))
        by_name[f"compact {percent} %"] = Subject(small, record["after"])
        sizes = ", ".join(f"{key} {value}" for key, value in record["after"]["config"].items())
        notes.append(
            f"{percent} % asked, {100 * mask.meta['reached']:.1f} % of the prunable weights pruned; left: {sizes}"
        )
    return by_name, notes


def kept_of(mask: Mask, layer: str) -> Tensor:
    """Return the mask of a layer, bool (out, in)."""
    return torch.from_numpy(mask.kept(layer))


def compute_masks(model: Path, folder: Path) -> dict[int, Path]:
    """Compute the structured masks, and return their paths by percent."""
    sparsities = [str(percent / 100) for percent in PERCENTS]
    flags = ["--model_path", model, "--output_dir", folder, "--method", "structured", "--sparsity", *sparsities]
    subprocess.run([sys.executable, SCRIPT, *flags], check=True)
    return {percent: folder / f"{MASK_NAME.format(sparsity=percent, method='structured')}.pt" for percent in PERCENTS}


def prefills(model: nn.Module, ids: Tensor) -> Callable[[], Tensor]:
    """Return a function that computes the logits of the next token, (BATCH, 1, V)."""
    return torch.no_grad()(lambda: model(input_ids=ids, logits_to_keep=1).logits)


def generations(model: nn.Module, ids: Tensor) -> Callable[[], Tensor]:
    """Return a function that generates NEW tokens after the first PROMPT tokens of one row."""
    row = ids[:1, :PROMPT]
    options = {"attention_mask": torch.ones_like(row), "min_new_tokens": NEW, "max_new_tokens": NEW}
    return lambda: model.generate(row, do_sample=False, **options)


def training(subject: Subject, ids: Tensor) -> Callable[[], None]:
    """Return a function that makes one optimiser step of this project's LoRA on every prunable layer."""
    model, _ = load_model(subject.folder, CPU)
    unfuse_experts(model)
    checkpoint = Checkpoint(subject.folder)
    shapes = prunable_shapes(checkpoint)
    masks = subject.masks or (lambda layer: torch.ones(shapes[layer], dtype=torch.bool))
    paths = {layer: memory_path(checkpoint.architecture, layer) for layer in shapes}
    # Without a pruned weight this is plain LoRA.
    layers = attach(model, masks, paths, "sparse_to_sparse", SETTINGS)
    optimizer = torch.optim.AdamW([p for layer in layers.values() for p in (layer.lora_A, layer.lora_B)], lr=1e-4)
    batch = collate([Example(row, TOKENS - ANSWER) for row in ids.tolist()])

    def step() -> None:
        AnswerLoss(model)(batch).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def check_logits(by_name: dict[str, Subject], ids: Tensor, percent: int) -> str:
    """Stop if compact and masked are not the same function in fp32. Return how far apart they are.

    The note also says how far rounding moves them apart in the dtype of the model."""
    models = [load_model(by_name[f"{kind} {percent} %"].folder, CPU)[0] for kind in ("compact", "masked")]
    compact16, masked16 = (prefills(model, ids)() for model in models)
    compact32, masked32 = (prefills(model.float(), ids)() for model in models)
    exact = distance(compact32, masked32)
    if not exact < BOUND:
        raise SystemExit(f"the compact model's logits are not the masked one's: {exact:.1e} apart in fp32")
    return (
        f"{percent} %: the logits of compact and masked are {exact:.1e} apart in fp32, in the model's dtype"
        f" {distance(compact16, masked16):.2f}, and there masked is {distance(masked16, masked32):.2f} from its fp32"
    )


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the relative Euclidean distance |ours - theirs| / |theirs|."""
    return ((ours.float() - theirs.float()).norm() / theirs.float().norm()).item()


def measure(by_name: dict[str, Subject], ids: Tensor) -> list[dict[str, float]]:
    """Return the milliseconds of a prefill, of a generation and of a LoRA step, each by the name of the checkpoint."""
    models = {name: load_model(subject.folder, CPU)[0] for name, subject in by_name.items()}
    prefill = {name: prefills(model, ids) for name, model in models.items()}
    generate = {name: generations(model, ids) for name, model in models.items()}
    steps = {name: training(subject, ids) for name, subject in by_name.items()}
    return [interleaved(cases, REPEATS) for cases in (prefill, generate, steps)]


def main(model_path: Path) -> None:
    """Measure every checkpoint, and report.

    Args:
        model_path: a prepared model folder
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Checkpoint(model_path).config
    ids = torch.randint(config["vocab_size"], (BATCH, TOKENS))
    with tempfile.TemporaryDirectory() as work:
        by_name, notes = subjects(model_path, Path(work))
        notes += [check_logits(by_name, ids, percent) for percent in PERCENTS]
        times = measure(by_name, ids)
    rows = [
        [name, f"{subject.sizes['bytes'] / 1e6:.1f}", f"{subject.sizes['parameters'] / 1e6:.1f}"]
        + [text for ms in times for text in (f"{ms[name]:.0f}", f"{ms[name] / ms['dense']:.2f}")]
        for name, subject in by_name.items()
    ]
    conditions = [
        f"{model_path.name}, {config.get('dtype')}, random tokens; masks of method structured",
        *notes,
        f"prefill: {BATCH} x {TOKENS} tokens; generation: one row, greedy, {NEW} tokens after {PROMPT}; stock"
        " transformers",
        f"LoRA step: {BATCH} x {TOKENS} tokens, the last {ANSWER} the answer, r = {SETTINGS.lora_r} on every"
        " prunable layer, AdamW; masked is sparse_to_sparse, which trains the same function as compact",
        f"CPU time of one thread, median of {REPEATS} interleaved turns after a warm-up",
    ]
    header = ["", "MB", "M parameters"]
    header += [cell for kind in ("prefill", "generation", "LoRA step") for cell in (f"{kind} ms", "x dense")]
    report("compact", "What a structured mask pays", conditions, header, rows)


if __name__ == "__main__":
    run(main)
