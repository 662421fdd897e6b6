"""Time what a smaller model saves in the engines that serve it: structured masks, removed layers, removed experts.

    python benchmarks/engines.py models/smollm2 \\
        --engines vllm:/envs/vllm/bin/python llama_cpp:/envs/llama_cpp/bin/python \\
        --gguf f32 --converter "/envs/llama_cpp/bin/python /opt/llama.cpp/convert_hf_to_gguf.py"

An unstructured mask is the control: it leaves zeros, which no engine skips. The Mixtral has random weights, and the
tokenizer of the model. `--others` measures folders of yours in place of these models, and `--load 1 8 32` so many
requests at once. Each engine runs in a process of its own. The tables are printed and written to
benchmarks/results/engines.md and engines_load.md, or to others.md and others_load.md.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from bench import report
from sparseft.analysis.statistics import mean_interval
from sparseft.axes.grid import MASK_NAME, PRUNED_NAME
from sparseft.common.command import Flags, run
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.model_source import prepare_model
from sparseft.models.checkpoints.settings import Model
from sparseft.pruning.compact import compact
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.serving.engine_record import EngineResult
from sparseft.serving.engines import find_engines, measure
from sparseft.serving.settings import Export
from sparseft.storage.hashes import sha256
from sparseft.training.lora.merge import merge
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

SCRIPT = Path(__file__).parents[1] / "workflow/scripts/compute_masks.py"
TEXT = Path(__file__).parents[1] / "docs/statistics.md"
STRUCTURED = (30, 50)
LAYERS = (20, 40)
CONTROL = 50
# Half of the experts, in percent of the prunable weights of the Mixtral below.
EXPERTS = 48
MIXTRAL = {
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}  # fmt: skip
# The names of the dense models, with which the others are compared.
DENSE, MIXTURE = "dense", "Mixtral"


def subjects(dense: Path, work: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield each model to measure: the name of its dense model, its own name, and its folder."""
    yield DENSE, DENSE, dense
    for percent in STRUCTURED:
        masked = merged(dense, work, "structured", percent)
        mask = mask_of(work, "structured", percent)
        compact(Checkpoint(masked), mask, work / f"compact{percent}")
        yield DENSE, f"structured {percent} %", work / f"compact{percent}"
    for percent in LAYERS:
        yield DENSE, f"layers {percent} %", shortened(dense, work, "layers_random", percent)
    yield DENSE, f"unstructured {CONTROL} %", merged(dense, work, "unstructured", CONTROL)
    mixture = random_mixtral(dense, work)
    yield MIXTURE, MIXTURE, mixture
    yield MIXTURE, "Mixtral, half its experts", shortened(mixture, work / "experts", "experts_random", EXPERTS)


def compute_masks(model: Path, folder: Path, method: str, percent: int, *options: object) -> None:
    """Compute the masks of a method."""
    flags = ["--model_path", model, "--output_dir", folder, "--method", method, "--sparsity", str(percent / 100)]
    subprocess.run([str(word) for word in (sys.executable, SCRIPT, *flags, *options)], check=True)


def mask_of(folder: Path, method: str, percent: int) -> Path:
    """Return the path of a mask."""
    return folder / f"{MASK_NAME.format(sparsity=percent, method=method)}.pt"


def merged(model: Path, work: Path, method: str, percent: int) -> Path:
    """Return the folder of W * M."""
    compute_masks(model, work, method, percent)
    mask, folder = mask_of(work, method, percent), work / f"{method}{percent}"
    merge(Checkpoint(model), read_mask(mask), sha256(mask), None, folder)
    return folder


def shortened(model: Path, work: Path, method: str, percent: int) -> Path:
    """Return the folder of a model without some of its layers or experts. The speed does not depend on which ones are
    left."""
    compute_masks(model, work, method, percent, "--pruned_dir", work / "pruned")
    return work / "pruned" / PRUNED_NAME.format(sparsity=percent, method=method)


def random_mixtral(model: Path, work: Path) -> Path:
    """Return a Mixtral of random weights with the tokenizer and the dtype of a model, prepared."""
    source, config = work / "random", Checkpoint(model).config
    torch.manual_seed(0)
    ends = {name: config.get(name) for name in ("bos_token_id", "eos_token_id")}
    made = MixtralForCausalLM(MixtralConfig(vocab_size=config["vocab_size"], **ends, **MIXTRAL))
    made.to(getattr(torch, config["dtype"])).save_pretrained(source)
    AutoTokenizer.from_pretrained(model).save_pretrained(source)
    prepare_model(Model(source=f"path:{source}", dtype=config["dtype"]), work / "mixtral")
    return work / "mixtral"


Results = dict[tuple[str, str], list[EngineResult]]


