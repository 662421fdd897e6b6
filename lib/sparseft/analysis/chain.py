"""Follow the chain of hashes of a run: each record names what it read and wrote, and the records must meet.

base     train.inputs.model == merge.inputs.model == validation.inputs.base
mask     (its file ==) train.inputs.mask == merge.inputs.mask == validation.inputs.mask
adapter  (its files ==) train.outputs.adapter == merge.inputs.adapter, or trained weights; none in mode no_finetune
merged   merge.outputs == validation.inputs.checkpoint == evaluation.inputs.model
data     evaluation.inputs.data
train    train.inputs.train == evaluation == the data that calibrated the mask
start    train.inputs.initial_adapter == train.outputs.adapter of the run that its training continues, if any
definition  train == evaluation == that in the manifest of the task's data; only of a task that is not built in

before_merge.json, selection.json and engines.json are not part of the chain. run_files.py leaves them out if they do
not meet it.

The runs of a study must share files too: one base per model, and one dense model beside which its engines are measured,
one mask per method, sparsity and mask settings, one data set with its prompts per task, one set of selection rows per
task. Every run must have its own adapter. Where runs disagree, those that are not with the majority are at fault. So a
run that was copied from another study is noticed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from sparseft.methods import get_method
from sparseft.study.grid import NO_FINETUNE, Run, base_folder, fill, mask_path

# By link, the records that must name its digest.
NAMED_BY = {
    "base": ("train.json", "merge.json"),
    "mask": ("train.json", "merge.json", "validation_report.json"),
    "adapter": ("train.json", "merge.json"),
    "merged": ("merge.json", "validation_report.json", "evaluation.json"),
    "data": ("evaluation.json",),
    "train": ("train.json", "evaluation.json"),
    "start": ("train.json",),
    "definition": ("train.json", "evaluation.json"),
}
Links = dict[str, dict[str, str | None]]


def links_of(files) -> Links:
    """Return by link the digest that each file of a run names. The order of the files is that of the sentences about
    them."""
    named: dict[str, Mapping[str, str | None]] = {
        record.file_name: record.digests for record in (files.train, files.merge) if record
    }
    for name, digest in files.on_disk.items():
        named["the manifest of the task" if name == "definition" else f"the {name}'s file"] = {name: digest}
    if files.run.mode == NO_FINETUNE:
        named[f"mode {NO_FINETUNE}"] = {"adapter": None}
    # A validation without a base names none.
    named[files.validation.file_name] = {link: own for link, own in files.validation.digests.items() if own}
    if calibration := files.validation.mask.train_sha256:
        named["the mask's calibration"] = {"train": calibration}
    named[files.evaluation.file_name] = files.evaluation.digests
    links = {link: {file: own[link] for file, own in named.items() if link in own} for link in NAMED_BY}
    # A built-in task has no definition.
    is_absent = {"definition": not any(links["definition"].values()), "start": files.start is None}
    return {link: digests for link, digests in links.items() if not is_absent.get(link)}


def broken_links(files) -> list[str]:
    """Return a sentence for each link whose files disagree, or that a file which is not there should name."""
    sentences = []
    absent = "train.json" if files.run.mode == NO_FINETUNE else None
    for name, digests in files.links.items():
        unread = [file for file in NAMED_BY[name] if file not in {*digests, absent}]
        if len(set(digests.values())) > 1:
            named = ", ".join(f"{file} names {short(digest)}" for file, digest in digests.items())
            sentences.append(f"broken chain, {name}: {named}")
        elif unread:
            sentences.append(f"broken chain, {name}: cannot be followed without {' and '.join(unread)}")
    return sentences


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


def first_digests(links: Links) -> dict[str, str | None]:
    """Return by link the digest that the first file names."""
    return {name: next(iter(digests.values()), None) for name, digests in links.items()}


def _shared(files) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield what a run shares with other runs: what it is, its place, the settings that decide it, and the digest."""
    run, mask, digests = files.run, files.validation.mask, first_digests(files.links)
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
