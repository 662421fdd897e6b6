"""Run lm-eval as a library (github.com/EleutherAI/lm-evaluation-harness), on the prompts that training reads.

lm-eval gets the functions of a built-in task as they are, and the definition of any other (data/lm_eval_rendering.py).
lm-eval applies the filters, and computes the metrics and the standard errors.
"""

import random
import sys
from contextlib import redirect_stdout
from itertools import groupby
from operator import attrgetter

import numpy as np
import torch
from datasets import Dataset
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from sparseft.axes.tasks.lm_eval import FROM_LOG_LIKELIHOODS, NO_FILTER
from sparseft.axes.tasks.metrics import F1
from sparseft.axes.tasks.task import SplitRows, Task
from sparseft.data.lm_eval_definitions import own_config
from sparseft.data.lm_eval_rendering import check_rendering, harness_definition, sandboxed
from sparseft.evaluation.scoring import BOOTSTRAP
from sparseft.models.language_model.batches import continues, refuse_indivisible, refuse_longer, refuse_rows

# The filter that the headline metric of a generated answer takes, wherever it stands in lm-eval's list.
_STRICT = "strict-match"
# lm-eval's own seed of the few-shot examples, of numpy and of torch.
_SEED = 1234


class StrictLM(HFLM):
    """Run lm-eval's model, and refuse the rows that lm-eval would score wrongly without a word.

    lm-eval would cut a prompt that is longer than the context. It would also score a prompt whose tokens merge with
    those of the answer. The same is true of a prompt of which training reads other tokens, and of two choices with the
    same tokens. An error gives the number of the first such row."""

    def loglikelihood(self, requests: list[Instance], *args, **options) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each choice in nats, and whether greedy decoding gives it.

        Raises InputError with the number of the first row that cannot be scored."""
        name = requests[0].task_name
        lengths, are_divisible, are_foreign, have_equal_choices = [], [], [], []
        for _, row in groupby(requests, attrgetter("doc_id")):
            texts = [request.args for request in row]
            pairs = [self._encode_pair(*text) for text in texts]
            wholes = [self.tok_encode("".join(text)) for text in texts]
            lengths.append(max(map(len, wholes)))
            are_divisible.append(all(continues(start, whole) for (start, _), whole in zip(pairs, wholes, strict=True)))
            # lm-eval leaves out the first token of a text that begins with the letters of this token.
            prompts = [self.tokenizer.encode(prompt.rstrip()) for prompt, _ in texts]
            are_foreign.append(prompts != [prompt for prompt, _ in pairs])
            have_equal_choices.append(len({(*prompt, None, *choice) for prompt, choice in pairs}) < len(pairs))
        refuse_longer(f"{name}: validation prompts with their choices", lengths, self.max_length)
        refuse_indivisible(name, are_divisible)
        advice = f"remove {self.tokenizer.bos_token} from the beginning of the text"
        refuse_rows(f"{name}: lm-eval reads other tokens of a prompt than training", are_foreign, advice)
        advice = "use the tokenizer of the model, or make the choices of an example differ"
        refuse_rows(f"{name}: two choices have the same tokens", have_equal_choices, advice)
        return super().loglikelihood(requests, *args, **options)

    def generate_until(self, requests: list[Instance], *args, **options) -> list[str]:
        """Return the generated text of each prompt. Raises InputError with the number of the first that cannot be
        answered."""
        name = requests[0].task_name
        texts, settings = zip(*(request.args for request in requests), strict=True)
        new_tokens = [normalize_gen_kwargs(setting, self.max_gen_toks)["max_gen_toks"] for setting in settings]
        prompts = [self.tok_encode(text) for text in texts]
        what = f"{name}: validation prompts with their few-shot examples and {max(new_tokens)} tokens for the answer"
        lengths = [len(prompt) + number for prompt, number in zip(prompts, new_tokens, strict=True)]
        refuse_longer(what, lengths, self.max_length)
        # Any answer can stand here, because only the tokens of the prompt are compared.
        wholes = [self.tok_encode(f"{text} 1") for text in texts]
        refuse_indivisible(name, [continues(*pair) for pair in zip(prompts, wholes, strict=True)])
        return super().generate_until(requests, *args, **options)


def run_harness(lm: HFLM, task: Task, rows: SplitRows) -> tuple[dict[str, float | None], list[dict], list[float]]:
    """Evaluate a model with lm-eval on rows["validation"].

    Return lm-eval's metrics and standard errors by name. Return also its samples for the headline metric, and the
    outcomes of this metric, both in the order of the rows. Raises InputError if lm-eval renders other texts than
    training read."""
    definition = task_definition(task, rows)
    # f1 is that of choice 1, and lm-eval cannot compute it if choice 1 is never right.
    if task.classes and task.label and not any(map(task.label, rows["validation"])):
        definition["metric_list"] = [entry for entry in definition["metric_list"] if entry["metric"] != F1.name]
    # lm-eval prints, for example that the bootstrap runs.
    with sandboxed(task.name), redirect_stdout(sys.stderr):
        lm_task = ConfigurableTask(config=definition)
        if task.definition:
            check_rendering(lm_task, task, rows["validation"])
        # As `simple_evaluate` does, which would also start `pip list` and other programs to describe the machine.
        random.seed(0)
        np.random.seed(_SEED)
        torch.manual_seed(_SEED)
        lm_task.set_fewshot_seed(_SEED)
        result = evaluator.evaluate(lm=lm, task_dict={task.name: lm_task}, bootstrap_iters=BOOTSTRAP)
    entries = {entry["name"]: entry for entry in task.definition.get("metrics", ())}
    first_filter = next((entry["filter"] for entry in entries.values()), NO_FILTER if task.choices else _STRICT)
    headline = entries.get(task.metric, {"metric": task.metric, "filter": first_filter})
    samples = [sample for sample in result["samples"][task.name] if sample["filter"] == headline["filter"]]
    samples.sort(key=lambda sample: sample["doc_id"])
    metrics: dict[str, float | None] = {}
    # lm-eval calls its numbers `METRIC,FILTER`. Here they are METRIC, or METRIC_FILTER for another filter than the
    # first.
    for key, value in result["results"][task.name].items():
        metric, _, filter_name = key.partition(",")
        name = metric if filter_name == first_filter else f"{metric}_{filter_name}"
        if isinstance(value, int | float):
            metrics[name] = float(value)
    return metrics, samples, [float(sample[headline["metric"]]) for sample in samples]


def task_definition(task: Task, rows: SplitRows) -> dict:
    """Return lm-eval's definition of the task over `rows` (docs/task_guide.md in lm-eval's repository)."""
    if task.definition:
        return harness_definition(task, rows)
    # A label may be a text in one row and a number in another, and a column of a table has one type. Other fields than
    # the required ones may fit into no table.
    fields = {
        split: [{name: int(row[name]) if name == "label" else row[name] for name in task.fields} for row in examples]
        for split, examples in rows.items()
    }
    definition = {
        "task": task.name,
        "custom_dataset": lambda **_: {split: Dataset.from_list(examples) for split, examples in fields.items()},
        "training_split": "train",
        "validation_split": "validation",
        "fewshot_split": "train",
        "num_fewshot": task.few_shot,
        "doc_to_text": task.prompt,
        "target_delimiter": " ",
    }
    if task.choices and task.label:
        return definition | {
            "output_type": "multiple_choice",
            "doc_to_choice": task.choices,
            "doc_to_target": task.label,
            # lm-eval knows no recall and no majority_floor.
            "metric_list": [{"metric": one.name} for one in FROM_LOG_LIKELIHOODS.values() if one in task.metrics],
        }
    # Generated answers have the filters, the metric and the ends of lm-eval's own gsm8k (scoring.py).
    stock = own_config("gsm8k/gsm8k.yaml")
    generation = {name: stock["generation_kwargs"][name] for name in ("until", "do_sample")}
    return definition | {
        "output_type": "generate_until",
        "doc_to_target": task.answer,
        "generation_kwargs": generation | {"max_gen_toks": task.max_new_tokens},
        "metric_list": stock["metric_list"],
        "filter_list": stock["filter_list"],
    }
