"""Name the kinds of jobs, and what decides the memory and the time of a job. Each rule says its kind (params.kind)."""

from dataclasses import dataclass
from typing import Any

from sparseft.methods import get_method
from sparseft.study.grid import training_name

# The kinds of jobs that run the model. The others are `prepare`; `weights`, which makes masks without examples; `merge`
# and `proof`, which read a model some rows at a time; `import` and `export`, which do it matrix by matrix.
EVALUATIONS = ("evaluation", "selection", "engines")
# Those that read decoder layers from their files if the memory has no room for them.
PLACED = ("evaluation", "selection", "sampling")
RUN_THE_MODEL = ("training", "throughput", "reconstruction", "mask", "engines", *PLACED)


@dataclass(frozen=True)
class JobKind:
    """Name what decides the memory and the time of a job. What does not matter is empty."""

    kind: str
    model: str
    task: str = ""
    method: str = ""
    training: str = ""
    text: str = ""

    @classmethod
    def of(cls, kind: str, cell: Any) -> "JobKind":
        """Return what decides of a job of this kind. `cell` is a run, or has what the wildcards of the job name."""
        if kind not in RUN_THE_MODEL:
            return cls(kind, cell.model)
        if kind == "sampling":
            return cls(kind, cell.model, text=cell.text)
        if kind != "mask":
            return cls(kind, cell.model, cell.task, training=training_name(cell.training))
        method = get_method(cell.method)
        if not method.uses_examples:
            # A smaller model is written matrix by matrix.
            return cls("export" if method.pattern.units else "weights", cell.model)
        return cls(kind, cell.model, cell.task if method.uses_task else "", cell.method)
