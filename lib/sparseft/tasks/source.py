"""Where a task's rows come from: its generator, a folder, or the Hugging Face hub; and the text of WikiText-2.

A place on the hub is ORG/NAME[/CONFIGURATION][@REVISION]; what was loaded is told with the revision it had.
"""

import random
import re
from functools import cache
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.hashes import sha256
from sparseft.tasks import problem_of, read_examples, read_rows, wikitext2
from sparseft.tasks.task import Row, Task

SPLITS = ("train", "validation")


def load_rows(
    task: Task, split: str, number: int | None, seed: int, local: Path | None, hub: str | None = None
) -> list[Row]:
    """`number` rows of a split (all when None), chosen by `seed`; the same on every machine.

    From `local`, a folder, or from `hub`; from the task's own place there where neither is given.
    Raises InputError where both are, where there are fewer rows, or where they cannot be had."""
    if number is not None and number < 1:
        raise InputError(f"{task.name}: {number} {split} examples are asked for", "ask for one or more")
    if task.generate:
        if local or hub or number is None:
            raise InputError(
                f"{task.name} is generated", "give train_examples and validation_examples, neither local nor hub"
            )
        return task.generate(split, number, seed)
    rows = read_examples(local / f"{split}.jsonl", task) if local else _from_hub(task, split, hub or task.hub)
    if number is None:
        return rows
    if number > len(rows):
        raise InputError(
            f"{task.name}: {len(rows)} {split} examples, {number} are asked for", f"lower {split}_examples"
        )
    return random.Random(f"{task.name}-{split}-{seed}").sample(rows, number)


def source_of(task: Task, local: Path | None, hub: str | None) -> dict:
    """For the manifest: where `load_rows` took the rows from, with the revision of the hub or the files' sha256."""
    if task.generate:
        return {"generated": task.name}
    if local:
        return {"local": {split: sha256(local / f"{split}.jsonl") for split in SPLITS}}
    hub = hub or task.hub
    return {"hub": hub.partition("@")[0], "revision": loaded_revision(_hub_rows(task, hub))}


def overlap(task: Task, rows: dict[str, list[Row]]) -> int:
    """How many rows["train"] have a prompt that is also in rows["validation"]."""
    asked = {task.prompt(row) for row in rows["validation"]}
    return sum(task.prompt(row) in asked for row in rows["train"])


def load_text(local: Path | None, hub: str | None = None) -> str:
    """Return the text of a perplexity: its rows joined by blank lines, as GPTQ and Wanda read WikiText-2's test split.

    `local`: a .jsonl file of its rows, field `text`, as the raw data set has them: lines and blank ones; else from `hub`,
    at the pinned place there where none is given. Raises InputError where it cannot be had."""
    fields = {"text": str}
    if local:
        rows = read_rows(local, "document", fields)
    else:
        hub = hub or wikitext2.PLACE
        rows = _checked(_hub_text(hub), "test", hub, fields)
    return "\n\n".join(row["text"] for row in rows)


def text_source(local: Path | None, hub: str | None) -> dict:
    """Return where `load_text` took the text from, with the revision of the hub or the file's sha256."""
    if local:
        return {"local": sha256(local)}
    hub = hub or wikitext2.PLACE
    return {"hub": hub.partition("@")[0], "revision": loaded_revision(_hub_text(hub))}


def _hub_text(hub: str) -> dict:
    return hub_dataset(hub, "perplexity", "a .jsonl file of wikitext-2-raw-v1's rows, field text")


def _hub_rows(task: Task, hub: str) -> dict:
    return hub_dataset(hub, f"tasks.{task.name}", "a folder with train.jsonl and validation.jsonl")


def _from_hub(task: Task, split: str, hub: str) -> list[Row]:
    dataset = _hub_rows(task, hub)
    # gsm8k has no validation split: its test split is what everybody reports
    name = "test" if task.name == "gsm8k" and split == "validation" and split not in dataset else split
    return _checked(dataset, name, hub, task.fields, task)


def _checked(dataset: dict, split: str, hub: str, fields: dict, task: Task | None = None) -> list[Row]:
    """A split's rows, checked as a file's are: an unlabelled one (-1) must not pass for an answer."""
    if split not in dataset:
        raise InputError(f"{hub} has no split {split}, only {', '.join(dataset)}", "name another data set")
    rows = [_plain(row, task) if task else row for row in dataset[split]]
    for number, row in enumerate(rows, start=1):
        if fault := problem_of(row, fields, task.problem if task else None):
            raise InputError(f"{hub}, split {split}, row {number}: {fault}",
                             "name another data set or revision, or give a local copy without the row")  # fmt: skip
    return rows


@cache
def hub_dataset(hub: str, section: str, wanted: str):
    """The splits of a dataset on the hub. Raises InputError with both ways out: on-line, or the section's `local`, which
    is the `wanted`."""
    from datasets import load_dataset

    place, _, revision = hub.partition("@")
    organisation, name, *configuration = place.split("/")
    mend = f"go online, or give {section}.local: {wanted}"
    if Path(organisation, name).exists():  # datasets would take it, revision or not
        raise InputError(f"{hub}: a folder here has the name of the data set on the hub",
                         f"rename it, or give {section}.local: {wanted}")  # fmt: skip
    try:
        dataset = load_dataset(f"{organisation}/{name}", *configuration, revision=revision or None)
    except Exception as error:  # the client raises a dozen kinds, all meaning: not to be had
        raise InputError(f"{hub} cannot be had from the hub ({type(error).__name__})", mend) from None
    found = loaded_revision(dataset)
    # Off-line, datasets takes any revision that it has.
    if found and re.fullmatch(r"[0-9a-f]{40}", revision) and found != revision:
        raise InputError(f"{hub} is here at revision {found} alone", mend)
    return dataset


def loaded_revision(dataset) -> str | None:
    """The commit that a dataset of the hub was loaded at: datasets names its cache folder by it. None where none is."""
    folder = Path(next(iter(dataset.values())).cache_files[0]["filename"]).parent.name
    return folder if re.fullmatch(r"[0-9a-f]{40}", folder) else None


def _plain(row: Row, task: Task) -> Row:
    """super_glue's boolq calls its boolean `label`; the original files and this project call it `answer`."""
    if task.name == "boolq" and "answer" not in row and row.get("label") in (0, 1):
        return {**row, "answer": bool(row["label"])}
    return dict(row)
