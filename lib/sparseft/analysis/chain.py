"""Follow the chain of hashes of a run: each file records what it read and wrote, and the records must meet.

base     train.inputs.model == before.inputs.model == merge.inputs.model == validation.inputs.base
mask     (its file ==) train.inputs.mask == before.inputs.mask == merge.inputs.mask == validation.inputs.mask
adapter  (its files ==) train.outputs.adapter == before.inputs.adapter == merge.inputs.adapter; none in mode no_finetune
merged   merge.outputs == validation.inputs.checkpoint == evaluation.inputs.model, with configuration and tokenizer
data     train.inputs.validation == before.inputs.data == evaluation.inputs.data, or the gap compares two data sets
train    train.inputs.train == before.inputs.train == evaluation.inputs.train == the data that calibrated the mask
start    train.inputs.initial_adapter == train.outputs.adapter of the run that it starts from, if any
definition  train == before == evaluation == that in the manifest of the task's data; only of a task that is not built in

The files of mask and adapter are hashed while the runs are read. If a file is missing, or if a validation had no base, a check
cannot be made: `unchecked` names it.

Runs of one setting must share files too: one base per model, one mask per method and sparsity, one data set with its prompts
per task. They must agree on how many prompts of a task are distinct for a model. A method that updates weights has a pruned
base per mask, which records the model from which it was made. Every run must have its own adapter, and two runs must agree on the
adapter that one of them starts from. All runs of a task must have the same selection rows, whatever their setting. So a run that
was copied from another study, or under another name, is noticed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sparseft.analysis.records import Record
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.study.grid import NO_FINETUNE, Run, base_folder, fill, mask_path

# By link, the files that must name its digest.
NAMED_BY = {
    "base": ("train.json", "before_merge.json", "merge.json"),
    "mask": ("train.json", "before_merge.json", "merge.json", "validation_report.json"),
    "adapter": ("train.json", "before_merge.json", "merge.json"),
    "merged": ("merge.json", "validation_report.json", "evaluation.json"),
    "data": ("train.json", "before_merge.json", "evaluation.json"),
    "train": ("train.json", "before_merge.json", "evaluation.json"),
    "start": ("train.json",),
    "definition": ("train.json", "before_merge.json", "evaluation.json"),
}
# Files that only a trained run has.
TRAINED = ("train.json", "before_merge.json")


@dataclass(frozen=True)
class Link:
    """Hold one link: the digest that each file names, and the files that should name one but could not be read."""

    name: str
    digests: dict[str, str | None]
    unread: list[str]

    @property
    def fault(self) -> str | None:
        """Return what is wrong with the link; None if it holds."""
        if len(set(self.digests.values())) > 1:
            named = [f"{file} names {short(digest)}" for file, digest in self.digests.items()]
            return f"{self.name}: {', '.join(named)}"
        if self.unread:
            return f"{self.name}: cannot be followed without {' and '.join(self.unread)}"
        return None

    @property
    def digest(self) -> str | None:
        """Return the digest that the first file names."""
        return next(iter(self.digests.values()), None)


def links(record: Record) -> list[Link]:
    """Follow the links of a run, in the order of the module's table."""
    digests: dict[str, dict[str, str | None]] = {name: {} for name in NAMED_BY}
    for file, named in _named_digests(record):
        for name, digest in named.items():
            digests[name][file] = digest
    if not any(digests["definition"].values()):
        # A built-in task has no definition.
        del digests["definition"]
    if start_of(record.run) is None:
        del digests["start"]
    return [Link(name, named, _unread(record, name, named)) for name, named in digests.items()]


def start_of(run: Run) -> Run | None:
    """Return the run from whose adapter a run starts; None if it starts from a new one."""
    mode = get_mode(run.mode).starts_from
    return replace(run, mode=mode) if mode else None


def _named_digests(record: Record) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Yield each file that names digests, with the digests by link. The order is that of the sentences about them."""
    for file in (record.train, record.before, record.merge):
        if file:
            yield file.file_name, file.digests
    for name, digest in record.on_disk.items():
        yield "the manifest of the task" if name == "definition" else f"the {name}'s file", {name: digest}
    if not record.is_trained:
        yield f"mode {NO_FINETUNE}", {"adapter": None}
    yield record.validation.file_name, record.validation.digests
    if calibration := record.validation.mask.train_sha256:
        yield "the mask's calibration", {"train": calibration}
    yield record.evaluation.file_name, record.evaluation.digests


def _unread(record: Record, name: str, digests: Mapping[str, str | None]) -> list[str]:
    """Return the files that should name a link's digest but could not be read."""
    expected = [file for file in NAMED_BY[name] if record.is_trained or file not in TRAINED]
    return [file for file in expected if file not in digests]


