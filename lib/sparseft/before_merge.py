"""The evaluation before the merge, taken over from the merged model's where the merge keeps every bit.

A layer of sparse_to_sparse multiplies by W' = (W + s B A) * M, and the merge writes the same W' by the same function
(lora/effective_weight.py). On a CPU both have the same bits, so a second evaluation would give the same numbers
(tests/test_before_merge.py). merge.json says so: `as_trained` is True. It is False for layers that compute the product in
another order: those of sparse_to_dense, of structured masks and of masks that prune nothing.
"""

from pathlib import Path

from sparseft.errors import InputError
from sparseft.record import again, read_record
from sparseft.tasks.wikitext2 import PREFIXES

# What a job of its own would say differently.
OWN = ("run_id", "inputs", "seconds", "perplexity_source")


def take_over(
    merge_record: Path, evaluation_record: Path, run_id: str | None, task: str, inputs: dict[str, str]
) -> dict | None:
    """Return the content of evaluation.json as that of before_merge.json, or None where the bits may differ.

    None too where the records are of another run or task: then the adapter itself is checked and evaluated. `inputs`: the digests of what the model before the merge consists of, and of the two data sets, as before_merge.json
    records them. Raises InputError if the two records belong to another model or to other data."""
    merge = read_record(merge_record)
    evaluation = read_record(evaluation_record)
    if not merge.get("as_trained") or not evaluation["device"].startswith("CPU"):
        return None
    if (merge["run_id"], evaluation["run_id"], evaluation["task"]) != (run_id, run_id, task):
        return None
    for name in ("model", "mask", "adapter"):
        if merge["inputs"][name] != inputs[name]:
            raise InputError(f"{merge_record}: merged from another {name}", again(merge_record))
    if evaluation["inputs"]["model"] != merge["outputs"]:
        raise InputError(
            f"{evaluation_record}: not of the model that {merge_record} describes", again(evaluation_record)
        )
    for name in ("data", "train"):
        if evaluation["inputs"][name] != inputs[name]:
            raise InputError(f"{evaluation_record}: made with other examples ({name})", again(evaluation_record))
    content = {name: value for name, value in evaluation.items() if name not in OWN}
    content["metrics"] = {name: value for name, value in evaluation["metrics"].items() if not name.startswith(PREFIXES)}
    return content | {"taken_from": evaluation_record.name}
