"""Render the texts of lm-eval's tasks with lm-eval's own code: ConfigurableTask, with the task's templates and
functions."""

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from functools import cache
from importlib.metadata import version

import lm_eval.utils
from datasets import Dataset, disable_progress_bars
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.api.task import ConfigurableTask

from sparseft.axes.tasks.lm_eval import MULTIPLE_CHOICE
from sparseft.axes.tasks.task import Row, SplitRows, Task
from sparseft.common.errors import InputError, one_line
from sparseft.common.limits import limited
from sparseft.data.lm_eval_definitions import config_of
from sparseft.data.rows import checked_row

disable_progress_bars()


@contextmanager
def sandboxed(name: str) -> Iterator[None]:
    """Let lm-eval render the templates of the task `name` in Jinja's sandbox within a `with` block.

    So no template reaches Python's internals or changes a row. A field without a value would become the word None in a
    prompt, so it is an error."""
    environment = lm_eval.utils.env
    sandbox = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, finalize=_refuse_none
    )
    sandbox.filters.update(environment.filters)
    # lm-eval compiles a template once per row.
    sandbox.from_string = cache(sandbox.from_string)  # type: ignore[method-assign, assignment]  # the method of this one sandbox
    lm_eval.utils.env = sandbox
    try:
        yield
    finally:
        lm_eval.utils.env = environment


def _refuse_none(value: object) -> object:
    """Return the value that a template writes. Raises ValueError for None."""
    if value is None:
        raise ValueError("a field of the template has no value")
    return value


def reported(name: str, what: str) -> AbstractContextManager[None]:
    """Raise any error of lm-eval within a `with` block as an InputError of one line. The block has limits of time and
    memory."""
    advice = "give rows in the original fields of the data set, or correct the YAML file"
    return limited(f"tasks.{name}: {what}", f"{name}: lm-eval cannot render {what}", advice)


def harness_definition(task: Task, rows: SplitRows) -> dict:
    """Return lm-eval's definition of a prepared task over `rows`, for its TaskManager."""
    docs = {split: Dataset.from_list([row["doc"] for row in examples]) for split, examples in rows.items()}
    return config_of(task.definition) | {"task": task.name, "custom_dataset": lambda **_: docs}


def check_rendering(lm_task: ConfigurableTask, task: Task, rows: list[Row]) -> None:
    """Raise InputError if lm-eval renders another text of a row than the one that was prepared, and that training
    read."""
    for number, (doc, row) in enumerate(zip(lm_task.eval_docs, rows, strict=True), start=1):
        with reported(task.name, f"validation example {number}"):
            rendered = _row_of(lm_task, doc, task.definition["answer"])
        if any(rendered[key] != row[key] for key in rendered if key != "doc"):
            raise InputError(
                f"{task.name}: lm-eval {version('lm-eval')} gives validation example {number} another text than it was"
                " prepared with",
                "prepare the task again with prepare_task.py, and train again",
            )


def rendered_rows(task: Task, chosen: dict[str, list[tuple[int, dict]]]) -> SplitRows:
    """Return the rows of the chosen documents of each split.

    Raises InputError with the number of one that does not fit, or if there are too few for the few-shot examples."""
    with sandboxed(task.name), redirect_stdout(sys.stderr):
        with reported(task.name, "the first row"):
            # Only text and numbers become rows, and a table holds them with one type per field.
            docs = {
                split: [{"doc": json.loads(json.dumps(doc))} for _, doc in pairs] for split, pairs in chosen.items()
            }
            lm_task = ConfigurableTask(config=harness_definition(task, docs))
            for ensemble in lm_task._filters:
                for make in ensemble.filters:
                    make()
        rows = {
            split: [
                _fitting_row(lm_task, task, part["doc"], f"{split} row {number}")
                for (number, _), part in zip(pairs, docs[split], strict=True)
            ]
            for split, pairs in chosen.items()
        }
        with reported(task.name, f"{task.few_shot} few-shot examples"):
            lm_task.fewshot_context(rows["validation"][0]["doc"], num_fewshot=task.few_shot)
        return rows


