"""The chain of hashes of a run: each file records what it read and wrote, and the records must meet.

base     train.inputs.model == before.inputs.model == merge.inputs.model == validation.inputs.base
mask     (its file ==) train.inputs.mask == before.inputs.mask == merge.inputs.mask == validation.inputs.mask
adapter  (its files ==) train.outputs.adapter == before.inputs.adapter == merge.inputs.adapter; none in mode no_finetune
merged   merge.outputs == validation.inputs.checkpoint == evaluation.inputs.model, with configuration and tokenizer
data     train.inputs.validation == before.inputs.data == evaluation.inputs.data, or the gap compares two data sets
train    train.inputs.train == before.inputs.train == evaluation.inputs.train == the data that calibrated the mask

The files of mask and adapter are hashed while the runs are read. A file that is not there, and a validation without its
base, leave a check undone: `unchecked` names it.

Runs of one setting must share files too: one base per model, one mask per method and sparsity, one data set with its prompts
per task, and an adapter of its own for every run. A run that was copied from another study, or under another name, stands out here.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sparseft.analysis.recompute import NOT_CHECKED
from sparseft.analysis.records import Record, files_digest
from sparseft.study.grid import NO_FINETUNE, Run, fill, mask_path

_SPEAKERS = {
    "base": ("train.json", "before_merge.json", "merge.json"),
    "mask": ("train.json", "before_merge.json", "merge.json", "validation_report.json"),
    "adapter": ("train.json", "before_merge.json", "merge.json"),
    "merged": ("merge.json", "validation_report.json", "evaluation.json"),
    "data": ("train.json", "before_merge.json", "evaluation.json"),
    "train": ("train.json", "before_merge.json", "evaluation.json"),
}
_TRAINED = ("train.json", "before_merge.json")
_BEFORE = {"base": "model", "mask": "mask", "adapter": "adapter", "data": "data", "train": "train"}


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
    """Follow the links of a run, in the order of the module's table."""
    trained = record.run.mode != NO_FINETUNE
    said = _said(record)
    found = []
    for name, speakers in _SPEAKERS.items():
        says = {file: digest for link, file, digest in said if link == name}
        expected = [file for file in speakers if trained or file not in _TRAINED]
        found.append(Link(name, says, [file for file in expected if file not in says]))
    return found


def unchecked(record: Record) -> list[str]:
    """Return what could not be checked about a run, in words; empty where everything was."""
    found = list(record.validation.not_checked)
    if "mask" not in record.on_disk:
        found.append("the mask's file is not there, its hash was not compared")
    if record.run.mode != NO_FINETUNE and "adapter" not in record.on_disk:
        found.append("the adapter's files are not there, their hash was not compared")
    if record.rows.startswith(NOT_CHECKED):
        found.append(f"the right answers: {record.rows.removeprefix(NOT_CHECKED)}")
    return found


def strangers(records: Iterable[Record]) -> dict[Run, list[str]]:
    """Return what sets a run apart from those that it should share a file with, in words.

    `records` are runs of one setting; a run without such a fault is absent from the result."""
    named: dict[tuple[str, str], dict[Run, str]] = defaultdict(dict)
    adapters: dict[str, list[Run]] = defaultdict(list)
    for record in records:
        run = record.run
        digests = {link.name: link.digest for link in links(record)} | {"prompts": record.evaluation.prompt_sha256}
        places = {"base": run.model, "mask": fill(mask_path(run.method), run), "data": run.task, "prompts": run.task}
        for name, place in places.items():
            if digests[name]:
                named[name, place][run] = digests[name]
        if digests["adapter"]:
            adapters[digests["adapter"]].append(run)
    found: dict[Run, list[str]] = defaultdict(list)
    for (name, place), digests in named.items():
        for run, count in _minority(digests).items():
            found[run].append(f"{name} of {place}: {short(digests[run])} in {count} of {len(digests)} runs")
    for sharing in adapters.values():
        for run in sharing if len(sharing) > 1 else []:
            others = ", ".join(other.id for other in sharing if other != run)
            found[run].append(f"adapter: also that of {others}")
    return found


def _minority(digests: dict[Run, str]) -> dict[Run, int]:
    """Return the runs that name another digest than most, each with how many name the same.

    Where two digests are equally common, all runs are returned: either may be the stranger."""
    counts = Counter(digests.values())
    (usual, most), *others = counts.most_common()
    tied = bool(others) and others[0][1] == most
    return {run: counts[digest] for run, digest in digests.items() if tied or digest != usual}


def short(digest: str | None) -> str:
    """Return enough of a digest to tell two apart by eye; summary.csv has it whole."""
    return digest[:12] if digest else "none"


def _said(record: Record) -> list[tuple[str, str, str | None]]:
    """Return (link, file, digest) for every digest that a file of the run names."""
    train, before, merge = record.train, record.before, record.merge
    validation, evaluation = record.validation, record.evaluation
    said: list[tuple[str, str, str | None]] = []
    if train:
        said.append(("base", "train.json", train.inputs.model))
        said.append(("mask", "train.json", train.inputs.mask))
        said.append(("adapter", "train.json", train.outputs.adapter))
        said.append(("data", "train.json", train.inputs.validation))
        said.append(("train", "train.json", train.inputs.train))
    if before:
        said += [(link, "before_merge.json", getattr(before.inputs, name)) for link, name in _BEFORE.items()]
    if merge:
        said.append(("base", "merge.json", merge.inputs.model))
        said.append(("mask", "merge.json", merge.inputs.mask))
        said.append(("adapter", "merge.json", merge.inputs.adapter))
        said.append(("merged", "merge.json", files_digest(merge.outputs)))
    said += [(link, f"the {link}'s file", digest) for link, digest in record.on_disk.items()]
    if record.run.mode == NO_FINETUNE:
        said.append(("adapter", f"mode {NO_FINETUNE}", None))
    if validation.inputs.base:
        said.append(("base", "validation_report.json", validation.inputs.base))
    said.append(("mask", "validation_report.json", validation.inputs.mask))
    said.append(("merged", "validation_report.json", files_digest(validation.inputs.checkpoint)))
    if validation.mask.train_sha256:
        said.append(("train", "the mask's calibration", validation.mask.train_sha256))
    said.append(("merged", "evaluation.json", files_digest(evaluation.inputs.model)))
    said.append(("data", "evaluation.json", evaluation.inputs.data))
    said.append(("train", "evaluation.json", evaluation.inputs.train))
    return said
