"""Define a task of prompts with their responses, or of conversations. The loss is on the response.

All rows of a task have one format:

    response   {"prompt": TEXT, "response": TEXT}
    messages   {"messages": [{"role": "system" or "user" or "assistant", "content": TEXT}, ...]}

The text of a conversation depends on the model, whose chat template writes it (language_model/chat.py). Its response is the
last message.
"""

import json
from pathlib import Path

from sparseft.errors import InputError
from sparseft.tasks.data_source import Examples, OwnData, load_examples
from sparseft.tasks.metrics import LOSS, TOKEN_PERPLEXITY
from sparseft.tasks.rows import read_row_text
from sparseft.tasks.task import Row, RowFormat, Task

ROLES = ("system", "user", "assistant")


def load_own_examples(name: str, data: OwnData) -> Examples:
    """Return the examples in the folder data.local: train.jsonl and validation.jsonl.

    Raises InputError if a file is missing, or if a row does not have the format of the first training row."""
    folder = Path(data.local)
    task = task_of(name, {"kind": "instruction", "format": format_of(name, folder / "train.jsonl")})
    return load_examples(task, data.numbers, data.seed, folder, None)


def task_of(name: str, definition: dict) -> Task:
    """Return the task that a definition describes: its `format` is "response" or "messages"."""
    formats = {"response": _response_task, "messages": _messages_task}
    if definition.get("format") not in formats:
        raise InputError(f"{name}: unknown format {definition.get('format')!r}", "prepare the task again")
    return formats[definition["format"]](name, definition)


def format_of(name: str, path: Path) -> str:
    """Return the format of the first row of a task's file."""
    text = read_row_text(path, RowFormat(name=name, fields={}, advice=_advice(name)))
    try:
        row = json.loads(text.strip().partition("\n")[0])
    # The reader of the rows reports the line that is wrong.
    except (ValueError, RecursionError):
        row = {}
    return "messages" if isinstance(row, dict) and "messages" in row else "response"


def _response_task(name: str, definition: dict) -> Task:
    """Return a task of prompts and responses. The whole text is the prompt and the response as they are written."""
    return Task(
        name=name,
        fields={"prompt": str, "response": str},
        problem=_response_problem,
        advice=_advice(name, " (the first training row has no messages)"),
        prompt=lambda row: row["prompt"],
        answer=lambda row: row["response"],
        delimiter="",
        moves_spaces=False,
        headline=LOSS,
        metrics=(LOSS, TOKEN_PERPLEXITY),
        definition=definition,
    )


def _messages_task(name: str, definition: dict) -> Task:
    """Return a task of conversations. Its prompt is what comes before the last message, as JSON, to compare rows by it."""
    return Task(
        name=name,
        fields={"messages": list},
        problem=_messages_problem,
        advice=_advice(name, " (the first training row has messages)"),
        prompt=lambda row: json.dumps(row["messages"][:-1], ensure_ascii=False),
        answer=lambda row: row["messages"][-1]["content"],
        messages=lambda row: row["messages"],
        headline=LOSS,
        metrics=(LOSS, TOKEN_PERPLEXITY),
        definition=definition,
    )


def _advice(name: str, first_row: str = "") -> str:
    """Return what every line of a task's files must hold, with what the first row holds."""
    return f"write one {name!r} row per line as JSON, all with prompt and response, or all with messages{first_row}"


def _response_problem(row: Row) -> str | None:
    """Return which field of a prompt and its response is empty, or None."""
    empty = [field for field in ("prompt", "response") if not row[field].strip()]
    return f"field {empty[0]!r} is empty" if empty else None


def _messages_problem(row: Row) -> str | None:
    """Return what is wrong with a conversation, or None."""
    for number, message in enumerate(row["messages"], start=1):
        if problem := _message_problem(message):
            return f"message {number} {problem}"
    roles = [message["role"] for message in row["messages"]]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    # Turns are pairs of user and assistant.
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        return (
            f"the roles are {', '.join(roles) or 'none'}: after at most one system message, user and assistant must"
            " alternate, and the last message must be the assistant's"
        )
    return None


def _message_problem(message: object) -> str | None:
    """Return what is wrong with a message, or None. Only a system message may be empty."""
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        return "must be an object with role and content, and nothing else"
    if message["role"] not in ROLES:
        return f"has the role {message['role']!r}, not one of {', '.join(ROLES)}"
    if not isinstance(message["content"], str):
        return f"has a content of the wrong type ({type(message['content']).__name__})"
    if message["role"] != "system" and not message["content"].strip():
        return "is empty"
    return None
