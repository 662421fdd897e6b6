"""Encode examples as token ids, and divide them into batches. The loss is only on the answers.

The model's chat template writes a conversation as text.

Tokens are split into prompt and answer as lm-eval splits context and continuation (lm_eval/api/model.py, _encode_pair).
So training sees exactly the tokens that evaluation scores. In a sequence of general text, every token but the first
counts as the answer.
"""

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sparseft.axes.tasks.task import DOCUMENT_BREAK, WINDOW, Row, SplitRows, Task
from sparseft.common.errors import InputError
from sparseft.common.limits import limited

# Some templates print today's date, and a model would see other tokens tomorrow. This is the date that LLaMA 3.1 prints
# by default.
FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


@dataclass(frozen=True)
class Example:
    """Hold the token ids of a prompt and its answer. The answer starts at `answer_start`."""

    ids: list[int]
    answer_start: int


@dataclass(frozen=True)
class Batch:
    """Hold a batch: `ids` int64 (B, T), padded on the right, and the tokens of the answers, `targets` int64 (N,).

    Each target is the token after its position, in `positions` int64 (N,), of the flattened ids (B * T,)."""

    ids: Tensor
    positions: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on `device`. A GPU copies it while it still computes."""
        tensors = [self.ids, self.positions, self.targets]
        if device.type == "cuda":
            # From other memory than pinned, a copy waits until the GPU has finished its work.
            tensors = [tensor.pin_memory() for tensor in tensors]
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def encode(rows: list[Row], task: Task, tokenizer, max_length: int) -> list[Example]:
    """Return the examples of the rows as token ids.

    A response or a generated answer ends in the end-of-sequence token. A choice does not, and a chat template writes
    the end of a message itself.
    Documents become sequences of task.sequence_length tokens, and windows stay as they are.

    Raises InputError if the tokens do not divide into prompt and answer, or if an example has more than `max_length`
    tokens, because nothing is cut silently."""
    if task.fields == WINDOW.fields:
        refuse_longer(f"{task.name}: windows", [len(row["ids"]) for row in rows], max_length)
        return [Example(row["ids"], row["answer_start"]) for row in rows]
    if task.sequence_length:
        return _sequences(rows, task, tokenizer, max_length)
    end = [tokenizer.eos_token_id] if task.choices is None and not task.messages else []
    # A chat template also writes the first token of a text.
    ids_of = partial(tokenizer.encode, add_special_tokens=not task.messages)
    pairs = [(ids_of(prompt), ids_of(whole)) for prompt, whole in _texts(rows, task, tokenizer)]
    refuse_indivisible(task.name, [continues(*pair) for pair in pairs])
    examples = [Example(whole + end, len(prompt)) for prompt, whole in pairs]
    refuse_longer(f"{task.name}: examples", [len(example.ids) for example in examples], max_length)
    return examples


def encode_splits(
    rows: SplitRows, task: Task, tokenizer, max_length: int, train_on_inputs: bool
) -> dict[str, list[Example]]:
    """Return the examples of a training by split. Raises InputError as `encode` does.

    With `train_on_inputs`, every token of a training example but the first counts as its answer."""
    data = {split: encode(of_split, task, tokenizer, max_length) for split, of_split in rows.items()}
    if train_on_inputs:
        data["train"] = [replace(example, answer_start=1) for example in data["train"]]
    return data


def _texts(rows: list[Row], task: Task, tokenizer) -> list[tuple[str, str]]:
    """Return the prompt of each row, and the whole text with the answer."""
    if task.messages:
        return written_by_template(task.name, [task.messages(row) for row in rows], tokenizer)
    texts = []
    for row in rows:
        prompt = task.prompt(row)
        whole = f"{prompt}{task.delimiter}{task.answer(row)}"
        # lm-eval moves the spaces at the end of a prompt to the answer.
        texts.append((prompt.rstrip() if task.moves_spaces else prompt, whole))
    return texts


def written_by_template(task: str, conversations: list[list[dict[str, str]]], tokenizer) -> list[tuple[str, str]]:
    """Return the prompt of each conversation, and its whole text, as the tokenizer's chat template writes them.

    A template is a program that anybody may have written. transformers runs it in a sandbox, where it reads only the
    messages. The prompt ends where the last message, which is the assistant's, begins. Raises InputError with the
    number of the row if the template refuses a conversation, or if a whole text does not start with its prompt, or
    lacks a message. transformers raises ValueError if there is no template."""
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = FIXED_DATE + template
    write = partial(tokenizer.apply_chat_template, chat_template=template, tokenize=False)
    advice = "change the messages, for example leave the system message out, or change the template"
    texts = []
    for number, messages in enumerate(conversations, start=1):
        row = f"{task}, row {number}: the chat template of {tokenizer.name_or_path}"
        with limited(row, f"{row} refuses the messages", advice):
            prompt = write(messages[:-1], add_generation_prompt=True)
            whole = write(messages)
        if not whole.startswith(prompt) or not _has_every_message(messages, prompt, whole[len(prompt) :]):
            raise InputError(
                f"{row} leaves a message out, changes its text, or writes it otherwise before a response",
                "use a template that only appends messages as they are (chat_template.jinja in the folder of"
                " `source: path:`), or rows of prompt and response",
            )
        texts.append((prompt, whole))
    return texts


def _has_every_message(messages: list[dict[str, str]], prompt: str, response: str) -> bool:
    """Return whether all earlier messages stand in the prompt in order, and the last one in the response.

    A template may remove the blanks around a message."""
    *earlier, last = [message["content"].strip() for message in messages]
    orders = [earlier]
    if messages[0]["role"] == "system":
        # Some of Mistral's templates write the system message before the last message of the user.
        orders.append([*earlier[1:-1], earlier[0], earlier[-1]])
    return last in response and any(
        re.search(".*?".join(map(re.escape, order)), prompt, re.DOTALL) is not None for order in orders
    )


def _sequences(rows: list[Row], task: Task, tokenizer, max_length: int) -> list[Example]:
    """Return documents as sequences of task.sequence_length tokens.

    The text is tokenised once, as for a perplexity (evaluation/evaluate.py). So a token that the tokenizer puts before
    every text is only in the first sequence. Raises InputError if the model takes no such sequence, or for fewer than
    two, because one has no standard error."""
    length = task.sequence_length
    if length > max_length:
        raise InputError(
            f"tasks.{task.name}.length is {length} tokens, but the model takes {max_length}",
            f"set it to {max_length} or less",
        )
    ids = tokenizer.encode(DOCUMENT_BREAK.join(row["text"] for row in rows), verbose=False)
    if len(ids) < 2 * length:
        raise InputError(
            f"{task.name}: a split has {len(ids)} tokens, which are fewer than two sequences of {length}",
            f"give more text, or lower tasks.{task.name}.length",
        )
    return [Example(ids[start : start + length], 1) for start in range(0, len(ids) - length + 1, length)]


def continues(prompt: list[int], whole: list[int]) -> bool:
    """Return whether `whole`, the ids of prompt and answer, starts with the ids of the prompt and has more."""
    return 0 < len(prompt) < len(whole) and whole[: len(prompt)] == prompt


def refuse_indivisible(task: str, divisible: list[bool]) -> None:
    """Raise InputError if rows are not `divisible` into the tokens of the prompt and those of the answer.

    If a tokenizer ends every text with a special token, only that token would be scored."""
    refuse_rows(
        f"{task}: prompt and answer do not start with the tokens of the prompt, or the answer has no token,",
        [not is_divisible for is_divisible in divisible],
        "use a tokenizer that appends no token to a text, and that does not join the prompt and the answer in one token"
        " (post_processor and pre_tokenizer in tokenizer.json); in data of your own, let the spaces and line"
        " breaks between the two be all in one of them",
    )


def refuse_rows(what: str, wrong: list[bool], advice: str) -> None:
    """Raise InputError if rows are `wrong`, with their count and the number of the first."""
    if any(wrong):
        first = wrong.index(True) + 1
        raise InputError(f"{what} in {sum(wrong)} of {len(wrong)} rows, the first is number {first}", advice)


def refuse_longer(
    what: str,
    lengths: list[int],
    limit: int,
    advice: str = "remove them from the data, or use a model with a longer context",
) -> None:
    """Raise InputError if `lengths`, in tokens, exceed `limit`; with their count, the first and the longest."""
    what = f"{what} have more than {limit} tokens (the longest {max(lengths)})"
    refuse_rows(what, [length > limit for length in lengths], advice)


def of_length(example: Example, length: int) -> Example:
    """Return an example of exactly `length` tokens: the last ones of the example, which is repeated if it is shorter.

    Its answer has as many tokens, unless it is cut."""
    repeats = math.ceil(length / len(example.ids))
    ids = (example.ids * repeats)[-length:]
    return Example(ids, max(1, length - len(example.ids) + example.answer_start))


def collate(examples: list[Example], multiple: int = 1) -> Batch:
    """Return the examples as one batch, padded on the right with 0 to a `multiple` of tokens.

    Causal attention lets no real token see a padded one, so no mask is needed."""
    width = max(len(example.ids) for example in examples)
    width += -width % multiple
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    positions: list[int] = []
    targets: list[int] = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        # Each position predicts the token that follows it.
        before = row * width - 1
        positions += range(before + example.answer_start, before + len(example.ids))
        targets += example.ids[example.answer_start :]
    return Batch(ids, torch.tensor(positions), torch.tensor(targets))


def shuffled(examples: list[Example], size: int, buckets: int, seed: int) -> Iterator[list[Example]]:
    """Yield batches of `size` examples without end. Every epoch is a new permutation of the examples.

    Examples that fill no batch go into the first batch of the next epoch. The others are sorted by length within
    windows of `buckets` batches, and the batches of a window come in random order. Batches depend on the
    seed and not on the mode, so that a comparison of modes compares only modes."""
    generator = random.Random(seed)
    window = size * buckets
    left_over: list[Example] = []
    while True:
        epoch = generator.sample(examples, len(examples))
        missing = -len(left_over) % size
        first, epoch = left_over + epoch[:missing], epoch[missing:]
        # There are fewer examples than a batch holds, so the next epoch has to fill it.
        if len(first) % size:
            left_over = first
            continue
        end = len(epoch) // size * size
        epoch, left_over = epoch[:end], epoch[end:]
        if first:
            yield first
        for start in range(0, end, window):
            by_length = sorted(epoch[start : start + window], key=lambda example: len(example.ids))
            batches = [by_length[begin : begin + size] for begin in range(0, len(by_length), size)]
            yield from generator.sample(batches, len(batches))
