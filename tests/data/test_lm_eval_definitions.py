"""Definitions of lm-eval are found and read, and no code of a user's file runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_cache import write
from sparseft.common import limits
from sparseft.common.errors import InputError
from sparseft.data.lm_eval_definitions import FOLDER, config_of, read_definition
from sparseft.data.lm_eval_examples import load_lm_eval_examples
from sparseft.data.lm_eval_rendering import harness_definition
from sparseft.data.rows import checked_row
from sparseft.data.settings import TaskData

CHOICE = {
    "output_type": "multiple_choice",
    "training_split": "train",
    "validation_split": "validation",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "options",
    "doc_to_target": "right",
}
GENERATION = {
    "output_type": "generate_until",
    "training_split": "train",
    "test_split": "validation",
    "doc_to_text": "{{question}}",
    "doc_to_target": "solution",
    "generation_kwargs": {"until": ["."]},
}
ROWS = [{"question": f"Q{n}?", "options": ["x", "y", "z"], "right": n % 3, "solution": f"s{n}"} for n in range(4)]


def load(folder: Path, definition: dict | str, rows: list[dict] = ROWS, **keys: object):
    file = folder / "task.yaml"
    file.write_text(definition if isinstance(definition, str) else yaml.safe_dump(definition))
    for split in ("train", "validation"):
        write(folder / f"{split}.jsonl", rows)
    return load_lm_eval_examples("mine", TaskData(lm_eval=str(file), local=str(folder), **keys))


def refused(folder: Path, definition: dict | str, *args: object, **keys: object) -> str:
    """Return what the one line of the error says. No file must be left behind, as code in the definition would."""
    with pytest.raises(InputError) as error:
        load(folder, definition, *args, **keys)
    assert {path.suffix for path in folder.iterdir()} <= {".yaml", ".jsonl", ".py"}
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("line", [
    "doc_to_text: !function utils.text",
    "metric_list: [{metric: !function utils.text, aggregation: mean}]",
    "doc_to_text: !!python/object/apply:os.mkdir [trace]",
])  # fmt: skip
def test_code_in_a_user_s_file_is_refused_before_it_is_imported(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    Path("utils.py").write_text("open('trace', 'w')\ndef text(doc):\n    return 'a'\n")
    assert "only lm-eval's own files may have code" in refused(tmp_path, f"{yaml.safe_dump(CHOICE)}{line}\n")


@pytest.mark.long
@pytest.mark.parametrize(("template", "what"), [
    ("{{ question * 10**9 }}", "needs more than 1 GB of memory"),
    ("{{ ('x' * 40) | regex_replace('(x+x+)+y', question) }}", "more than 1 s"),
])  # fmt: skip
def test_a_template_has_limits_of_time_and_memory(tmp_path, monkeypatch, template, what):
    monkeypatch.setattr(limits, "SECONDS", 1)
    assert what in refused(tmp_path, CHOICE | {"doc_to_text": template})


@pytest.mark.parametrize("change", [
    {"yaml": CHOICE | {"metric_list": [{"metric": "evil.py"}]}},
    {"yaml": CHOICE | {"metric_list": [{"metric": "acc", "hf_evaluate": True}]}},
    {"yaml": GENERATION | {"generation_kwargs": {"custom_generate": "org/code"}}},
    {"file": "../../evil.yaml"},
    {"file": "/tmp/evil.yaml"},
])  # fmt: skip
def test_an_edited_manifest_brings_no_code(tmp_path, change):
    examples = load(tmp_path, CHOICE)
    examples.task.definition.update(change)
    try:
        metrics = harness_definition(examples.task, examples.rows)["metric_list"]
    except InputError:
        return
    assert metrics == []


def row(**values: object) -> dict:
    return {"question": "Q5?", "options": ["x", "y"], "right": 1, "solution": "s"} | values


# What differs from CHOICE, or a whole definition; a fifth row, or None; what the line names.
@pytest.mark.parametrize(("change", "fifth", "what"), [
    ({"unsafe_code": True}, None, "unsafe_code is not supported"),
    ({"metric_list": [{"metric": "acc_nrm"}]}, None, "has no metric of lm-eval"),
    ({"metric_list": ["acc"]}, None, "has no metric of lm-eval"),
    ({"metric_list": [{"metric": "acc"}, {"metric": "acc"}]}, None, "a metric or a filter occurs twice"),
    ({"process_docs": "utils.text"}, None, "process_docs is not supported"),
    ({"include": "missing.yaml"}, None, "missing.yaml"),
    ({"doc_to_txt": "a"}, None, "doc_to_txt"),
    ({"repeats": 5}, None, "repeats 5"),
    ({"output_type": "loglikelihood_rolling"}, None, "output_type loglikelihood_rolling is not supported"),
    ({"filter_list": [{"name": "a", "filter": [{"function": "take_first"}]}]}, None, "filter_list of a task"),
    ({"metric_list": [{"metric": "brier_score"}, {"metric": "mcc"}]}, None, "fractions over its rows are: none"),
    ({"doc_to_choice": "question"}, None, "doc_to_choice gives 'Q0?', and a list of texts is needed"),
    (GENERATION | {"generation_kwargs": {"custom_generate": "org/code"}}, None, "generation_kwargs.custom_generate"),
    (GENERATION | {"generation_kwargs": {"do_sample": True, "temperature": 1}}, None, "do_sample is not"),
    (GENERATION | {"doc_to_target": "soluton"}, None, "'soluton' is neither a field of the rows nor a template"),
    (GENERATION | {"doc_to_target": "{{options}}"}, None, "several right answers"),
    (GENERATION | {"doc_to_target": "{{solution if false}}"}, None, "field 'answer' is empty"),
    (GENERATION | {"fewshot_split": "validation", "num_fewshot": 4}, None, "render 4 few-shot examples (ValueError: "),
    ({}, row(right=None), "row 5 (ValueError: the right choice is None"),
    ({}, row(options=["x"], right=0), "row 5: it has fewer than two choices"),
    ({}, row(question=1), "the rows of"),
    ({"doc_to_text": "{{hint}}"}, row(hint="h"), "a field of the template has no value"),
    # Templates that reach into Python, or change a row.
    ({"doc_to_text": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}, None, "SecurityError"),
    ({"doc_to_text": "{{ question }}{{ options.append(1) }}"}, None, "SecurityError"),
])  # fmt: skip
def test_what_cannot_be_learned_and_compared_is_refused(tmp_path, change, fifth, what):
    definition = change if "generation_kwargs" in change else CHOICE | change
    assert what in refused(tmp_path, definition, [*ROWS, fifth] if fifth else ROWS)


def test_a_target_that_is_one_choice_and_the_index_of_another_is_refused(tmp_path):
    rows = [{"question": "Q?", "options": ["1", "2", "3"], "right": "1"} for _ in range(4)]
    said = refused(tmp_path, CHOICE | {"doc_to_target": "{{right}}"}, rows)
    assert "gives '1', which is one choice and the index of another" in said
    assert load(tmp_path, CHOICE, rows).rows["train"][0]["answer"] == " 1"


def test_the_answer_of_the_configuration_belongs_to_a_generated_answer(tmp_path):
    assert "tasks.mine: answer of a task with choices" in refused(tmp_path, CHOICE, answer="solution")


def test_a_prepared_row_that_is_damaged_is_refused(tmp_path):
    examples = load(tmp_path, CHOICE)
    with pytest.raises(InputError, match="^here: it has fewer than two choices"):
        checked_row(examples.rows["train"][0] | {"requests": []}, examples.task, "here", "")


@pytest.mark.process
def test_reading_a_prepared_task_imports_neither_lm_eval_nor_torch():
    code = "import sys, sparseft.data.prepared; print(*{'lm_eval', 'torch', 'datasets'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"


@pytest.mark.slow
def test_names_of_lm_eval_s_tasks(tmp_path):
    """lm-eval's index takes 8 s to make, so one test has all cases."""
    for name in ("arc_esay", "mmlu"):
        with pytest.raises(InputError, match=rf"^tasks\.mine\.lm_eval: lm-eval has no task '{name}' in YAML"):
            read_definition(name, "tasks.mine.lm_eval")
    with pytest.raises(InputError, match="unsafe_code is not supported"):
        read_definition("humaneval", "tasks.mine.lm_eval")
    config, file = read_definition("hellaswag", "tasks.mine.lm_eval")
    from lm_eval.tasks.hellaswag import utils

    assert config["process_docs"].__code__.co_code == utils.process_docs.__code__.co_code
    assert config_of({"name": "mine", "file": file, "yaml": {"process_docs": None}}).keys() <= config.keys()
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", ROWS)
    with pytest.raises(InputError, match=r"^mine: lm-eval cannot render .*ctx_a.*; give rows in the original fields"):
        load_lm_eval_examples("mine", TaskData(lm_eval="hellaswag", local=str(tmp_path)))


