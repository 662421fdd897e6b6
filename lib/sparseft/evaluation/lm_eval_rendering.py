"""Render the texts of lm-eval's tasks with lm-eval's own code: ConfigurableTask, with the task's templates and functions."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import chain

import lm_eval.utils
from datasets import Dataset
from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.api.task import ConfigurableTask
from lm_eval.api.utils import Message

from sparseft.errors import InputError, one_line
from sparseft.evaluation.lm_eval_checks import check_filters, check_metrics, check_values
from sparseft.evaluation.lm_eval_yaml import check_functions, with_functions
from sparseft.language_model.limits import check_length, limited
from sparseft.tasks.from_lm_eval import MULTIPLE_CHOICE
from sparseft.tasks.metrics import F1
from sparseft.tasks.rows import problem_of
from sparseft.tasks.task import Row, Task


class _Sandbox(ImmutableSandboxedEnvironment):
    """Render templates as lm-eval does, but let none reach Python's internals or change a row, and compile each one once.

    A field without a value would become the word None in a prompt, so it is an error. Nothing random is there, because an
    evaluation must give the texts that training read. Time, memory and texts have limits."""

    def __init__(self, name: str) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_refuse_none)
        self.filters.update(lm_eval.utils.env.filters)
        del self.filters["random"]
        del self.globals["lipsum"]
        self.name = name
        self.from_string = cache(self._limited_template)

    def _limited_template(self, source: str) -> "_LimitedTemplate":
        """Return a template. Compiling it computes what is constant in it."""
        what = f"tasks.{self.name}: the template {source[:100]!r}"
        with limited(what):
            return _LimitedTemplate(what, super().from_string(source))


@dataclass(frozen=True)
class _LimitedTemplate:
    """Render a template within limits. `what` names it in errors."""

    what: str
    template: Template

    def render(self, **fields: object) -> str:
        """Return the text of a row. Raises InputError if it is too long, or if it needs too much time or memory."""
        with limited(self.what):
            text = self.template.render(**fields)
        check_length(self.what, text)
        return text


def _refuse_none(value: object) -> object:
    """Return the value that a template writes. Raises ValueError for None."""
    if value is None:
        raise ValueError("a field of the template has no value")
    return value


@contextmanager
def sandboxed(name: str) -> Iterator[None]:
    """Let lm-eval render the templates of the task `name` in a sandbox within a `with` block."""
    environment = lm_eval.utils.env
    lm_eval.utils.env = _Sandbox(name)
    try:
        yield
    finally:
        lm_eval.utils.env = environment


def harness_definition(task: Task, rows: dict[str, list[Row]]) -> dict:
    """Return lm-eval's definition of a prepared task over `rows`, for its TaskManager."""
    docs = {split: Dataset.from_list([row["doc"] for row in examples]) for split, examples in rows.items()}
    # A folder of data may come from anybody.
    check_functions(task.definition)
    check_values(task.definition["yaml"], task.name, is_own=task.definition["file"] is None)
    check_metrics(task.definition["yaml"], task.name)
    config = with_functions(task.definition["yaml"])
    # lm-eval cannot compute the f1 of choice 1 if that is never right.
    if task.classes and all(row.get("label") == 0 for row in rows["validation"]):
        config["metric_list"] = [entry for entry in config["metric_list"] if entry["metric"] != F1.name]
    return config | {"task": task.name, "custom_dataset": lambda **_: docs}


def check_rendering(lm_task: ConfigurableTask, task: Task, rows: list[Row]) -> None:
    """Raise InputError if lm-eval renders another text of a row than the one that was prepared, and that training read."""
    for number, (doc, row) in enumerate(zip(lm_task.eval_docs, rows, strict=True), start=1):
        with reported(task.name, f"validation example {number}"):
            rendered = _row_of(lm_task, doc, task.definition["answer"])
        if any(rendered[key] != row[key] for key in rendered if key != "doc"):
            raise InputError(
                f"{task.name}: lm-eval {version('lm-eval')} gives validation example {number} another text than it was prepared with",
                "prepare the task again with prepare_task.py, and train again",
            )


def rendered_rows(task: Task, chosen: dict[str, list[tuple[int, dict]]]) -> dict[str, list[Row]]:
    """Return the rows of the chosen documents of each split. Raises InputError with the number of one that does not fit."""
    docs = {split: [{"doc": _plain(task.name, doc)} for _, doc in pairs] for split, pairs in chosen.items()}
    with sandboxed(task.name), redirect_stdout(sys.stderr):
        with reported(task.name, "the first row"):
            lm_task = ConfigurableTask(config=harness_definition(task, docs))
        if lm_task.OUTPUT_TYPE != MULTIPLE_CHOICE:
            check_filters(lm_task, task.name, lm_task.eval_docs[0])
        rows = {}
        for split, pairs in chosen.items():
            rows[split] = []
            for (number, _), part in zip(pairs, docs[split], strict=True):
                with reported(task.name, f"{split} row {number}"):
                    row = _row_of(lm_task, part["doc"], task.definition["answer"])
                    if task.definition["file"] is None:
                        _refuse_two_meanings(lm_task, part["doc"], row)
                place = f"{task.name}, {split} row {number}"
                if problem := problem_of(row, task):
                    raise InputError(f"{place}: {problem}", "correct the row, or leave it out")
                check_length(place, row["prompt"], row["answer"], *chain.from_iterable(row.get("requests", [])))
                rows[split].append(row)
    return rows


