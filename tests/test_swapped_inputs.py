"""What a record says of its inputs is true of the bytes that were used, even if the files change meanwhile."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import forks
import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.masks.mask_file import read_mask
from sparseft.storage.adapter_files import adapter_digest
from sparseft.storage.hashes import sha256
from sparseft.tasks import BY_NAME
from tiny_models import save_tiny

from masks import compute_masks, write_mask

RUN = "llama-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0"
TRAINING = ["--steps", "2", "--batch_size", "4", "--micro_batch_size", "4", "--lora_r", "2"]
MODEL = ["--model_path", "llama", "--mask_path", "mask.pt"]
SCORED = ["--task", "boolq_mini", "--data_dir", "data", "--output"]
SCRIPTS = {
    "train.py": ["--run_id", RUN, *MODEL, "--data_dir", "data", "--output_dir", "run", *TRAINING],
    "evaluate.py": ["--checkpoint", "llama", *SCORED, "out.json"],
    "evaluate_adapter.py": [*MODEL, "--adapter", "adapter", *SCORED, "out.json"],
    "merge.py": [*MODEL, "--adapter", "adapter", "--output_dir", "merged", "--report", "out.json"],
    "measure_throughput.py": ["--cell", RUN.removesuffix("-seed0"), *MODEL, "--data_dir", "data", "--batch_sizes", "2",
                              "--steps", "1", "--warmup_steps", "0", "--repeats", "1", "--output", "out.json"],
    "compute_masks.py": ["--model_path", "llama", "--method", "unstructured_gradient", "--sparsity", "0.5", "--task",
                         "boolq_mini", "--data_dir", "data", "--calibration_examples", "4", "--output_dir", "masks"],
}  # fmt: skip
ROWS = ("data/train.jsonl", "data/validation.jsonl")


def write_rows(path: Path, split: str, seed: int) -> None:
    rows = BY_NAME["boolq_mini"].generate(split, 8, seed)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a tiny model, its mask, its rows with a manifest, and an adapter."""
    folder = tmp_path_factory.mktemp("inputs")
    base = Checkpoint(save_tiny("llama", folder / "llama", torch.float32))
    write_mask(folder / "mask.pt", compute_masks(base, "unstructured", [50])[50])
    (folder / "data").mkdir()
    for path in map(Path, ROWS):
        write_rows(folder / path, path.stem, 0)
    digests = {Path(path).stem: sha256(folder / path) for path in ROWS}
    (folder / "data/manifest.json").write_text(json.dumps({"sha256": digests}))
    code, said = run(folder, "train.py")
    assert code == 0, said
    (folder / "run/adapter").rename(folder / "adapter")
    shutil.rmtree(folder / "run")
    return folder


@pytest.fixture
def box(inputs, tmp_path) -> Path:
    return shutil.copytree(inputs, tmp_path / "box")


def run(folder: Path, script: str, swaps: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a script in a folder, where a path of `swaps` is the other file when it is opened again."""
    return forks.call(swapping, folder, script, swaps or {})


def swapping(folder: Path, script: str, swaps: dict[str, str]) -> None:
    """Run a script in a folder. Replace a file by its other one before it is opened for the second time."""
    opened = set()

    def swap(event: str, arguments: tuple) -> None:
        path = str(arguments[0]) if event == "open" else ""
        if path in swaps and path in opened:
            os.replace(swaps.pop(path), path)
        opened.add(path)

    os.chdir(folder)
    sys.addaudithook(swap)
    forks.script(script, *SCRIPTS[script])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_record_names_the_rows_and_the_adapter_that_were_read_first(box, script):
    digests = {"train": sha256(box / ROWS[0]), "data": sha256(box / ROWS[1]), "validation": sha256(box / ROWS[1]),
               "adapter": adapter_digest(box / "adapter")}  # fmt: skip
    for path in map(Path, ROWS):
        write_rows(box / f"other_{path.name}", path.stem, 1)
    config = json.loads((box / "adapter/adapter_config.json").read_text())
    (box / "other.json").write_text(json.dumps(config | {"lora_alpha": 1.0}))
    swaps = {path: f"other_{Path(path).name}" for path in ROWS} | {"adapter/adapter_config.json": "other.json"}
    code, said = run(box, script, swaps)
    assert code == 0, said
    if script == "compute_masks.py":
        (path,) = (box / "masks").glob("*.pt")
        assert read_mask(path).meta["train_sha256"] == digests["train"]
        return
    record = json.loads((box / ("run/train.json" if script == "train.py" else "out.json")).read_text())
    named = {name: digest for name, digest in record["inputs"].items() if name in digests}
    assert len(named) == {"train.py": 2, "evaluate.py": 2, "evaluate_adapter.py": 3}.get(script, 1)
    assert named == {name: digests[name] for name in named}


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "merge.py"])
def test_rows_that_are_not_those_of_the_manifest_beside_them_are_refused(box, script):
    split = "validation" if script in ("train.py", "evaluate.py", "evaluate_adapter.py") else "train"
    path = box / f"data/{split}.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))  # the rows that a run got right
    code, said = run(box, script)
    assert code == 2, said
    assert re.match(rf"error: data/{split}\.jsonl: .*manifest", said.splitlines()[-1])
    assert not any((box / name).exists() for name in ("run/train.json", "out.json"))
