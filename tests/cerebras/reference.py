"""What the default environment does beside the tests: inputs, and the fate of an adapter.

reference.py make FOLDER
reference.py follow FOLDER OUTPUT RUN REFERENCE
"""

import json
import sys
from pathlib import Path

import torch
from sparseft.axes.modes import get_mode
from sparseft.axes.modes.mode import ADAPTER
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.model import load_model
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.validation import validate
from sparseft.storage.hashes import sha256
from sparseft.training.lora.adapter import read_adapter
from sparseft.training.lora.merge import merge

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_cache import write_generated
from tiny_models import TYPICAL, save_tiny

from masks import compute_masks, write_mask

ROTARY = {"mistral": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}}  # not what a reader assumes


def make(folder: Path) -> None:
    """Write tiny models in fp32, their masks, and the data of boolq_mini."""
    write_generated(folder / "data", "boolq_mini", 32, 12)
    for name in TYPICAL:
        base = Checkpoint(save_tiny(name, folder / name, torch.float32, ROTARY.get(name)))
        for method, percent in (("dense", 0), ("unstructured", 50), ("structured", 50)):
            write_mask(folder / f"{name}_{method}.pt", compute_masks(base, method, [percent], seed=0)[percent])


def follow(folder: Path, output: Path, run: str, reference: Path) -> None:
    """Merge an adapter and the reference's. Print the validation's report, and how far the two models are apart."""
    model, method, _, mode = run.split("-")
    trained = get_mode(mode).trains
    path = folder / f"{model}_{method}.pt"
    base, mask = Checkpoint(folder / model), read_mask(path)
    for source in (output, reference):
        merge(base, mask, sha256(path), source / trained, source / "model_dir")
    report = validate(Checkpoint(output / "model_dir"), mask, base=base, lifts_mask=get_mode(mode).lifts_mask)
    ids = torch.arange(3 * 64).view(3, 64) % 260
    places = (output / "model_dir", reference / "model_dir", base.folder)
    with torch.no_grad():
        ours, theirs, pruned = (load_model(place, torch.device("cpu"))[0](ids).logits for place in places)
    fate = {name: report[name] for name in ("passed", "violations", "layers_checked")}
    fate |= {"apart": (ours - theirs).abs().max().item(), "moved": (ours - pruned).abs().max().item()}
    pairs = read_adapter(output / trained, base).pairs if trained == ADAPTER else {}
    print(json.dumps(fate | {"zero_factors": sum(not B.any() for _, B in pairs.values())}))


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    {"make": make, "follow": follow}[command](*(Path(part) if "/" in part else part for part in rest))