def test_a_user_s_file_is_over_the_plain_files_that_it_includes(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(CHOICE | {"target_delimiter": "  "}))
    examples = load(tmp_path, {"include": "base.yaml", "doc_to_text": "Say: {{question}}"})
    row = examples.rows["validation"][1]
    assert (row["prompt"], row["answer"]) == ("Say: Q1?", "  y")
    plain = {"include": str(FOLDER / "openbookqa/openbookqa.yaml")}
    (tmp_path / "book.yaml").write_text(yaml.safe_dump(plain))
    assert read_definition(str(tmp_path / "book.yaml"), "x")[0]["dataset_path"] == "allenai/openbookqa"


def test_a_data_set_that_needs_more_than_a_place_is_asked_for(hub):
    places = {
        "dataset_path './code.py' is not": {"dataset_path": "./code.py"},
        "dataset_kwargs.data_files": {"dataset_path": "org/name", "dataset_kwargs": {"data_files": "/etc/passwd"}},
        "cannot be loaded": {"dataset_path": "org/name"},
    }
    for what, keys in places.items():
        Path("task.yaml").write_text(yaml.safe_dump(CHOICE | keys))
        with pytest.raises(InputError, match=what) as error:
            load_lm_eval_examples("mine", TaskData(lm_eval="task.yaml"))
        assert "tasks.mine.local" in str(error.value)
