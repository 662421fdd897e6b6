"""What the default environment does beside the tests: inputs, the torch backend's run, the fate of an adapter.

reference.py make FOLDER
reference.py make_real FOLDER MODEL
reference.py train FOLDER OUTPUT RUN FLAG...
reference.py follow FOLDER OUTPUT RUN REFERENCE
"""

import json
import runpy
import shutil
import sys
from pathlib import Path

import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.language_model.model import load_model
from sparseft.lora.adapter import read_adapter
from sparseft.lora.merge import merge
from sparseft.masks.mask_file import read_mask
from sparseft.masks.validation import validate
from sparseft.storage.hashes import sha256
from sparseft.tasks import BY_NAME
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from tiny_models import MODELS, save_tiny  # noqa: E402

from masks import compute_masks, write_mask  # noqa: E402

_LAYERS = {"num_hidden_layers": 2, "hidden_size": 4096, "num_attention_heads": 32, "vocab_size": 32000}
REAL = {
    "llama7b": (LlamaForCausalLM, LlamaConfig(**_LAYERS, intermediate_size=11008)),
    "mistral7b": (MistralForCausalLM, MistralConfig(**_LAYERS, intermediate_size=14336, num_key_value_heads=8)),
}
ROTARY = {"mistral": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}}  # not what a reader assumes


def make(folder: Path) -> dict:
    """Tiny models in fp32, their masks, and the data of boolq_mini."""
    task = BY_NAME["boolq_mini"]
    (folder / "data").mkdir()
    for split, number in (("train", 32), ("validation", 12)):
        rows = task.generate(split, number, 0)
        (folder / f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in MODELS:
        base = Checkpoint(save_tiny(name, folder / name, torch.float32, ROTARY.get(name)))
        for method, percent in (("dense", 0), ("unstructured", 50), ("structured", 50)):
            write_mask(folder / f"{name}_{method}.pt", compute_masks(base, method, [percent], seed=0)[percent])
    return {}


def make_real(folder: Path, name: str) -> dict:
    """Two layers of a model of real shapes, in bf16, and a random mask."""
    kind, config = REAL[name]
    torch.manual_seed(0)
    kind(config).to(torch.bfloat16).save_pretrained(folder / name)
    for file in (folder / "llama").glob("tokenizer*"):
        shutil.copy(file, folder / name)
    mask = compute_masks(Checkpoint(folder / name), "random", [50], seed=0)[50]
    write_mask(folder / f"{name}_random.pt", mask)
    return {}


def train(*flags: str) -> dict:
    """train.py as a user runs it."""
    sys.argv[:] = ["train.py", *flags]
    try:
        runpy.run_path(str(ROOT / "workflow/scripts/train.py"), run_name="__main__")
    except SystemExit as end:
        assert not end.code
    return {}


def follow(folder: Path, output: Path, run: str, reference: Path) -> dict:
    """Merge an adapter and the reference's; the validation's report and how far the two models are apart."""
    model, method, _, _ = run.split("-")
    path = folder / f"{model}_{method}.pt"
    base, mask = Checkpoint(folder / model), read_mask(path)
    for source in (output, reference):
        merge(base, mask, sha256(path), source / "adapter", source / "model_dir")
    report = validate(Checkpoint(output / "model_dir"), mask, base=base)
    ids = torch.arange(3 * 64).view(3, 64) % 260
    with torch.no_grad():
        ours, theirs, pruned = (
            logits(place, ids) for place in (output / "model_dir", reference / "model_dir", base.folder)
        )
    return {
        "passed": report["passed"],
        "violations": report["violations"],
        "layers_checked": report["layers_checked"],
        "apart": (ours - theirs).abs().max().item(),
        "moved": (ours - pruned).abs().max().item(),
        "zero_factors": sum(not B.any() for _, B in read_adapter(output / "adapter")[0].values()),
    }


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    return load_model(folder, torch.device("cpu"))[0](ids).logits


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "train":
        print(json.dumps(train(*rest)))
    else:
        print(
            json.dumps(
                {"make": make, "make_real": make_real, "follow": follow}[command](
                    *(Path(part) if "/" in part else part for part in rest)
                )
            )
        )