def rows_of(results: Results, base: dict[str, str], parameters: dict[str, float]) -> Iterator[list[str]]:
    """Yield a row per engine and model: means over the repeats, and the ratios to the dense model in the same
    engine."""
    for (engine, name), repeats in results.items():
        dense = results[engine, base[name]]
        row = [engine, name, f"{parameters[name]:.1f}", f"{(repeats[0].weight_bytes or 0) / 1e6:.1f}"]
        for value, scale, form in (("tokens_per_second", 1, ".1f"), ("first_token_seconds", 1000, ".0f")):
            ours, theirs = ([scale * getattr(one, value) for one in some] for some in (repeats, dense))
            row += beside(ours, theirs, form)
        ours, theirs = (max(one.peak_memory_bytes for one in some) for some in (repeats, dense))
        row += [f"{ours / 1e6:.0f}", f"{ours / theirs:.2f}", f"{repeats[0].perplexity:.2f}"]
        yield [
            *row,
            f"{max(one.difference for one in repeats):.2g}",
            "yes" if all(one.agrees for one in repeats) else "no",
        ]


def load_rows(results: Results, base: dict[str, str]) -> Iterator[list[str]]:
    """Yield a row per engine, model and number of requests at once, with prompt and decoding apart."""
    for (engine, name), repeats in results.items():
        dense = results[engine, base[name]]
        for place, load in enumerate(repeats[0].loads):
            row = [engine, name, str(load.at_once)]
            for value in ("prompt_tokens_per_second", "decode_tokens_per_second"):
                speeds = ([getattr(one.loads[place], value) for one in some] for some in (repeats, dense))
                row += beside(*speeds, ".0f")
            yield row


def beside(ours: list[float], theirs: list[float], form: str) -> tuple[str, str]:
    """Return the mean over the repeats, and that of the ratios to the dense model's."""
    values, dense = np.array(ours, float), np.array(theirs, float)
    return f"{values.mean():{form}}", "1" if ours == theirs else with_interval(values / dense)


def with_interval(ratios: np.ndarray) -> str:
    """Return the mean of the ratios, one per repeat, with its 95 % interval."""
    low, high = mean_interval(ratios)
    return f"{ratios.mean():.2f} ({low:.2f} to {high:.2f})"


def main(
    model_path: Path,
    *,
    others: tuple[Path, ...] = (),
    text: Path = TEXT,
    settings: Flags[Export] = Export(prompts=2, repeats=4),
) -> None:
    """Measure every model in every engine, and report.

    Args:
        model_path: a prepared model folder
        others: folders that are measured beside it
        text: the text of the prompts, whose perplexity is reported
    """
    torch.set_num_threads(1)
    engines = find_engines(settings, threads=1)
    ids = AutoTokenizer.from_pretrained(model_path)(text.read_text()).input_ids
    length = settings.prompt_tokens
    prompts = [ids[place * length : (place + 1) * length] for place in range(settings.prompts)]
    with tempfile.TemporaryDirectory() as work:
        given = [(DENSE, DENSE, model_path), *((DENSE, folder.name, folder) for folder in others)]
        made = given if others else list(subjects(model_path, Path(work)))
        folders = {name: folder for _, name, folder in made}
        parameters = {name: Checkpoint(folder).totals()["parameters"] / 1e6 for name, folder in folders.items()}
        results: Results = {}
        for result in measure(engines, folders, prompts):
            results.setdefault((result.engine, result.model), []).append(result)
    conditions = [
        f"{model_path.name}, {Checkpoint(model_path).config['dtype']}; Mixtral: random weights,"
        f" {MIXTRAL['num_local_experts']} experts",
        ", ".join(f"{engine.name} {engine.version}" for engine in engines),
        f"{settings.prompts} prompts of {length} tokens of {text.name}, one after the other,"
        f" {settings.new_tokens} greedy tokens after each; one thread; means of {settings.repeats} repeats, with"
        f" 95 % intervals of the ratios; the largest memory; GGUF in {settings.gguf}",
        "tokens/s: generated tokens, with the time of the prompt. Times are of the CPU, so other work on the"
        " machine counts little",
        "nats: the mean difference of a token's log-likelihood from transformers. agrees: they are within the bound",
    ]
    base, page = {name: base for base, name, _ in made}, "others" if others else "engines"
    header = ["engine", "model", "M parameters", "MB", "tokens/s", "x dense", "first token ms", "x dense", "peak MB"]
    header += ["x dense", "perplexity", "nats", "agrees"]
    report(page, "Smaller models in three engines", conditions, header, list(rows_of(results, base, parameters)))
    header = ["engine", "model", "requests at once", "prompt tokens/s", "x dense", "decoded tokens/s", "x dense"]
    report(f"{page}_load", "Several requests at once", conditions, header, list(load_rows(results, base)))


if __name__ == "__main__":
    run(main)
