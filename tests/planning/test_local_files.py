"""The files that a task is prepared from are listed, so that a changed one is prepared again."""

import lm_eval
from sparseft.planning.local_files import task_files
from sparseft.study.sources import TaskData


def test_a_yaml_file_is_listed_with_all_files_that_it_includes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = f"{lm_eval.__path__[0]}/tasks/winogrande/default.yaml"
    contents = {
        "task.yaml": f"include: [between.yaml, missing.yaml, {own}]\ndoc_to_text: !function utils.text\n",
        "between.yaml": "more: &more {include: folder/other.yaml}\n<<: *more\n",
        "folder/other.yaml": "include: ../task.yaml\n",
        "missing.yaml": "a: [",
        "unused.yaml": "a: 1\n",
    }
    (tmp_path / "folder").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    expected = ["task.yaml", "between.yaml", "folder/other.yaml", "missing.yaml", "rows/train.jsonl"]
    assert task_files(TaskData(lm_eval="task.yaml", local="rows"))[:5] == expected
