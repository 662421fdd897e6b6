"""Write conversations as text with a model's chat template.

The template is a Jinja program in the model's folder. transformers runs it in a sandbox, where it reads only the messages.
"""

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
    row if there is no template, if it refuses a conversation, or if a whole text does not start with its prompt."""
    template = _template_of(task, tokenizer)
    texts = []
    for number, messages in enumerate(conversations, start=1):
        row = f"{task}, row {number}: the chat template of {tokenizer.name_or_path}"
        try:
            prompt = _write(messages[:-1], tokenizer, template, is_prompt=True)
            whole = _write(messages, tokenizer, template, is_prompt=False)
        # The template is a program of the model's author, and may raise anything.
        except Exception as error:
            raise InputError(
                f"{row} refuses the messages ({one_line(error)[:200]})",
                "change the messages, for example leave the system message out, or change the template",
            ) from None
        if not whole.startswith(prompt):
            raise InputError(
                f"{row} writes the earlier messages otherwise if the response follows",
                "use a template that only appends (chat_template.jinja in the model's folder), or rows of prompt and response",
            )
        texts.append((prompt, whole))
    return texts


def _write(
    messages: list[dict[str, str]], tokenizer: "PreTrainedTokenizerBase", template: str, *, is_prompt: bool
) -> str:
    """Return messages as text. A prompt ends in what the template puts before a response."""
    return tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=is_prompt, tokenize=False
    )


def _template_of(task: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the tokenizer's chat template, with a fixed date. Raises InputError if there is none."""
    try:
        template = tokenizer.get_chat_template()
    # transformers says so if there is none, or if there are several without a default.
    except ValueError:
        raise InputError(
            f"{task}: its rows are conversations, and {tokenizer.name_or_path} has no chat template",
            "use a model for chats, put a chat_template.jinja into the model's folder, or write rows of prompt and response",
        ) from None
    return FIXED_DATE + template if "strftime_now" in template else template
