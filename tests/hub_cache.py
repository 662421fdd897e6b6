"""Data sets that lie where `datasets` keeps those that it loaded from the hub."""

import json
from pathlib import Path

from datasets import load_dataset
from sparseft.axes.tasks import BY_NAME
from tiny_models import change_json

COMMIT = "e53f048856ff4f594e959d75785d2c2d37b678ee"

# A task with choices in a YAML file of lm-eval's, whose rows are those of `colour_row`.
COLOURS = {
    "task": "colours",
    "output_type": "multiple_choice",
    "training_split": "train",
    "validation_split": "validation",
    "description": "Name the colour of the thing.\n\n",
    "doc_to_text": "Thing: {{thing | upper}}\nColour:",
    "doc_to_choice": "{{colours}}",
    "doc_to_target": "right",
    "num_fewshot": 2,
    "fewshot_split": "train",
    "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}
                    for metric in ("acc", "acc_norm")],
}  # fmt: skip


def colour_row(number: int, word: str = "brick") -> dict:
    """Return a row of the task `colours`."""
    return {"thing": f"{word} {number}", "colours": ["red", f"green {number}", "a pale blue"], "right": number % 3}


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows to a .jsonl file; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_generated(folder: Path, task: str, train: int, validation: int) -> None:
    """Write rows that a built-in task generates."""
    for split, number in (("train", train), ("validation", validation)):
        write(folder / f"{split}.jsonl", BY_NAME[task].generate(split, number, 0))


def publish(hub: Path, place: str, splits: dict[str, list[dict]], configuration: str = "default") -> None:
    """Put a data set where `datasets` would keep it after loading it from the hub, at COMMIT."""
    folder = hub / "made" / place
    for split, rows in splits.items():
        write(folder / f"{split}.jsonl", rows)
    loaded = load_dataset(str(folder), data_files={split: f"{split}.jsonl" for split in splits})
    made = Path(next(iter(loaded.values())).cache_files[0]["filename"]).parent
    kept = hub / "cache" / place.replace("/", "___") / configuration / "0.0.0" / COMMIT
    kept.parent.mkdir(parents=True)
    made.rename(kept)
    change_json(kept / "dataset_info.json", config_name=configuration)
