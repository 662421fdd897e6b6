"""Define a task of prompts with their responses, or of conversations. The loss is on the response.

All rows of a task have one format:

    response   {"prompt": TEXT, "response": TEXT}
    messages   {"messages": [{"role": "system" or "user" or "assistant", "content": TEXT}, ...]}

The text of a conversation depends on the model, whose chat template writes it (models/language_model/batches.py). Its
response is the last message.
"""

import json
from dataclasses import replace
from operator import itemgetter

from sparseft.axes.tasks.metrics import LOSS, TOKEN_PERPLEXITY
from sparseft.axes.tasks.task import Lengths, Row, Task

# Raise it when the prompts, answers or rows of such a task change.
version = 1
# Guesses for the estimates, until the data are prepared.
LENGTHS = Lengths(rows=(1000, 1000), mean=300, long=1000, answer=150, choices=0)


def task_of(name: str, definition: dict) -> Task:
    """Return the task that a definition describes: its `format` is "response" or "messages"."""
    task = Task(
        name=name,
        fields={"prompt": str, "response": str},
        filled=("prompt", "response"),
        prompt=itemgetter("prompt"),
        answer=itemgetter("response"),
        # The whole text is the prompt and the response as they are written.
        delimiter="",
        moves_spaces=False,
        headline=LOSS,
        metrics=(LOSS, TOKEN_PERPLEXITY),
        definition=definition,
    )
    if definition["format"] == "response":
        return task
    return replace(
        task,
        fields={"messages": list},
        filled=(),
        problem=_problem_of_messages,
        # What comes before the last message, as JSON, to compare rows by it.
        prompt=lambda row: json.dumps(row["messages"][:-1], ensure_ascii=False),
        answer=lambda row: row["messages"][-1]["content"],
        messages=itemgetter("messages"),
    )


def _problem_of_messages(row: Row) -> str | None:
    """Return what is wrong with a conversation, or None. Only a system message may be empty."""
    roles = []
    for number, message in enumerate(row["messages"], start=1):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            return f"message {number} must be an object with role and content, and nothing else"
        if not isinstance(message["content"], str) or not (message["role"] == "system" or message["content"].strip()):
            return f"message {number} has no text as its content"
        roles.append(message["role"])
    turns = roles[1:] if roles[:1] == ["system"] else roles
    # Turns are pairs of user and assistant.
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        return (
            f"the roles are {', '.join(map(str, roles)) or 'none'}: after at most one system message, user and"
            " assistant must alternate, and the last message must be the assistant's"
        )
    return None
