"""Compare the authors' own code with this project: mask bits, perplexities, time and memory of each method.

    python benchmarks/peers.py models/smollm2 --wikitext DIR --wanda DIR --sparsegpt DIR --owl DIR --ria DIR

The last four folders hold the repositories of AUTHORS. Without a folder, only this project runs. `--wikitext` has
train.jsonl and validation.jsonl with a row per page in the field `text`. Both sides get the same tokens. Each has its
own loops of calibration, selection and perplexity, and a process of its own with one thread. With SmolLM2-135M this
takes about 25 minutes of one core. The table is written to benchmarks/results/peers.md. studies/published/README.md
explains its differences.
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
import torch
from bench import CPU, report
from sparseft.axes.grid import PassFiles
from sparseft.axes.methods import get_method
from sparseft.axes.tasks.task import DOCUMENT_BREAK
from sparseft.common.command import run
from sparseft.data.texts import read_documents
from sparseft.evaluation.evaluate import token_perplexity
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import decoder_layer_of, prunable_shapes
from sparseft.models.language_model.model import load_model, load_tokenizer
from sparseft.pruning.calibration_examples import calibrate_on_text, choose_windows
from sparseft.pruning.mask_generator import MaskPass, compute_masks
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.pruning.sparsegpt import prune_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

AUTHORS = {
    "wanda": "locuslab/wanda@8e8fc87",
    "sparsegpt": "IST-DASLab/sparsegpt@147d215",
    "owl": "luuyin/OWL@dddb7a4",
    "ria": "biomedical-cybernetics/Relative-importance-and-activation-pruning@7bc55b0",
}
# The windows of tokens of the calibration, their length, and the windows of the perplexity.
EXAMPLES, LENGTH, WINDOWS = 8, 512, 8
TEXT = "wikitext"
# Method, sparsity in percent, author, module, and the function that prunes so. N and M follow if weights compete in
# groups.
CELLS = (
    ("dense", 0, "wanda", "lib.eval", None),
    ("unstructured", 50, "wanda", "lib.prune", "prune_magnitude"),
    (f"unstructured_wanda_on_{TEXT}", 50, "wanda", "lib.prune", "prune_wanda"),
    (f"semistructured_wanda_on_{TEXT}", 50, "wanda", "lib.prune", "prune_wanda", 2, 4),
    (f"semistructured8_wanda_on_{TEXT}", 50, "wanda", "lib.prune", "prune_wanda", 4, 8),
    (f"unstructured_sparsegpt_on_{TEXT}", 50, "sparsegpt", "llama", "llama_sequential"),
    (f"unstructured_wanda_owl_on_{TEXT}", 70, "owl", "lib.prune_all", "prune_wanda_outlier"),
    (f"unstructured_ria_on_{TEXT}", 50, "ria", "lib.prune", "prune_ria"),
)


class Result(NamedTuple):
    """Hold which weights are zero by layer, in packed bits, the perplexity, CPU seconds and bytes."""

    zeros: dict[str, np.ndarray]
    perplexity: float
    cost: np.ndarray


def ours(cell: tuple, model_path: Path, text: Path, settings: Masks, ids: Tensor) -> Result:
    """Return the result of this project. Its cost ends with the mask file, or with the pruned base if weights are
    updated."""
    name, percent = cell[:2]
    checkpoint, method = Checkpoint(model_path), get_method(name)
    before = usage()
    calibration = calibrate_on_text(method, text, settings.calibration[TEXT]) if method.uses_examples else None
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base" if method.updates_weights else None
        files = PassFiles([Path(folder) / "mask.pt"], Path(folder) / "report.json", base=base)
        prune = prune_weights if base else compute_masks
        prune(MaskPass(checkpoint, method, [percent], files, settings, calibration))
        cost = usage() - before
        model, _ = load_model(base or model_path, CPU)
        mask = read_mask(files.masks[0])
        for layer in mask.shape:
            weight = model.get_submodule(layer).weight
            weight.data = weight.data.where(torch.from_numpy(mask.kept(layer)), 0)
    # The text is already in tokens.
    tokenizer = SimpleNamespace(encode=lambda *_, **__: ids[0].tolist())
    return Result(zeros_of(model, model_path), token_perplexity(model, tokenizer, "", LENGTH, WINDOWS), cost)


def theirs(cell: tuple, folder: Path, model_path: Path, windows: list[list[int]], ids: Tensor) -> Result:
    """Return the result of an author's code in `folder`. Only the loader of its data and what needs a GPU are
    replaced."""
    _, percent, author, module_name, function, *groups = cell
    sys.path.insert(0, str(folder))
    torch.Tensor.cuda = lambda tensor, *_: tensor
    torch.cuda.synchronize = lambda *_: None
    module = import_module(module_name)
    loader = [(torch.tensor([window]),) for window in windows]
    module.get_loaders = lambda *_, **__: (loader, None)
    module.args = SimpleNamespace(
        model="llama", nsamples=EXAMPLES, seed=0, seqlen=LENGTH, sparsity_ratio=percent / 100, use_variant=False,
        Lamda=0.08, Hyper_m=5,
        prune_method="ria", calib_dataset="", a=0.5, reconstruction=False, gptq=False, per_outneuron=False,
        sparsity=percent / 100, prunen=0, prunem=0, percdamp=0.01, blocksize=128, minlayer=-1, maxlayer=1000,
        prune_only="", invert=False, true_sequential=False, wbits=16, gmp=False,
    )  # fmt: skip
    text = SimpleNamespace(input_ids=ids[:, : WINDOWS * LENGTH])
    before = usage()
    with redirect_stdout(StringIO()) as said, torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto").eval()
        model.seqlen, model.hf_device_map = LENGTH, {}
        with_positions(model)
        if author == "sparsegpt":
            module.llama_sequential(model, loader, CPU)
            cost = usage() - before
            module.llama_eval(model, text, CPU, "wikitext2")
            perplexity = float(said.getvalue().split()[-1])
        else:
            if function:
                getattr(module, function)(module.args, model, None, CPU, *groups)
            cost = usage() - before
            perplexity = import_module("lib.eval").eval_ppl_wikitext(model, text, 1, CPU)
    return Result(zeros_of(model, model_path), perplexity, cost)


def with_positions(model: nn.Module) -> None:
    """Give every decoder layer its rotary embeddings. In the authors' version of transformers it computed them
    itself."""

    def add(_: nn.Module, inputs: tuple[Tensor], keywords: dict) -> tuple[tuple, dict]:
        positions = torch.arange(inputs[0].shape[1])[None]
        return inputs, keywords | {"position_embeddings": model.model.rotary_emb(inputs[0], positions)}

    for layer in model.model.layers:
        layer.register_forward_pre_hook(add, with_kwargs=True)


def usage() -> np.ndarray:
    """Return the CPU seconds of this process, and the peak of its resident memory in bytes. From here on it has one
    thread."""
    torch.set_num_threads(1)
    return np.array([time.process_time(), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])


def zeros_of(model: nn.Module, model_path: Path) -> dict[str, np.ndarray]:
    """Return which weights of the prunable layers are zero."""
    layers = prunable_shapes(Checkpoint(model_path))
    return {layer: np.packbits((model.get_submodule(layer).weight == 0).numpy()) for layer in layers}


def in_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def row(cell: tuple, own: Result, other: Result | None) -> list[str]:
    """Return a row of the table. Without the author's result, their columns are empty."""
    shares = ["", ""]
    if other:
        unequal = {layer: int(np.unpackbits(own.zeros[layer] ^ bits).sum()) for layer, bits in other.zeros.items()}
        sizes = {layer: 8 * bits.size for layer, bits in other.zeros.items()}
        parts = (list(sizes), [layer for layer in sizes if decoder_layer_of(layer) == 0])
        shares = [
            f"{100 - 100 * sum(unequal[layer] for layer in part) / sum(sizes[layer] for layer in part):.4f}"
            for part in parts
        ]
    sides = [
        (f"{side.perplexity:.3f}", f"{side.cost[0]:.0f}", f"{side.cost[1] / 1e6:.0f}") if side else ("", "", "")
        for side in (own, other)
    ]
    return [cell[0], str(cell[1]), *shares, *(text for pair in zip(*sides, strict=True) for text in pair)]


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
        folder = folders[cell[2]]
        other = in_process(theirs, cell, folder, model_path, windows, ids) if folder else None
        table.append(row(cell, own, other))
        print(" | ".join(table[-1]), flush=True)
    report(
        "peers",
        "The authors' own code beside this project",
        [
            f"model: {model_path.name}, {Checkpoint(model_path).config['dtype']}; code: {', '.join(AUTHORS.values())}",
            f"calibration: {EXAMPLES} windows of {LENGTH} tokens of WikiText-2 train; perplexity: {WINDOWS}"
            " windows of test",
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
