"""A training by ModelZoo, its inputs and its peer, in the default environment."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from hub_cache import write_generated
from project import ROOT, words_of
from sparseft.axes.modes import get_mode
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.training.trainers.modelzoo.export import export_modelzoo
from tiny_models import save_tiny

from masks import compute_masks, write_mask

SETTINGS = {
    "steps": 20, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 0.01, "lora_r": 4, "evaluation_batch_size": 8,
    "save_every": 5,
}  # fmt: skip
CEREBRAS = {"sequence_length": 256, "target": "CPU"}
ROTARY = {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}  # not what a reader assumes


@dataclass(frozen=True)
class Inputs:
    """A folder with a tiny model in fp32, its mask, its masked export and the data of boolq_mini."""

    folder: Path
    model: str

    def flags(self, mode: str, output: Path) -> dict[str, object]:
        run = f"{self.model}-boolq_mini-unstructured-sparsity50-{mode}-seed0"
        places = {"model_path": self.folder / self.model, "mask_path": self.folder / "mask.pt"}
        flags = {"run_id": run, **places, "data_dir": self.folder / "data", "output_dir": output, **SETTINGS}
        if get_mode(mode).is_full:
            flags["full_learning_rate"] = flags.pop("learning_rate")
            del flags["lora_r"]
        return flags

    def modelzoo_flags(self, mode: str, output: Path) -> dict[str, object]:
        return {**self.flags(mode, output), "exported": self.folder / "cs", **CEREBRAS}

    def start(self, mode: str, output: Path) -> subprocess.Popen:
        return subprocess.Popen(
            command("train_modelzoo.py", self.modelzoo_flags(mode, output)), stderr=subprocess.DEVNULL
        )


def command(name: str, flags: dict[str, object]) -> list[str]:
    """Return the command of a script."""
    return [sys.executable, str(ROOT / "workflow/scripts" / name), *words_of(flags)]


def make(folder: Path, model: str) -> Inputs:
    base = Checkpoint(save_tiny(model, folder / model, torch.float32, ROTARY if model == "mistral" else None))
    write_mask(folder / "mask.pt", compute_masks(base, "unstructured", [50])[50])
    export_modelzoo(base, folder / "mask.pt", folder / "cs")
    write_generated(folder / "data", "boolq_mini", 32, 12)
    return Inputs(folder, model)


def trained(name: str, flags: dict[str, object]) -> dict:
    done = subprocess.run(command(name, flags), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((flags["output_dir"] / "train.json").read_text())
