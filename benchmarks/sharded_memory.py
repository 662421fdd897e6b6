"""Measure the private memory of processes that train together, with whole models or with one divided model.

    python benchmarks/sharded_memory.py

The model has LLaMA's shapes and 1 GB of random weights in bf16, in a temporary folder. This takes about five minutes.
The table is printed and written to benchmarks/results/sharded_memory.md.

Memory is RssAnon of /proc/PID/status: resident pages that belong to no file. So it leaves out libraries and mapped
files, whose pages the system can drop. It is sampled every 5 ms.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import psutil
import torch
from bench import report
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
RUN = "random-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0"
# The proportions of LLaMA-7B, with embeddings of 4 % of the weights.
SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 2752,
    "num_attention_heads": 8,
    "vocab_size": 10_000,
    "max_position_embeddings": 1024,
}
LAYERS = 38
TRAINING = {"steps": 2, "batch_size": 4, "micro_batch_size": 1, "save_every": 0, "threads": 1}
# Adapters and activations are whole on every process in every case. These settings keep them small.
SMALL = {"lora_r": 1, "gradient_checkpointing": True}
PROCESSES = (2, 4)
# Whether the model is divided.
CASES = {"whole models": False, "a divided model": True}
SECONDS = 0.005


def save_model(folder: Path, layers: int) -> int:
    """Write a model of random weights with a byte-level tokenizer, and return the bytes of its weights."""
    torch.manual_seed(0)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *special.values()]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    model = AutoModelForCausalLM.from_config(LlamaConfig(num_hidden_layers=layers, **SIZES), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return 2 * sum(parameter.numel() for parameter in model.parameters())


def command(script: str, **flags: object) -> list[str]:
    """Return the command of a script of this project."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, str(ROOT / "workflow/scripts" / script), *words]


def prepare(folder: Path) -> None:
    """Compute the mask of the model in `folder`, and generate its examples."""
    sizes = {"train_examples": 8, "validation_examples": 2}
    mask = {"model_path": folder / "model", "output_dir": folder / "masks", "method": "unstructured", "sparsity": 0.5}
    for program in (
        command("prepare_task.py", task="boolq_mini", **sizes, output_dir=folder),
        command("compute_masks.py", **mask),
    ):
        subprocess.run(program, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)


def train(folder: Path, processes: int, shard: bool) -> tuple[int, int]:
    """Train the model in `folder`, and return the peaks of the largest process and of all together."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary, "run")
        program = command(
            "train.py",
            run_id=RUN,
            model_path=folder / "model",
            mask_path=folder / "masks/masks_sparsity50_unstructured.pt",
            data_dir=folder,
            output_dir=output,
            shard_model=shard,
            processes=processes,
            **TRAINING,
            **SMALL,
        )
        measured = peaks(program)
        assert (output / "train.json").exists()
    return measured


def peaks(program: list[str]) -> tuple[int, int]:
    """Run a program, and return two peaks in bytes: of its largest process, and of all its processes at one moment."""
    largest = together = 0
    with tempfile.TemporaryFile() as log:
        launcher = subprocess.Popen(program, env=ENVIRONMENT, stdout=log, stderr=log)
        while launcher.poll() is None:
            # The launcher itself holds no model.
            workers = psutil.Process(launcher.pid).children(recursive=True)
            sizes = [private_memory(worker.pid) for worker in workers]
            largest = max(largest, *sizes, 0)
            together = max(together, sum(sizes))
            time.sleep(SECONDS)
        log.seek(0)
        if launcher.returncode:
            sys.exit(log.read().decode()[-2000:])
    return largest, together


def private_memory(process: int) -> int:
    """Return a process's RssAnon in bytes; 0 if it is ending or has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * int(status.split("RssAnon:")[1].split()[0]) if "RssAnon:" in status else 0


def measured() -> Iterator[list[str]]:
    """Yield the rows of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, str(layers)) for layers in (1, LAYERS)]
        small, large = (save_model(folder / "model", int(folder.name)) for folder in folders)
        for folder in folders:
            prepare(folder)
        for processes, (case, shard) in product(PROCESSES, CASES.items()):
            (program, few), (largest, together) = (train(folder, processes, shard) for folder in folders)
            megabytes = [f"{size / 1e6:.0f}" for size in (program, largest, together)]
            yield [f"{processes} processes, {case}", *megabytes, f"{(together - few) / (large - small):.2f}"]


def main() -> None:
    """Measure every case and report."""
    conditions = [
        f"1 GB of weights in bf16, {LAYERS} decoder layers of {SIZES['hidden_size']} x"
        f" {SIZES['intermediate_size']}, r = 1 on"
        f" every prunable layer, {TRAINING['steps']} steps of {TRAINING['batch_size']} examples, micro-batches"
        " of 1, gradient checkpointing, gloo on a CPU",
        "MB: RssAnon, sampled every 5 ms: the largest process with a model of 1 layer, the largest process,"
        " all at one moment",
        "x model: what all processes together need for the other layers, divided by the bytes of their weights",
    ]
    header = ["", "MB, 1 layer", "MB", "MB, all", "x model"]
    rows = list(measured())
    report("sharded_memory", "Memory of processes that share a training", conditions, header, rows)


if __name__ == "__main__":
    main()
