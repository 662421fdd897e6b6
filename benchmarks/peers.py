"""Compare the authors' own code with this project: mask bits, perplexities, time and memory of each method.

    python benchmarks/peers.py models/smollm2 --wikitext DIR --wanda DIR --sparsegpt DIR --owl DIR --ria DIR

The folders hold the repositories of AUTHORS at these commits. Without a folder, only this project runs. `--wikitext` has
train.jsonl and validation.jsonl with a row per page in the field `text`. Both sides get the same windows of tokens. Each has its own
loops of calibration, selection and perplexity, and a process of its own with one thread. This takes about 20 minutes of one core with
SmolLM2-135M. The table is written to benchmarks/results/peers.md, and docs/published.md explains its differences.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import psutil
import torch
from bench import CPU, report
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.command import run
from sparseft.evaluation.evaluate import token_perplexity
from sparseft.language_model.model import load_model, load_tokenizer
from sparseft.masks.mask_file import read_mask
from sparseft.methods import get_method
from sparseft.pruning.calibration import calibrate_on_text, choose_windows
from sparseft.pruning.mask_generator import compute_masks
from sparseft.pruning.sparsegpt import prune_weights
from sparseft.study.grid import PassFiles
from sparseft.study.mask_settings import Masks
from sparseft.tasks.rows import DOCUMENT_BREAK, read_documents
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

AUTHORS = {
    "wanda": "locuslab/wanda@8e8fc87",
    "sparsegpt": "IST-DASLab/sparsegpt@147d215",
    "owl": "luuyin/OWL@dddb7a4",
    "ria": "biomedical-cybernetics/Relative-importance-and-activation-pruning@7bc55b0",
}
EXAMPLES, LENGTH = 8, 512
WINDOWS = 8
TEXT = "wikitext"


class Cell(NamedTuple):
    """Name a method and a sparsity in percent, and the function of an author's module that prunes so."""

    method: str
    percent: int
    author: str
    module: str
    function: str
    groups: tuple[int, int] = (0, 0)


CELLS = (
    Cell("dense", 0, "wanda", "lib.eval", ""),
    Cell("unstructured", 50, "wanda", "lib.prune", "prune_magnitude"),
    Cell(f"unstructured_wanda_on_{TEXT}", 50, "wanda", "lib.prune", "prune_wanda"),
    Cell(f"semistructured_wanda_on_{TEXT}", 50, "wanda", "lib.prune", "prune_wanda", (2, 4)),
    Cell(f"semistructured8_wanda_on_{TEXT}", 50, "wanda", "lib.prune", "prune_wanda", (4, 8)),
    Cell(f"unstructured_sparsegpt_on_{TEXT}", 50, "sparsegpt", "llama", "llama_sequential"),
    Cell(f"unstructured_wanda_owl_on_{TEXT}", 70, "owl", "lib.prune_all", "prune_wanda_outlier"),
    Cell(f"unstructured_ria_on_{TEXT}", 50, "ria", "lib.prune", "prune_ria"),
)


class Result(NamedTuple):
    """Hold which weights are zero by layer, in packed bits, and what was measured."""

    zeros: dict[str, np.ndarray]
    perplexity: float
    seconds: float
    memory: int


class Meter:
    """Measure the CPU time from now on, and the peak of the resident memory above the present one."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.memory, self.begin = psutil.Process().memory_info().rss, time.process_time()

    def read(self) -> tuple[float, int]:
        """Return seconds and bytes."""
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return time.process_time() - self.begin, peak - self.memory


def zeros_of(model: nn.Module, model_path: Path) -> dict[str, np.ndarray]:
    """Return which weights of the prunable layers are zero."""
    layers = prunable_shapes(Checkpoint(model_path))
    return {layer: np.packbits((model.get_submodule(layer).weight == 0).numpy()) for layer in layers}


def ours(cell: Cell, model_path: Path, text: Path, settings: Masks, ids: Tensor) -> Result:
    """Return the result of this project, which ends with a mask file, or with a pruned base if weights are updated."""
    checkpoint, method = Checkpoint(model_path), get_method(cell.method)
    meter = Meter()
    calibration = calibrate_on_text(method, text, settings.calibration[TEXT]) if method.uses_examples else None
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base" if method.updates_weights else None
        files = PassFiles([Path(folder) / "mask.pt"], Path(folder) / "report.json", base=base)
        if base:
            prune_weights(checkpoint, cell.method, cell.percent, files, settings, calibration)
        else:
            compute_masks(checkpoint, cell.method, [cell.percent], files, settings, calibration=calibration, threads=1)
        measured = meter.read()
        model, _ = load_model(base or model_path, CPU)
        mask = read_mask(files.masks[0])
        for layer in mask.shape:
            weight = model.get_submodule(layer).weight
            weight.data = weight.data.where(torch.from_numpy(mask.kept(layer)), 0)
    # The text is already in tokens.
    tokenizer = SimpleNamespace(encode=lambda *_, **__: ids[0].tolist())
    return Result(zeros_of(model, model_path), token_perplexity(model, tokenizer, "", LENGTH, WINDOWS), *measured)


def theirs(cell: Cell, folder: Path, model_path: Path, windows: list[list[int]], ids: Tensor) -> Result:
    """Return the result of an author's code in `folder`. Only the loader of its data and what needs a GPU are replaced."""
    sys.path.insert(0, str(folder))
    torch.Tensor.cuda = lambda tensor, *_: tensor
    torch.cuda.synchronize = lambda *_: None
    module = import_module(cell.module)
    loader = [(torch.tensor([window]),) for window in windows]
    module.get_loaders = lambda *_, **__: (loader, None)
    share = cell.percent / 100
    module.args = SimpleNamespace(
        model="llama", nsamples=EXAMPLES, seed=0, seqlen=LENGTH, sparsity_ratio=share, use_variant=False,
        Lamda=0.08, Hyper_m=5,
        prune_method="ria", calib_dataset="", a=0.5, reconstruction=False, gptq=False, per_outneuron=False,
        sparsity=share, prunen=0, prunem=0, percdamp=0.01, blocksize=128, minlayer=-1, maxlayer=1000, prune_only="",
        invert=False, true_sequential=False, wbits=16, gmp=False,
    )  # fmt: skip
    encoded = SimpleNamespace(input_ids=ids[:, : WINDOWS * LENGTH])
    meter = Meter()
    with redirect_stdout(StringIO()) as said:
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto").eval()
        model.seqlen, model.hf_device_map = LENGTH, {}
        with_positions(model)
        if cell.author == "sparsegpt":
            module.llama_sequential(model, loader, CPU)
            measured = meter.read()
            module.llama_eval(model, encoded, CPU, "wikitext2")
            perplexity = float(said.getvalue().split()[-1])
        else:
            if cell.function:
                getattr(module, cell.function)(module.args, model, None, CPU, *cell.groups)
            measured = meter.read()
            with torch.no_grad():
                perplexity = import_module("lib.eval").eval_ppl_wikitext(model, encoded, 1, CPU)
    return Result(zeros_of(model, model_path), perplexity, *measured)


