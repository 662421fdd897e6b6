"""Compare the hashes that the records of a study name.

What one stage wrote must be what the next one read, so consecutive records name the same sha256. An adapter, trained
weights, a mask and a task's definition must also be on the disk as they were recorded. The runs of a study must share
files too, such as the base of a model and the rows of a task, and every run has its own adapter. Where runs disagree,
those that are not with the majority are at fault. So a run that was copied from another study is noticed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import pandas as pd

from sparseft.analysis.run_files import RunFiles
from sparseft.axes.grid import NO_FINETUNE, base_folder, fill, mask_path
from sparseft.axes.methods import get_method
from sparseft.axes.tasks.metrics import LOSS


def differences(files: RunFiles) -> list[str]:
    """Return a sentence for each input or output whose digest differs between the files of a run."""
    sentences = [
        f"{what} differs: {', '.join(f'{name} names {short(digest)}' for name, digest in digests.items())}"
        for what, digests in files.digests.items()
        if len(set(digests.values())) > 1
    ]
    needed = {"train.json": files.train or files.run.mode == NO_FINETUNE, "merge.json": files.merge}
    if lacking := [name for name, record in needed.items() if not record]:
        sentences.append(f"the hashes cannot be compared without {' and '.join(lacking)}")
    return sentences


def conflicts(study: Iterable[RunFiles]) -> defaultdict[str, list[str]]:
    """Return by run_id what sets a run apart from those that it should share a file with, in words."""
    rows = [(files.run.id, *shared) for files in study for shared in _shared(files)]
    table = pd.DataFrame(rows, columns=["run_id", "what", "place", "settings", "digest"]).dropna(subset="digest")
    groups = ["what", "place", "settings"]
    table["runs"] = table.groupby(groups)["run_id"].transform("size")
    table["same"] = table.groupby([*groups, "digest"])["run_id"].transform("size")
    sentences = defaultdict(list)
    for row in table[2 * table["same"] <= table["runs"]].itertuples():
        text = f"{row.what} of {row.place}: {short(row.digest)} in {row.same} of {row.runs} runs"
        sentences[row.run_id].append(f"conflicts with other runs, {text}")
    own = table[(table["what"] == "adapter") & (table["place"] == table["run_id"])]
    for _, copies in own[own.duplicated("digest", keep=False)].groupby("digest")["run_id"]:
        for run_id in copies:
            others = ", ".join(copies[copies != run_id])
            sentences[run_id].append(f"conflicts with other runs, adapter: also that of {others}")
    return sentences


def short(digest: str | None) -> str:
    """Return enough of a digest to tell two apart by eye. settings.csv has the whole digest."""
    return digest[:12] if digest else "none"


def _shared(files: RunFiles) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield what a run shares with other runs: what it is, its place, the settings that decide it, and the digest."""
    run, mask, digests = files.run, files.validation_report.mask, files.first_digests
    has_pruned_base = get_method(run.method).has_pruned_base
    # Masks of one name may have been made with other settings, which settings.py compares.
    settings = str(sorted(mask.settings.items()))
    yield "base", run.model, "", (has_pruned_base and mask.original) or digests["base"]
    yield "mask", fill(mask_path(run.method), run), settings, digests["mask"]
    if has_pruned_base:
        yield "pruned base", fill(base_folder(run.method), run), settings, digests["base"]
    # Each model may have sampled the rows of a text.
    place = f"{run.model} on {run.task}" if files.evaluation.metric == LOSS.name else run.task
    yield "data", place, "", digests["data"]
    yield "prompts", place, "", files.evaluation.prompt_sha256
    # Not of the task only, because the sequences of a text depend on the tokenizer.
    yield "distinct prompts", f"{run.model} on {run.task}", "", str(files.evaluation.distinct_prompts)
    if files.selection:
        yield "selection rows", place, "", files.selection.inputs.data
    if files.engines:
        yield "dense model of the engines", run.model, "", files.engines.inputs.dense
    yield "adapter", run.id, "", digests["adapter"]
    if start := files.start:
        yield "adapter", start.id, "", digests["start"] or "none"
