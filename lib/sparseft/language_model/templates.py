"""Write conversations as text with a model's chat template, and limit the time, the memory and the text that a template needs.

A template is a program that anybody may have written: a tokenizer's, in chat_template.jinja, or that of one of lm-eval's tasks.
transformers runs a chat template in a sandbox, where it reads only the messages.
"""

import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from sparseft.errors import InputError, one_line
from sparseft.language_model.hardware import private_memory

if TYPE_CHECKING:
    # At run time, this import would come before evaluation/harness.py sets the environment variables of transformers.
    from transformers import PreTrainedTokenizerBase

# Some templates print today's date, and a model would see other tokens tomorrow. This is the date that LLaMA 3.1 prints by
# default.
FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"
# Seconds of the CPU that the templates of a row may need.
SECONDS = 10
# Bytes of further memory that they may need.
_BYTES = 1 << 30


def written_by_template(
    task: str, conversations: list[list[dict[str, str]]], tokenizer: "PreTrainedTokenizerBase"
) -> list[tuple[str, str]]:
    """Return the prompt of each conversation, and its whole text, as the tokenizer's chat template writes them.

    The prompt ends where the last message, which is the assistant's, begins. Raises InputError with the number of the
    row if there is no template, or if it refuses a conversation. It does so too if a whole text does not start with its
    prompt, or lacks a message."""
    try:
        template = tokenizer.get_chat_template()
    # transformers says so if there is none, or if there are several without a default.
    except ValueError:
        raise InputError(
            f"{task}: its rows are conversations, and {tokenizer.name_or_path} has no chat template",
            "put chat_template.jinja into the folder that the model's `source: path:` names (not into models/NAME) and prepare"
            " the model again, or use a model for chats, or write rows of prompt and response",
        ) from None
    if "strftime_now" in template:
        template = FIXED_DATE + template
    write = partial(tokenizer.apply_chat_template, chat_template=template, tokenize=False)
    texts = []
    for number, messages in enumerate(conversations, start=1):
        row = f"{task}, row {number}: the chat template of {tokenizer.name_or_path}"
        try:
            with limited(row):
                prompt = write(messages[:-1], add_generation_prompt=True)
                whole = write(messages)
        except InputError:
            raise
        # The template is a program of the model's author, and may raise anything.
        except Exception as error:
            raise InputError(
                f"{row} refuses the messages ({one_line(error)[:200]})",
                "change the messages, for example leave the system message out, or change the template",
            ) from None
        if not whole.startswith(prompt):
            raise InputError(
                f"{row} writes the earlier messages otherwise if the response follows",
                "use a template that only appends (chat_template.jinja in the folder of `source: path:`), or rows of prompt and response",
            )
        if not _has_every_message(messages, prompt, whole[len(prompt) :]):
            raise InputError(
                f"{row} leaves a message out, or changes its text",
                "use a template that writes every message as it is, or remove from the rows what it does not write",
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


@contextmanager
def limited(what: str) -> Iterator[None]:
    """Raise InputError if a `with` block computes for more than SECONDS, or needs more than 1 GB of further memory.

    The seconds are those of the CPU, so that a busy machine refuses nothing. Python's regular expressions are interrupted too.
    Only Linux limits the memory."""

    def stop(*_: object) -> None:
        raise InputError(
            f"{what} computes for more than {SECONDS} s",
            "write one that ends; a regular expression must not have a repetition in a repetition",
        )

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    handler = signal.signal(signal.SIGVTALRM, stop)
    timer = signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS)
    try:
        if used := private_memory():
            needed = used + _BYTES
            limit = needed if soft == resource.RLIM_INFINITY else min(needed, soft)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        yield
    except MemoryError:
        raise InputError(f"{what} needs more than 1 GB of memory", "write one that makes shorter texts") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
