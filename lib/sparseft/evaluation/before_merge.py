"""Copy the merged model's evaluation as the one before the merge, if the merge keeps every bit.

A layer of sparse_to_sparse multiplies by W' = (W + s B A) * M. The merge computes W' with the same function
(lora/effective_weight.py). On a CPU both have the same bits, so a second evaluation would give the same numbers
(tests/evaluation/test_before_merge.py). In that case `as_trained` is True in merge.json. It is False if a layer computes the
product in another order: with sparse_to_dense, structured masks, and masks that prune nothing.
"""

from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.record import read_record, remake_advice
from sparseft.tasks.wikitext2 import PREFIXES

# Fields of evaluation.json that an evaluation before the merge would fill with other values.
NOT_COPIED = ("record", "run_id", "inputs", "seconds", "perplexity_source", "probes", "overlap", "perplexity_overlap")


def take_over(
    merge_record: Path, evaluation_record: Path, run_id: str | None, task: str, inputs: dict[str, str]
) -> dict | None:
    """Return the content of before_merge.json, copied from evaluation.json; None if the bits may differ.

    Return None also if the records belong to another run or task, so that the adapter itself is checked and evaluated.
    `inputs` are the digests that before_merge.json records: of the base, the mask, the adapter and the two data sets.
    Raises InputError if one of the records belongs to another model or to other data."""
    merge = read_record(merge_record)
    evaluation = read_record(evaluation_record)
    if not merge.get("as_trained") or not evaluation["device"].startswith("CPU"):
        return None
    if (merge["run_id"], evaluation["run_id"], evaluation["task"]) != (run_id, run_id, task):
        return None
    _check_inputs(merge, evaluation, inputs, merge_record, evaluation_record)
    content = {name: value for name, value in evaluation.items() if name not in NOT_COPIED}
    content["metrics"] = {name: value for name, value in evaluation["metrics"].items() if not name.startswith(PREFIXES)}
    return content | {"taken_from": evaluation_record.name}


def _check_inputs(
    merge: dict, evaluation: dict, inputs: dict[str, str], merge_record: Path, evaluation_record: Path
) -> None:
    """Raise InputError if one of the records belongs to another model or to other data."""
    for name in ("model", "mask", "adapter"):
        if merge["inputs"][name] != inputs[name]:
            raise InputError(f"{merge_record}: merged from another {name}", remake_advice(merge_record))
    if evaluation["inputs"]["model"] != merge["outputs"]:
        raise InputError(
            f"{evaluation_record}: evaluates another model than the one that {merge_record} describes",
            remake_advice(evaluation_record),
        )
    for name in ("data", "train"):
        if evaluation["inputs"][name] != inputs[name]:
            raise InputError(
                f"{evaluation_record}: made with other examples ({name})", remake_advice(evaluation_record)
            )
