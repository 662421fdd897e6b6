"""Tasks of prompts and responses, and of conversations. test_row_refusals.py has the rows that are none."""

from pathlib import Path

import pytest
from hub_cache import write
from sparseft.data.loading import load_examples, own_task
from sparseft.study.sources import TaskData
from sparseft.tasks.instruction import task_of

PAIRS = [{"prompt": f"Q{n}: ", "response": f"\nA{n}"} for n in range(4)]
CHATS = [
    {"messages": [{"role": "user", "content": f"Q{n}"}, {"role": "assistant", "content": f"A{n}"}]} for n in range(4)
]
# A system message may be empty.
LONG_CHAT = {"messages": [{"role": "system", "content": ""}, *CHATS[0]["messages"], *CHATS[1]["messages"]]}


@pytest.mark.parametrize(
    ("rows", "name"), [(PAIRS, "response"), ([*CHATS, LONG_CHAT], "messages")], ids=["pairs", "chats"]
)
def test_the_rows_stay_as_they_are_written_and_the_first_decides_the_format(rows, name, tmp_path):
    for split in ("train", "validation"):
        write(Path(tmp_path, f"{split}.jsonl"), rows)
    data = TaskData(kind="instruction", local=str(tmp_path))
    examples = load_examples(own_task("mine", data), data)
    assert examples.rows == {"train": rows, "validation": rows}
    assert examples.task.definition == {"kind": "instruction", "format": name}
    # In another order of its keys.
    again = task_of("mine", dict(reversed(examples.task.definition.items())))
    assert again.definition_sha256 == examples.task.definition_sha256
    assert [again.answer(row) for row in rows] == [examples.task.answer(row) for row in rows]