def unchecked(record: Record) -> list[str]:
    """Return what could not be checked about a run, in words; empty if everything was checked."""
    reasons = list(record.validation.not_checked)
    if "mask" not in record.on_disk:
        reasons.append("the mask's file is not there, its hash was not compared")
    if record.is_trained and "adapter" not in record.on_disk:
        reasons.append("the adapter's files are not there, their hash was not compared")
    if record.right_answers.unchecked:
        reasons.append(f"the right answers: {record.right_answers.unchecked}")
    if record.evaluation.definition_sha256 and "definition" not in record.on_disk:
        reasons.append("the task's manifest is not there, its definition was not compared")
    if record.evaluation.not_recomputed:
        reasons.append(record.evaluation.not_recomputed)
    for name, probe in record.evaluation.probes.items():
        reasons += [
            f"probe {name}: {reason}" for reason in (probe.not_recomputed, record.probe_rows[name].unchecked) if reason
        ]
    if record.selection_rows.unchecked:
        reasons.append(f"the selection rows: {record.selection_rows.unchecked}")
    return reasons


def strangers(records: Iterable[Record], chains: Mapping[Run, list[Link]]) -> dict[Run, list[str]]:
    """Return what sets a run apart from those that it should share a file with, in words.

    `records` are runs of one setting, and `chains` has their links. A run without such a fault is absent from the result."""
    shared: dict[tuple[str, str], dict[Run, str]] = defaultdict(dict)
    adapters: dict[str, list[Run]] = defaultdict(list)
    for record in records:
        run = record.run
        digests = {link.name: link.digest for link in chains[run]}
        shares = {
            "base": (run.model, digests["base"]),
            "mask": (fill(mask_path(run.method), run), digests["mask"]),
            "data": (run.task, digests["data"]),
            "prompts": (run.task, record.evaluation.prompt_sha256),
            # Not of the task only, because the sequences of a text depend on the tokenizer.
            "distinct prompts": (f"{run.model} on {run.task}", str(record.evaluation.distinct_prompts)),
        }
        if get_method(run.method).updates_weights:
            shares["base"] = (run.model, record.validation.mask.original or digests["base"])
            shares["pruned base"] = (fill(base_folder(run.method), run), digests["base"])
        for name, (place, digest) in shares.items():
            if digest:
                shared[name, place][run] = digest
        if digests["adapter"]:
            adapters[digests["adapter"]].append(run)
            shared["adapter", run.id][run] = digests["adapter"]
        if start := start_of(run):
            shared["adapter", start.id][run] = digests["start"] or "none"
    faults: dict[Run, list[str]] = defaultdict(list)
    for (name, place), digests in shared.items():
        for run, count in _minority(digests).items():
            faults[run].append(f"{name} of {place}: {short(digests[run])} in {count} of {len(digests)} runs")
    for runs in adapters.values():
        for run in runs if len(runs) > 1 else []:
            others = ", ".join(other.id for other in runs if other != run)
            faults[run].append(f"adapter: also that of {others}")
    return faults


def selection_strangers(records: Iterable[Record]) -> dict[Run, list[str]]:
    """Return the runs that were evaluated on other selection rows than most runs of their task, in words.

    The runs of all trainings must agree, because the tables choose among them. A run that agrees is absent from the result."""
    shared: dict[str, dict[Run, str]] = defaultdict(dict)
    for record in records:
        if record.selection:
            shared[record.run.task][record.run] = record.selection.inputs.data
    return {
        run: [f"selection rows of {task}: {short(digests[run])} in {count} of {len(digests)} runs"]
        for task, digests in shared.items()
        for run, count in _minority(digests).items()
    }


def _minority(digests: dict[Run, str]) -> dict[Run, int]:
    """Return the runs that name another digest than most, each with how many name the same.

    If two digests are equally common, all runs are returned, because either may be the stranger."""
    counts = Counter(digests.values())
    (usual, most), *others = counts.most_common()
    tied = bool(others) and others[0][1] == most
    return {run: counts[digest] for run, digest in digests.items() if tied or digest != usual}


def short(digest: str | None) -> str:
    """Return enough of a digest to tell two apart by eye. summary.csv has the whole digest."""
    return digest[:12] if digest else "none"