def _fitting_row(lm_task: ConfigurableTask, task: Task, doc: dict, place: str) -> Row:
    """Return a document with its texts. Raises InputError if it cannot be trained and scored."""
    with reported(task.name, place):
        row = _row_of(lm_task, doc, task.definition["answer"])
        target = lm_task.config.doc_to_target
        if task.definition["file"] is None and "label" in row and isinstance(target, str) and "{" in target:
            # lm-eval takes a text such as "1" for an index, even if it is the text of a choice.
            text = lm_eval.utils.apply_template(target, doc)
            if text in row["choices"] and row["choices"].index(text) != row["label"]:
                raise ValueError(f"doc_to_target gives {text!r}, which is one choice and the index of another")
    return checked_row(row, task, f"{task.name}, {place}", "correct the row, or leave it out")


def _row_of(lm_task: ConfigurableTask, doc: dict, answer: str | None) -> Row:
    """Return a document with its texts, as lm-eval renders them without few-shot examples.

    `answer` is the field or template of a generated answer that training learns; None means the task's target."""
    prefix = lm_task.doc_to_prefix(doc)
    context = lm_task.fewshot_context(doc, num_fewshot=0, gen_prefix=prefix)
    if lm_task.OUTPUT_TYPE == MULTIPLE_CHOICE:
        return {"doc": doc, **_choice_texts(lm_task, doc, context)}
    delimiter = lm_task.config.target_delimiter
    turns = (
        lm_task.build_qa_turn(q=lm_task.doc_to_text(doc), a=text, gen_prefix=prefix, tgt_delim=delimiter, few_delim="")
        for text in (None, _target(lm_task, doc, answer))
    )
    question, whole = ("".join(message.to_text() for message in turn) for turn in turns)
    if not (context.endswith(question) and whole.startswith(question)):
        raise ValueError("the prompt is not the beginning of the whole text")
    return {"doc": doc, "prompt": context, "answer": whole.removeprefix(question)}


def _choice_texts(lm_task: ConfigurableTask, doc: dict, context: str | list[str]) -> dict:
    """Return the texts of a document with choices. Raises ValueError if the right one is not clear."""
    choices = lm_task.doc_to_choice(doc)
    if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"doc_to_choice gives {one_line(repr(choices))[:100]}, and a list of texts is needed")
    choices = list(choices)
    instances = lm_task.construct_requests(doc=doc, ctx=context, metadata=(lm_task.config.task, 0, 1))
    requests = [list(instance.args) for instance in instances]
    right = lm_task.doc_to_text(doc) if lm_task.multiple_input else lm_task.doc_to_target(doc)
    if isinstance(right, str) and right in choices:
        right = choices.index(right)
    if not isinstance(right, int) or not 0 <= right < len(choices):
        raise ValueError(f"the right choice is {right!r}, and one of {len(choices)} choices is needed")
    prompt, answer = requests[right]
    return {"prompt": prompt, "answer": answer, "requests": requests, "choices": choices, "label": int(right)}


def _target(lm_task: ConfigurableTask, doc: dict, answer: str | None) -> str:
    """Return the text that training learns as a generated answer. Raises InputError if there are several."""
    name = lm_task.config.task
    template = answer or lm_task.config.doc_to_target
    # The text of every answer would be the misspelt name of a field.
    if isinstance(template, str) and "{" not in template and template not in lm_task.features:
        raise InputError(
            f"tasks.{name}: {template!r} is neither a field of the rows nor a template",
            f"name one of the fields {', '.join(lm_task.features)}, or write a template with {{{{ }}}}",
        )
    target = lm_task.resolve_field(doc, answer) if answer else lm_task.doc_to_target(doc)
    if not answer and lm_task.config.doc_to_choice is not None:
        target = lm_task.doc_to_choice(doc)[target]
    if isinstance(target, list):
        raise InputError(
            f"tasks.{name}: a row has several right answers, and training learns one",
            f"set tasks.{name}.answer to a field, or to a template of the text",
        )
    if target is None:
        raise ValueError("the target has no value")
    return str(target)
