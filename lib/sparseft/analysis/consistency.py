"""Compare the hashes that the records of a study name.

What one stage wrote must be what the next one read, so consecutive records name the same sha256. An adapter, trained
weights, a mask and a task's definition must also be on the disk as they were recorded. The runs of a study must share
files too, such as the base of a model and the rows of a task, and every run has its own adapter. Where runs disagree,
those that are not with the majority are at fault. So a run that was copied from another study is noticed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

import pandas as pd

from sparseft.grid import NO_FINETUNE, Run, base_folder, fill, mask_path
from sparseft.methods import get_method
from sparseft.records.record_file import files_digest

# What several records of a run name -> the fields with its sha256, in the order of the stages. `start` is the adapter
# from which a training starts.
NAMED = {
    "base": "train.inputs.model before.inputs.model merge.inputs.model validation.inputs.base",
    "mask": "train.inputs.mask before.inputs.mask merge.inputs.mask validation.inputs.mask",
    "adapter": "train.outputs.adapter before.inputs.adapter merge.inputs.adapter",
    "merged": "merge.outputs validation.inputs.checkpoint evaluation.inputs.model selection.inputs.model"
    " engines.inputs.model",
    "data": "before.inputs.data evaluation.inputs.data selection.inputs.validation",
    "train": "validation.mask.train_sha256 train.inputs.train before.inputs.train evaluation.inputs.train"
    " selection.inputs.train",
    "start": "train.inputs.initial_adapter",
    "definition": "train.definition_sha256 before.definition_sha256 evaluation.definition_sha256"
    " selection.definition_sha256",
}
Digests = dict[str, dict[str, str | None]]


def digests_of(records: Mapping[str, Any]) -> Digests:
    """Return what is named -> the attribute of a record -> the digest that the record names. Absent records name
    none."""
    named: Digests = {}
    for what, fields in NAMED.items():
        named[what] = {}
        for name, _, field in (field.partition(".") for field in fields.split()):
            if record := records[name]:
                value = attrgetter(field)(record)
                named[what][name] = files_digest(value) if isinstance(value, dict) else value
        # A validation without a base names none, and no more does a mask that was not calibrated on the task.
        if named[what].get("validation", "") is None:
            del named[what]["validation"]
    return named


def differences(files) -> list[str]:
    """Return a sentence for each input or output whose digest differs between the files of a run."""
    sentences = [
        f"{what} differs: {', '.join(f'{name} names {short(digest)}' for name, digest in digests.items())}"
        for what, digests in files.digests.items()
        if len(set(digests.values())) > 1
    ]
    needed = {"train.json": files.train or files.run.mode == NO_FINETUNE, "merge.json": files.merge}
    lacking = [name for name, record in needed.items() if not record]
    return sentences + [f"the hashes cannot be compared without {' and '.join(lacking)}"] * bool(lacking)


def conflicts(files_of: Mapping[Run, Any]) -> defaultdict[Run, list[str]]:
    """Return what sets a run apart from those that it should share a file with, in words."""
    rows = [(run, *shared) for run, files in files_of.items() for shared in _shared(files)]
    table = pd.DataFrame(rows, columns=["run", "what", "place", "settings", "digest"]).dropna(subset="digest")
    groups = ["what", "place", "settings"]
    table["runs"] = table.groupby(groups)["run"].transform("size")
    table["same"] = table.groupby([*groups, "digest"])["run"].transform("size")
    sentences = defaultdict(list)
    for row in table[2 * table["same"] <= table["runs"]].itertuples():
        text = f"{row.what} of {row.place}: {short(row.digest)} in {row.same} of {row.runs} runs"
        sentences[row.run].append(f"conflicts with other runs, {text}")
    own = table[(table["what"] == "adapter") & (table["place"] == table["run"].map(lambda run: run.id))]
    for _, copies in own[own.duplicated("digest", keep=False)].groupby("digest")["run"]:
        for run in copies:
            others = ", ".join(other.id for other in copies if other != run)
            sentences[run].append(f"conflicts with other runs, adapter: also that of {others}")
    return sentences


def short(digest: str | None) -> str:
    """Return enough of a digest to tell two apart by eye. settings.csv has the whole digest."""
    return digest[:12] if digest else "none"


def first_digests(files) -> dict[str, str | None]:
    """Return by what is named the digest that the first file names."""
    return {what: next(iter(digests.values()), None) for what, digests in files.digests.items()}


def _shared(files) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield what a run shares with other runs: what it is, its place, the settings that decide it, and the digest."""
    run, mask, digests = files.run, files.validation.mask, first_digests(files)
    has_pruned_base = get_method(run.method).has_pruned_base
    # Masks of one name may have been made with other settings, which settings.py compares.
    settings = str(sorted(mask.settings.items()))
    yield "base", run.model, "", (has_pruned_base and mask.original) or digests["base"]
    yield "mask", fill(mask_path(run.method), run), settings, digests["mask"]
    if has_pruned_base:
        yield "pruned base", fill(base_folder(run.method), run), settings, digests["base"]
    yield "data", run.task, "", digests["data"]
    yield "prompts", run.task, "", files.evaluation.prompt_sha256
    # Not of the task only, because the sequences of a text depend on the tokenizer.
    yield "distinct prompts", f"{run.model} on {run.task}", "", str(files.evaluation.distinct_prompts)
    if files.selection:
        yield "selection rows", run.task, "", files.selection.inputs.data
    if files.engines:
        yield "dense model of the engines", run.model, "", files.engines.inputs.dense
    yield "adapter", run.id, "", digests["adapter"]
    if start := files.start:
        yield "adapter", start.id, "", digests["start"] or "none"