def with_positions(model: nn.Module) -> None:
    """Give every decoder layer its rotary embeddings. In the authors' version of transformers it computed them itself."""

    def add(_: nn.Module, inputs: tuple[Tensor], keywords: dict) -> tuple[tuple, dict]:
        positions = torch.arange(inputs[0].shape[1])[None]
        return inputs, keywords | {"position_embeddings": model.model.rotary_emb(inputs[0], positions)}

    for layer in model.model.layers:
        layer.register_forward_pre_hook(add, with_kwargs=True)


def in_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def row(cell: Cell, own: Result, other: Result | None) -> list[str]:
    """Return a row of the table. Without the author's result, their columns are empty."""
    columns = [f"{own.perplexity:.3f}", f"{own.seconds:.0f}", f"{own.memory / 1e6:.0f}"]
    if other is None:
        return [cell.method, str(cell.percent), "", "", *(part for text in columns for part in (text, ""))]
    unequal = {layer: int(np.unpackbits(own.zeros[layer] ^ bits).sum()) for layer, bits in other.zeros.items()}
    sizes = {layer: 8 * bits.size for layer, bits in other.zeros.items()}
    first = [layer for layer in sizes if layer.startswith("model.layers.0.")]
    shares = [
        f"{100 - 100 * sum(unequal[layer] for layer in part) / sum(sizes[layer] for layer in part):.4f}"
        for part in (sizes, first)
    ]
    others = [f"{other.perplexity:.3f}", f"{other.seconds:.0f}", f"{other.memory / 1e6:.0f}"]
    both = [text for pair in zip(columns, others, strict=True) for text in pair]
    return [cell.method, str(cell.percent), *shares, *both]


def main(
    model_path: Path,
    *,
    wikitext: Path,
    wanda: Path | None = None,
    sparsegpt: Path | None = None,
    owl: Path | None = None,
    ria: Path | None = None,
) -> None:
    """Measure, and report.

    Args:
        model_path: a prepared model folder
        wikitext: folder of WikiText-2
        wanda: folder of locuslab/wanda
        sparsegpt: folder of IST-DASLab/sparsegpt
        owl: folder of luuyin/OWL
        ria: folder of biomedical-cybernetics/Relative-importance-and-activation-pruning
    """
    folders = {"wanda": wanda, "sparsegpt": sparsegpt, "owl": owl, "ria": ria}
    text = wikitext / "train.jsonl"
    settings = Masks(calibration={TEXT: {"text": str(text), "examples": EXAMPLES, "length": LENGTH}})
    tokenizer = load_tokenizer(model_path)
    windows = choose_windows(read_documents(text)[0], tokenizer.encode, settings.calibration[TEXT], text)
    pages = DOCUMENT_BREAK.join(read_documents(wikitext / "validation.jsonl")[0])
    ids = torch.tensor([tokenizer.encode(pages, verbose=False)])
    table = []
    for cell in CELLS:
        own = in_process(ours, cell, model_path, text, settings, ids)
        folder = folders[cell.author]
        other = in_process(theirs, cell, folder, model_path, windows, ids) if folder else None
        table.append(row(cell, own, other))
        print(" | ".join(table[-1]), flush=True)
    report(
        "peers",
        "The authors' own code beside this project",
        [
            f"model: {model_path.name}, {Checkpoint(model_path).config['dtype']}; code: {', '.join(AUTHORS.values())}",
            f"calibration: {EXAMPLES} windows of {LENGTH} tokens of WikiText-2 train; perplexity: {WINDOWS} windows of test",
            "a bit of a mask is equal if the weight is zero on both sides, or on neither",
            "time: CPU seconds of one thread, from the files of the model to the mask or the pruned model",
            "memory: the peak of resident memory, mapped files included, above that of the imports",
        ],
        [
            "method", "sparsity, %", "equal bits, %", "in the first decoder layer, %",
            "perplexity, ours", "theirs", "seconds, ours", "theirs", "memory, MB, ours", "theirs",
        ],
        table,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
