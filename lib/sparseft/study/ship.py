"""Make a study of what `snakemake ship` needs: the texts, the candidates and their training.

The candidates are runs of this study, so that every rule, record and check of a study holds for them. Their sparsities
are searched while it runs (stages/find_shares.py).
"""

from typing import Any

from sparseft.data.settings import SHIP
from sparseft.grid import DENSE, Run
from sparseft.methods import SELF

# The task of the candidates, and the texts for the calibration, for the training, and for the judgement.
TASK = CALIBRATION = SHIP
TRAINING, HELD_OUT = "shiptrain", "shiptest"
TEXTS = (CALIBRATION, TRAINING, HELD_OUT)
# What prunes each candidate: its method, and whether it starts from the model without a tenth of its decoder layers.
CHANNELS, LAYERS = f"structured_obs_on_{CALIBRATION}", f"layers_block_influence_on_{CALIBRATION}"
METHODS = {"channels": (CHANNELS, False), "layers": (LAYERS, False), "both": (CHANNELS, True)}
MODE, DENSE_MODE = "sparse_to_sparse", "sparse_to_dense"
# The windows of 512 tokens for the calibration and for the judgement, and those of the divergence.
WINDOWS, DIVERGENCE_WINDOWS = 64, 32
# How each candidate, and the dense model, is trained (benchmarks/results/recovery.md).
RECOVERY: dict[str, Any] = {
    "steps": 45,
    "batch_size": 4,
    "learning_rate": 0.001,
    "lora_r": 16,
    "lora_alpha": 32,
    "distillation": {"weight": 0.5, "temperature": 1.0},
}
# Of a plan, before the shares are known, in percent.
GUESS = 30


def shorter(model: str) -> str:
    """Return the name of the model without a tenth of its decoder layers."""
    return f"{model}_shorter"


def with_ship(values: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a configuration with those that the section `ship` decides."""
    ship = values["ship"]
    model, candidates = ship["model"], ship.get("candidates", list(METHODS))
    models, tasks = dict(values["models"]), dict(values.get("tasks", {}))
    # A wrong name is refused with the grid.
    if "both" in candidates and model in models:
        source = f"pruned:{model}/sparsity10_{LAYERS}"
        models[shorter(model)] = {"source": source, "dtype": dict(models[model]).get("dtype")}
    schedule = RECOVERY | dict(tasks.get(TASK, {}).get("training", {}))
    is_sampled = not (ship.get("texts") or ship.get("prompts"))
    numbers = {CALIBRATION: WINDOWS, TRAINING: schedule["steps"] * schedule["batch_size"]}
    if not is_sampled:
        numbers[HELD_OUT] = WINDOWS
    texts = {
        name: {"text": SELF if is_sampled else SHIP, "examples": number, "length": 512, "seed": seed}
        for seed, (name, number) in enumerate(numbers.items())
    }
    masks = dict(values.get("masks", {}))
    masks["calibration"] = {**masks.get("calibration", {}), **texts}
    return values | {
        "models": models,
        "tasks": {**tasks, TASK: {"kind": "text", "text": TRAINING, "training": schedule}},
        "masks": masks,
        "evaluation": {"divergence": DIVERGENCE_WINDOWS, "probes": [ship["task"]] if ship.get("task") else []},
        "export": _serving(values),
        "grid": {
            "models": [model, *([shorter(model)] if "both" in candidates else [])],
            "tasks": [TASK],
            "methods": list(dict.fromkeys(METHODS[name][0] for name in candidates)) or [CHANNELS],
            "sparsities": [0, GUESS],
            "modes": [MODE],
        },
    }


def _serving(values: dict[str, Any]) -> dict[str, Any]:
    """Return the section `export` with the first format."""
    export, formats = dict(values.get("export", {})), values["ship"].get("formats")
    return export | ({"gguf": formats[0]} if formats else {})


def runs(model: str, shares: dict[str, list[int]]) -> list[Run]:
    """Return the runs of the candidates with these shares, in percent, and the dense model that is trained alike."""
    found = [Run(model, TASK, DENSE, 0, DENSE_MODE, 0)]
    for name, percents in shares.items():
        method, is_shorter = METHODS[name]
        start = shorter(model) if is_shorter else model
        found += [Run(start, TASK, method, percent, MODE, 0) for percent in percents]
    return found
