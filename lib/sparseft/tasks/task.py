"""A task is data: the fields of a row, its prompt and its answer, and where the rows come from."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sparseft.errors import InputError

Row = dict[str, object]


@dataclass(frozen=True)
class Task:
    """What training and evaluation need to know; both read the same prompt and the same answer."""

    name: str
    fields: dict[str, type | tuple]  # the required fields of a row
    prompt: Callable[[Row], str]  # lm-eval's doc_to_text, without a trailing space
    answer: Callable[[Row], str]  # what follows the prompt and one space
    choices: Callable[[Row], list[str]] | None  # lm-eval's doc_to_choice; None: the answer is generated
    label: Callable[[Row], int] | None  # index of the right choice
    metric: str  # the headline: acc, acc_norm, exact_match
    hub: str | None = None  # ORG/NAME[/CONFIGURATION]@REVISION; real tasks only
    generate: Callable[[str, int, int], list[Row]] | None = None  # (split, number, seed) -> rows; mini tasks only
    max_new_tokens: int = 0  # length limit of a generated answer
    few_shot: int = 0  # worked examples, from the training rows, before a prompt that is answered; a loss has none
    classes: tuple[str, ...] = ()  # the choices where all rows have the same: scored class by class, f1 of the last
    problem: Callable[[Row], str | None] | None = None  # what is wrong with a row whose fields have their types
    # Keys of `training` that suit the task; what the user sets replaces them.
    suggested_training: dict[str, int | float] = field(default_factory=dict)

    def check(self, rows: dict[str, list[Row]]) -> None:
        """Check the rows of both splits together, before anything is trained or evaluated.

        Raises InputError where they are too few, or where validation rows cannot tell a right answer from a wrong one."""
        validation = rows["validation"]
        if len(validation) < 2:
            raise InputError(f"{self.name}: one validation example has no standard error", "give two or more")
        if len(rows["train"]) < self.few_shot:
            raise InputError(
                f"{self.name}: {len(rows['train'])} training examples, {self.few_shot} of them stand before every question",
                f"give {self.few_shot} or more",
            )
        if len({self.prompt(row) for row in validation}) == 1:
            raise InputError(
                f"{self.name}: all {len(validation)} validation examples have the same prompt",
                "check the fields of the rows",
            )
        for number, row in enumerate(validation, start=1):
            repeated = [text for text, count in Counter(self.choices(row) if self.choices else ()).items() if count > 1]
            if repeated:
                raise InputError(
                    f"{self.name}: validation example {number} has the choice {repeated[0]!r} twice",
                    "leave the example out, or make its choices differ",
                )
