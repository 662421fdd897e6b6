"""The chain of hashes of a run: each file records what it read and wrote, and the records must meet.

base     train.inputs.model == before.inputs.model == merge.inputs.model == validation.inputs.base (where that was given)
mask     (its file ==) train.inputs.mask == before.inputs.mask == merge.inputs.mask == validation.inputs.mask
adapter  (its file ==) train.outputs.adapter == before.inputs.adapter == merge.inputs.adapter; none in mode no_finetune
merged   merge.outputs == validation.inputs.checkpoint == evaluation.inputs.model, with configuration and tokenizer
data     train.inputs.validation == before.inputs.data == evaluation.inputs.data, or the gap compares two data sets

The files of mask and adapter have their say where they are there, hashed while the runs are read.

Between the runs of a study too: one base a model, one mask a method and sparsity, one data set a task, one schedule a model
and task, and an adapter of its own for every run. A run that was copied from another study, or under another name, stands out here.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sparseft.analysis.records import Record
from sparseft.analysis.tables import files_digest
from sparseft.grid import NO_FINETUNE, Run, fill, mask_path

_SPEAKERS = {
    "base": ("train.json", "before_merge.json", "merge.json"),
    "mask": ("train.json", "before_merge.json", "merge.json", "validation_report.json"),
    "adapter": ("train.json", "before_merge.json", "merge.json"),
    "merged": ("merge.json", "validation_report.json", "evaluation.json"),
    "data": ("train.json", "before_merge.json", "evaluation.json"),
}
_TRAINED = ("train.json", "before_merge.json")


@dataclass(frozen=True)
class Link:
    """One link: the digest that each file names, and the files that should have named one but could not be read."""

    name: str
    says: dict[str, str | None]
    unread: list[str]

    @property
    def fault(self) -> str | None:
        """None where the link holds, else what is wrong with it."""
        if len(set(self.says.values())) > 1:
            return f"{self.name}: " + ", ".join(f"{file} names {short(digest)}" for file, digest in self.says.items())
        if self.unread:
            return f"{self.name}: cannot be followed without {' and '.join(self.unread)}"
        return None

    @property
    def digest(self) -> str | None:
        """What the files name."""
        return next(iter(self.says.values()), None)


def links(record: Record) -> list[Link]:
    """Follow the five links of a run, in the order of the module's table."""
    trained = record.run.mode != NO_FINETUNE
    said = _said(record)
    found = []
    for name, speakers in _SPEAKERS.items():
        says = {file: digest for link, file, digest in said if link == name}
        expected = [file for file in speakers if trained or file not in _TRAINED]
        found.append(Link(name, says, [file for file in expected if file not in says]))
    return found


def strangers(records: Iterable[Record]) -> dict[Run, list[str]]:
    """What sets a run apart from those that it should share a file with, in words; runs without such a fault are absent."""
    named: dict[tuple[str, str], dict[Run, str]] = defaultdict(dict)
    adapters: dict[str, list[Run]] = defaultdict(list)
    for record in records:
        run, said = record.run, {link.name: link.digest for link in links(record)}
        for place in (("base", run.model), ("mask", fill(mask_path(run.method), run)), ("data", run.task)):
            if said[place[0]]:
                named[place][run] = said[place[0]]
        if record.train:
            named["schedule", f"{run.model}, {run.task}"][run] = (
                f"{record.train.steps} steps of {record.train.batch_size}"
            )
        if said["adapter"]:
            adapters[said["adapter"]].append(run)
    found: dict[Run, list[str]] = defaultdict(list)
    for (name, what), digests in named.items():
        counts = Counter(digests.values())
        (usual, most), *others = counts.most_common()
        for run, digest in digests.items():
            if digest != usual or (others and others[0][1] == most):  # of two equal parties either may be the stranger
                told = digest if name == "schedule" else short(digest)
                found[run].append(f"{name} of {what}: {told} in {counts[digest]} of {len(digests)} runs")
    for runs in adapters.values():
        for run in runs if len(runs) > 1 else []:
            found[run].append(f"adapter: also that of {', '.join(other.id for other in runs if other != run)}")
    return found


def short(digest: str | None) -> str:
    """Enough of a digest to tell two apart by eye; summary.csv has it whole."""
    return digest[:12] if digest else "none"


def _said(record: Record) -> list[tuple[str, str, str | None]]:
    """(link, file, digest) for every digest that a file of the run names."""
    train, merge, validation, evaluation = record.train, record.merge, record.validation, record.evaluation
    said = []
    if train:
        said += [("base", "train.json", train.inputs.model), ("mask", "train.json", train.inputs.mask)]
        said += [("adapter", "train.json", train.outputs.adapter), ("data", "train.json", train.inputs.validation)]
    if record.before:
        seen = record.before.inputs
        said += [("base", "before_merge.json", seen.model), ("mask", "before_merge.json", seen.mask)]
        said += [("adapter", "before_merge.json", seen.adapter), ("data", "before_merge.json", seen.data)]
    if merge:
        said += [("base", "merge.json", merge.inputs.model), ("mask", "merge.json", merge.inputs.mask)]
        said += [("adapter", "merge.json", merge.inputs.adapter), ("merged", "merge.json", files_digest(merge.outputs))]
    said += [(link, f"the {link}'s file", digest) for link, digest in record.on_disk.items()]
    if record.run.mode == NO_FINETUNE:
        said += [("adapter", f"mode {NO_FINETUNE}", None)]
    if validation.inputs.base:
        said += [("base", "validation_report.json", validation.inputs.base)]
    said += [("mask", "validation_report.json", validation.inputs.mask)]
    said += [("merged", "validation_report.json", files_digest(validation.inputs.checkpoint))]
    said += [("merged", "evaluation.json", files_digest(evaluation.inputs.model))]
    said += [("data", "evaluation.json", evaluation.inputs.data)]
    return said
