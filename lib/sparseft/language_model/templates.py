"""Write conversations as text with a model's chat template.

A template is a program that anybody may have written. transformers runs it in a sandbox, where it reads only the messages.
"""

import re
from functools import partial
from typing import TYPE_CHECKING

from sparseft.errors import InputError, one_line

if TYPE_CHECKING:
    # At run time, this import would come before evaluation/harness.py sets the environment variables of transformers.
    from transformers import PreTrainedTokenizerBase

# Some templates print today's date, and a model would see other tokens tomorrow. This is the date that LLaMA 3.1 prints by
# default.
FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


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
            prompt = write(messages[:-1], add_generation_prompt=True)
            whole = write(messages)
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