def check_worked_examples(task: Task, rows: dict[str, list[Row]]) -> None:
    """Raise InputError if lm-eval finds too few rows for the worked examples before a question."""
    if not task.few_shot:
        return
    with sandboxed(task.name), redirect_stdout(sys.stderr), reported(task.name, "the worked examples"):
        lm_task = ConfigurableTask(config=harness_definition(task, rows))
        copies = Counter(json.dumps(doc, sort_keys=True, default=str) for doc in lm_task.sampler.fewshot_docs())
    # If worked examples come from the evaluated rows, lm-eval leaves out the question itself and all of its copies.
    left_out = max(copies.values(), default=0) if lm_task.fewshot_cfg.split == lm_task.config.test_split else 0
    if copies.total() - left_out < task.few_shot:
        raise InputError(
            f"{task.name}: num_fewshot is {task.few_shot}, but lm-eval finds only {copies.total() - left_out} other rows to"
            " put before a question",
            "give more rows, or lower num_fewshot in the YAML file",
        )


def _refuse_two_meanings(lm_task: ConfigurableTask, doc: dict, row: Row) -> None:
    """Raise InputError if the rendered target is the text of one choice, but lm-eval takes it for the index of another."""
    target = lm_task.config.doc_to_target
    if lm_task.multiple_input or "label" not in row or not isinstance(target, str) or target in lm_task.features:
        return
    text = lm_eval.utils.apply_template(target, doc)
    if text in row["choices"] and row["choices"].index(text) != row["label"]:
        raise InputError(
            f"tasks.{lm_task.config.task}: doc_to_target gives {text!r}, which is choice {row['choices'].index(text) + 1},"
            f" but lm-eval takes it for the index of choice {row['label'] + 1}",
            "set doc_to_target to the name of a field with the choice, or with its index from 0",
        )


def _plain(name: str, doc: dict) -> dict:
    """Return a document as its file of rows will hold it. Raises InputError if it holds more than text and numbers."""
    try:
        return json.loads(json.dumps(doc))
    except TypeError as error:
        raise InputError(f"{name}: a row holds more than text and numbers ({error})", "name a task of text") from None


@contextmanager
def reported(name: str, what: str) -> Iterator[None]:
    """Raise any error of lm-eval within a `with` block as an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    # The templates and functions of a task may raise anything.
    except Exception as error:
        raise InputError(
            f"{name}: lm-eval cannot render {what} ({type(error).__name__}: {one_line(error)[:200]})",
            "give rows in the original fields of the data set, or correct the templates of the YAML file",
        ) from None


def _row_of(lm_task: ConfigurableTask, doc: dict, answer: str | None) -> Row:
    """Return a document with its texts, as lm-eval renders them without worked examples.

    `answer` is the field or template of a generated answer that training learns; None means the task's target."""
    prefix = lm_task.doc_to_prefix(doc)
    context = lm_task.fewshot_context(doc, num_fewshot=0, gen_prefix=prefix)
    if lm_task.OUTPUT_TYPE == MULTIPLE_CHOICE:
        return {"doc": doc, **_choice_texts(lm_task, doc, context)}
    question, whole = (
        "".join(message.to_text() for message in _turn(lm_task, doc, prefix, text))
        for text in (None, _target(lm_task, doc, answer))
    )
    if not (context.endswith(question) and whole.startswith(question)):
        raise ValueError("the prompt is not the beginning of the whole text")
    return {"doc": doc, "prompt": context, "answer": whole.removeprefix(question)}


def _turn(lm_task: ConfigurableTask, doc: dict, prefix: str | None, answer: str | None) -> list[Message]:
    """Return a question as lm-eval's messages, with its answer unless that is None."""
    delimiter = lm_task.config.target_delimiter
    return lm_task.build_qa_turn(
        q=lm_task.doc_to_text(doc), a=answer, gen_prefix=prefix, tgt_delim=delimiter, few_delim=""
    )


def _choice_texts(lm_task: ConfigurableTask, doc: dict, context: str | list[str]) -> dict:
    """Return the texts of a document with choices."""
    choices = lm_task.doc_to_choice(doc)
    if not isinstance(choices, list | tuple):
        raise ValueError(f"doc_to_choice gives {one_line(repr(choices))[:100]}, and a list is needed")
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
    _refuse_constant(lm_task, answer or lm_task.config.doc_to_target)
    if answer:
        text = lm_task.resolve_field(doc, answer)
        if text is None:
            raise ValueError(f"the answer {answer!r} has no value")
        return str(text)
    target = lm_task.doc_to_target(doc)
    if lm_task.config.doc_to_choice is not None:
        target = lm_task.doc_to_choice(doc)[target]
    if isinstance(target, list):
        name = lm_task.config.task
        raise InputError(
            f"tasks.{name}: a row has several right answers, and training learns one",
            f"set tasks.{name}.answer to a field, or to a template of the text",
        )
    if target is None:
        raise ValueError("the target has no value")
    return str(target)


def _refuse_constant(lm_task: ConfigurableTask, template: object) -> None:
    """Raise InputError if the text of every answer would be the template itself, as with the name of a field that is not there."""
    if isinstance(template, str) and "{" not in template and template not in lm_task.features:
        raise InputError(
            f"tasks.{lm_task.config.task}: {template!r} is neither a field of the rows nor a template",
            f"name one of the fields {', '.join(lm_task.features)}, or write a template with {{{{ }}}}",
        )
