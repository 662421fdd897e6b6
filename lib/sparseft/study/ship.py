"""Make a study of what `snakemake ship` needs: the texts, the candidates and their training.

The candidates are runs of this study, so that every rule, record and check of a study holds for them. Their sparsities
are searched while it runs (stages/find_shares.py).
"""

from typing import Any

from sparseft.axes.grid import DENSE, Run
from sparseft.axes.methods import SELF
from sparseft.axes.modes import get_mode
from sparseft.data.settings import SHIP
from sparseft.serving.settings import CANDIDATES, FIRST, FIRST_LAYERS, Ship

# The task of the candidates, and the texts for the calibration, for the training, and for the judgement.
TASK = CALIBRATION = SHIP
TRAINING, HELD_OUT = "shiptrain", "shiptest"
TEXTS = (CALIBRATION, TRAINING, HELD_OUT)
ON_TEXT = f"_on_{CALIBRATION}"
# The windows of 512 tokens for the calibration, for the judgement, and of the divergence.
CALIBRATION_WINDOWS, HELD_OUT_WINDOWS, DIVERGENCE_WINDOWS = 64, 32, 16
# How each candidate, and the dense model, is trained (benchmarks/results/recovered.md). A model needs long to sample
# text, so there are fewer steps on its own.
STEPS_ON_TEXTS = 180
RECOVERY: dict[str, Any] = {
    "steps": 60,
    "batch_size": 4,
    "full_learning_rate": 0.0003,
    "train": ["norms"],
    "distillation": {"weight": 0.5, "temperature": 1.0},
}


def shorter(model: str) -> str:
    """Return the name of the model without an eighth of its decoder layers."""
    return f"{model}_shorter"


def with_ship(values: dict[str, Any], ship: Ship) -> dict[str, Any]:
    """Return the sections of a configuration with those that the section `ship` decides."""
    models, tasks, masks, export = (dict(values.get(name) or {}) for name in ("models", "tasks", "masks", "export"))
    pruned = [ship.model]
    # A wrong name is refused with the grid.
    if any(CANDIDATES[name][1] for name in ship.candidates) and ship.model in models:
        pruned.append(shorter(ship.model))
        source = f"pruned:{ship.model}/sparsity{FIRST_LAYERS}_{FIRST}{ON_TEXT}"
        width = {key: value for key, value in dict(models[ship.model] or {}).items() if key == "dtype"}
        models[pruned[1]] = {"source": source, **width}
    schedule = RECOVERY | ({"steps": STEPS_ON_TEXTS} if ship.texts else {})
    schedule |= dict((tasks.get(TASK) or {}).get("training") or {})
    tasks[TASK] = {"kind": "text", "text": TRAINING, "training": schedule}
    source, numbers = SELF, {CALIBRATION: CALIBRATION_WINDOWS, TRAINING: schedule["steps"] * schedule["batch_size"]}
    if ship.texts or ship.prompts:
        source, numbers[HELD_OUT] = SHIP, HELD_OUT_WINDOWS
    masks["calibration"] = dict(masks.get("calibration") or {}) | {
        name: {"text": source, "examples": number, "length": 512, "seed": seed}
        for seed, (name, number) in enumerate(numbers.items())
    }
    if ship.formats:
        export["gguf"] = ship.formats[0]
    return values | {
        "models": models,
        "tasks": tasks,
        "masks": masks,
        "evaluation": {"divergence": DIVERGENCE_WINDOWS, "probes": [ship.task] if ship.task else []},
        "export": export,
        "grid": {
            "models": pruned,
            "tasks": [TASK],
            "methods": list({f"{CANDIDATES[name][0]}{ON_TEXT}": None for name in ship.candidates or ["channels"]}),
            # A plan needs a share, before those of the candidates are known.
            "sparsities": [0, FIRST_LAYERS],
            "modes": [ship.mode],
        },
    }


def runs(model: str, mode: str, shares: dict[str, list[int]]) -> list[Run]:
    """Return the runs of the candidates with these shares, in percent, and the dense model, trained in the same way."""
    runs = [Run(model, TASK, DENSE, 0, get_mode(mode).dense_training, 0)]
    for name, percents in shares.items():
        method, is_shorter = CANDIDATES[name]
        start = shorter(model) if is_shorter else model
        runs += [Run(start, TASK, f"{method}{ON_TEXT}", percent, mode, 0) for percent in percents]
    return runs
