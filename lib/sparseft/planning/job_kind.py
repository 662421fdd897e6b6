"""Name the kinds of jobs, and what decides the memory and the time of a job. Each rule says its kind (params.kind)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from sparseft.grid import training_name
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.study.config import Config
from sparseft.trainers.backends.backend import Appliance

# The kinds of jobs that read decoder layers from their files if the memory has no room for them.
PLACED = ("evaluation", "selection", "sampling")
# All that run the model. The others are `prepare`; `weights`, which makes masks without examples; `merge` and `proof`,
# which read a model some rows at a time; `import` and `export`, which do it matrix by matrix.
RUN_THE_MODEL = ("training", "throughput", "reconstruction", "mask", "engines", "serving", *PLACED)
# Those that the backend of the study runs.
TRAINING = ("training", "throughput")
# The wildcards that decide, beside the model, if they are not the task and the training.
DECIDING = {"mask": ("task", "method"), "sampling": ("text",), "serving": ()}


@dataclass(frozen=True)
class JobKind:
    """Name what decides the memory and the time of a job. What does not matter is empty."""

    kind: str
    model: str
    task: str = ""
    method: str = ""
    training: str = ""
    text: str = ""
    # Whether a training changes the weights themselves.
    is_full: bool = False

    @classmethod
    def of(cls, kind: str, wildcards: Mapping[str, str]) -> Self:
        """Return what decides of a job of this kind. Those of a run name its values."""
        if kind == "mask" and not (method := get_method(wildcards["method"])).uses_examples:
            # A smaller model is written matrix by matrix.
            kind = "export" if method.pattern.units else "weights"
        names = DECIDING.get(kind, ("task", "training") if kind in RUN_THE_MODEL else ())
        values = {name: training_name(wildcards[name]) for name in names}
        is_full = kind in TRAINING and get_mode(wildcards["mode"]).is_full
        return cls(kind, wildcards.get("model", ""), **values, is_full=is_full)

    def appliance(self, config: Config) -> Appliance | None:
        """Return the appliance that runs the job; None if this machine does."""
        return config.training_backend.appliance if self.kind in TRAINING else None
