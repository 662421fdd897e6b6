"""Describe what a task is: the fields of its rows, its prompt, answer and metrics, and where its rows come from."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparseft.axes.tasks.metrics import Metric
from sparseft.common.errors import InputError
from sparseft.storage.hashes import sha256_of_text

Row = dict[str, Any]
# Split -> its rows.
SplitRows = dict[str, list[Row]]
SPLITS = ("train", "validation")
# Split -> the file beside its rows that records them. That of the training rows also defines a task that is not built
# in.
MANIFESTS = {"train": "manifest.json", "validation": "validation_manifest.json"}


@dataclass(frozen=True)
class Lengths:
    """Hold the lengths of a task's examples, for estimates. A token is about four characters.

    Those of a built-in task are typical ones, measured on 700 to 2000 rows."""

    # The numbers of training and of validation rows. Of a built-in task those on the hub, or 0 if the project generates
    # them.
    rows: Sequence[int]
    # Tokens of prompt and answer together: the mean, and the 99th percentile.
    mean: int
    long: int
    # Tokens of the answer, mean.
    answer: int
    # Choices per row; 0 if the answer is generated.
    choices: int
    # Those of the task that the study evaluates: few-shot examples before a question, and tokens of a generated answer.
    few_shot: int = 0
    max_new_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """Describe the rows of a .jsonl file."""

    # What errors call the file's rows.
    name: str
    # Required field -> its type or types.
    fields: Mapping[str, type | tuple[type, ...]]
    # Fields whose text must not be blank.
    filled: tuple[str, ...] = ()
    # Returns what else is wrong with a row, or None.
    problem: Callable[[Row], str | None] = lambda row: None
    # Returns a row in this project's fields from a row of the data's source.
    converted: Callable[[Row], Row] = dict


# A document of a text.
DOCUMENT = RowFormat(
    name="document",
    fields={"text": str},
    converted=lambda row: {"text": row["text"]} if "text" in row else row,
)
# A row of a text whose rows are windows. The loss of one starts at the token `answer_start`.
WINDOW = RowFormat(name="window", fields={"text": str, "ids": list, "answer_start": int})
# What stands between two documents of a text.
DOCUMENT_BREAK = "\n\n"
# Tokens per sequence of a task of documents, if the configuration does not say.
TEXT_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class Task(RowFormat):
    """Describe a task. Training and evaluation read the same prompt and the same answer."""

    # lm-eval's doc_to_text, without a space at the end.
    prompt: Callable[[Row], str]
    # What follows the prompt and `delimiter`.
    answer: Callable[[Row], str]
    delimiter: str = " "
    # Whether spaces at the end of a prompt count as the answer's, as in lm-eval.
    moves_spaces: bool = True
    # Returns the messages of a conversation, which the model's chat template writes; None if the text is prompt and
    # answer.
    messages: Callable[[Row], list[dict[str, str]]] | None = None
    # Tokens per sequence, if the rows are documents that are joined and cut into sequences; 0 if every row is an
    # example.
    sequence_length: int = 0
    # lm-eval's doc_to_choice; None if the answer is generated.
    choices: Callable[[Row], list[str]] | None = None
    # Returns the index of the right choice; None if the answer is generated.
    label: Callable[[Row], int] | None = None
    # The two answers, if all rows have the same two. Recall is measured for each, and F1 for the second.
    classes: tuple[str, ...] = ()
    # The metric by which models are compared.
    headline: Metric
    # Every metric that an evaluation reports, the headline among them, in the order of the tables.
    metrics: tuple[Metric, ...]
    # None for a task that the configuration describes: its lengths are measured.
    lengths: Lengths | None = None
    # ORG/NAME[/CONFIGURATION]@REVISION; None if the project generates the rows.
    hub: str | None = None
    # The hub's split whose rows are the validation rows. Some data sets have no split `validation`.
    validation_split: str = "validation"
    # Makes rows from (split, number, seed); None if the rows come from a folder or the hub.
    generate: Callable[[str, int, int], list[Row]] | None = None
    # The largest number of tokens of a generated answer.
    max_new_tokens: int = 0
    # The number of few-shot examples, from the training rows, before every question of the evaluation. The loss uses
    # none.
    few_shot: int = 0
    # Keys of `training` that suit the task. What the user sets replaces them.
    suggested_training: dict[str, int | float] = field(default_factory=dict)
    # Raise it when its prompts, answers or rows change.
    version: int = 1
    # Whether the task has rows to train on. A task that is only a probe may have none.
    is_trainable: bool = True
    # The definition in manifest.json of a task that the configuration describes; empty for a built-in task.
    definition: dict = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """Return the name of the headline metric."""
        return self.headline.name

    @property
    def definition_sha256(self) -> str | None:
        """Return the sha256 of the definition as JSON with sorted keys; None for a built-in task."""
        if not self.definition:
            return None
        return sha256_of_text(json.dumps(self.definition, sort_keys=True))

    def check_trainable(self) -> None:
        """Raise InputError if the task has no rows to train on."""
        if not self.is_trainable:
            raise InputError(
                f"task {self.name!r} has no training rows: lm-eval's definition names no training_split",
                f"take it only as a probe (evaluation.probes), or set tasks.{self.name}.local to a folder of"
                " your own rows",
            )

    def check(self, rows: SplitRows, scored: str = "validation") -> None:
        """Check the rows of the split that is `scored`, and the training rows, before anything is trained or evaluated.

        Raises InputError if there are too few, or if the scored rows cannot tell a right answer from a wrong one. How
        many sequences documents have depends on the tokenizer, so they are counted when they are encoded."""
        if self.sequence_length:
            return
        if len(rows[scored]) < 2:
            raise InputError(f"{self.name}: one {scored} example has no standard error", "give two or more")
        if len(rows["train"]) < self.few_shot:
            raise InputError(
                f"{self.name}: {len(rows['train'])} training examples, {self.few_shot} of them stand before"
                " every question",
                f"give {self.few_shot} or more",
            )
        if len({self.prompt(row) for row in rows[scored]}) == 1:
            raise InputError(
                f"{self.name}: all {len(rows[scored])} {scored} examples have the same prompt",
                "check the fields of the rows",
            )
