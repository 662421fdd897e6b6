"""The files that a task is prepared from are listed, so that a changed one is prepared again."""

import lm_eval
from sparseft.planning.local_files import task_files
from sparseft.study.config import TaskData


def test_a_yaml_file_is_listed_with_all_files_that_it_includes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = f"{lm_eval.__path__[0]}/tasks/winogrande/default.yaml"
    contents = {
        "task.yaml": f"include: [between.yaml, missing.yaml, {own}]\ndoc_to_text: !function utils.text\n",
        "between.yaml": "more: &more {include: folder/other.yaml}\n<<: *more\n",
        "folder/other.yaml": "include: ../task.yaml\n",
        "unused.yaml": "a: 1\n",
    }
    (tmp_path / "folder").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    expected = [str(tmp_path / "task.yaml"), "between.yaml", "folder/other.yaml"]
    assert task_files(TaskData(lm_eval=expected[0], local=str(tmp_path)))[:3] == expected


def test_a_yaml_file_that_cannot_be_read_is_listed_itself(tmp_path):
    file = tmp_path / "task.yaml"
    for content in ("a: [", "- x\n", "a: &a [*a]\n<<: *a\n", "", None):
        file.unlink() if content is None else file.write_text(content)
        assert task_files(TaskData(lm_eval=str(file), local=str(tmp_path)))[0] == str(file)
