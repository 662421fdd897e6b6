"""Definitions of lm-eval are found and read, and no code of a user's file runs."""

import json
import resource
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hub_cache import publish, write
from sparseft.errors import InputError
from sparseft.evaluation.lm_eval_rendering import harness_definition
from sparseft.evaluation.lm_eval_tasks import load_lm_eval_examples
from sparseft.evaluation.lm_eval_yaml import FOLDER, FUNCTION, check_functions, read_definition, with_functions
from sparseft.language_model import limits
from sparseft.study.config import TaskData

CHOICE = """\
output_type: multiple_choice
training_split: train
validation_split: validation
doc_to_text: TEXT
doc_to_choice: options
doc_to_target: right
"""
GENERATION = """\
output_type: generate_until
training_split: train
test_split: validation
doc_to_text: "{{question}}"
doc_to_target: solution
generation_kwargs: {until: ["."]}
"""
ROWS = [{"question": f"Q{n}?", "options": ["x", "y", "z"], "right": n % 3, "solution": f"s{n}"} for n in range(4)]


def refused(folder: Path, definition: str, rows: list[dict] = ROWS, **keys: object) -> str:
    """Return what the error says of a YAML file over rows. It must leave no file behind but its own input."""
    file = folder / "task.yaml"
    file.write_text(definition)
    for split in ("train", "validation"):
        write(folder / f"{split}.jsonl", rows)
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError) as error:
        load_lm_eval_examples("mine", TaskData(lm_eval=str(file), local=str(folder), **keys))
    assert sorted(folder.rglob("*")) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def loaded(folder: Path, definition: str, **keys: object) -> list[dict]:
    """Return the validation rows of a YAML file over ROWS."""
    file = folder / "task.yaml"
    file.write_text(definition)
    for split in ("train", "validation"):
        write(folder / f"{split}.jsonl", ROWS)
    return load_lm_eval_examples("mine", TaskData(lm_eval=str(file), local=str(folder), **keys)).rows["validation"]


def test_the_definition_of_these_tests_is_taken(tmp_path):
    """The same file as in every refusal below, with a plain template."""
    row = loaded(tmp_path, CHOICE.replace("TEXT", "'{{question}}'"))[1]
    assert (row["prompt"], row["answer"]) == ("Q1?", " y")
    assert loaded(tmp_path, GENERATION)[1]["answer"] == " s1"


def touching(folder: Path) -> str:
    """Return a Python file that leaves a trace when it is imported."""
    (folder / "utils.py").write_text(f"open({str(folder / 'trace')!r}, 'w')\ndef text(doc):\n    return 'a'\n")
    return "!function utils.text"


def test_a_function_in_a_user_s_file_is_refused_before_it_is_imported(tmp_path):
    function = touching(tmp_path)
    said = refused(tmp_path, CHOICE.replace("TEXT", function))
    assert "task.yaml, line 4: !function utils.text is code" in said
    (tmp_path / "other.yaml").write_text(f"doc_to_text: {function}\n")
    (tmp_path / "between.yaml").write_text("include: [other.yaml]\n")
    said = refused(tmp_path, CHOICE.replace("TEXT", "a") + "include: between.yaml\n")
    assert "include between.yaml, include other.yaml, line 1: !function" in said
    deep = "metric_list: [{metric: !function utils.text, aggregation: mean}]\n"
    assert "!function" in refused(tmp_path, CHOICE.replace("TEXT", "a") + deep)
    merged = "x: &more {include: other.yaml}\n<<: *more\n"
    assert "!function" in refused(tmp_path, CHOICE.replace("TEXT", "a") + merged)
    aliased = "x: &text !function utils.text\ndescription: *text\n"
    assert "!function" in refused(tmp_path, CHOICE.replace("TEXT", "a") + aliased)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [trace]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!other x",
        "!<tag:yaml.org,2002:python/object/new:os.mkdir> [trace]",
    ],
)
def test_a_tag_that_makes_more_than_data_is_refused(tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    assert "is code" in refused(tmp_path, CHOICE.replace("TEXT", tag))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ question.__class__ }}",
        "{{ question | attr('__class__') }}",
        "{{ '{0.__class__}'.format(question) }}",
        "{{ cycler.__init__.__globals__.os.mkdir('trace') }}",
        "{{ self._TemplateReference__context }}",
        "{{ question.upper.__self__ }}",
        "{% for part in ().__class__.__base__.__subclasses__() %}{{ part }}{% endfor %}",
        "{{ 'x' | regex_replace('x', ''.__class__) }}",
    ],
)
@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_choice", "doc_to_target", "description", "gen_prefix"])
def test_a_template_that_reaches_into_python_is_refused(tmp_path, monkeypatch, template, key):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(CHOICE.replace("TEXT", "question"))
    assert "SecurityError" in refused(tmp_path, yaml.safe_dump({**content, key: template}))


@pytest.mark.long
@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ 'a' * 10**10 }}", "needs more than 1 GB of memory"),
        ("{{ question * 10**9 }}", "needs more than 1 GB of memory"),
        ("{{ [question] * 10**9 }}", "needs more than 1 GB of memory"),
        ("{{ question | center(10**10) }}", "needs more than 1 GB of memory"),
        ("{% for a in range(10**5) %}{% for b in range(10**5) %}{{ '' }}{% endfor %}{% endfor %}", "more than 1 s"),
        ("{{ ('x' * 40) | regex_replace('(x+x+)+y', question) }}", "more than 1 s"),
        ("{{ 7 ** (10 ** 9) }}", "more than 1 s"),
        ("{{ range(10**10) }}", "Range too big"),
    ],
)
def test_a_template_has_limits_of_time_and_memory(tmp_path, monkeypatch, template, what):
    monkeypatch.setattr(limits, "SECONDS", 1)
    said = refused(
        tmp_path, yaml.safe_dump({**yaml.safe_load(CHOICE.replace("TEXT", "question")), "doc_to_text": template})
    )
    assert what in said
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


@pytest.mark.long
def test_the_filters_of_a_sample_answer_have_a_limit_of_time(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 1)
    lines = "filter_list: [{name: a, filter: [{function: regex, regex_pattern: '(([\\w\\W]+)+)+@'}]}]"
    assert "tasks.mine: filter_list computes for more than 1 s" in refused(tmp_path, f"{GENERATION}{lines}\n")


def test_a_key_that_stands_for_a_function_is_refused(tmp_path):
    text = '{"!function": "longproc/metrics.Popen"}'
    assert "line 4: !function is code" in refused(tmp_path, CHOICE.replace("TEXT", text))
    (tmp_path / "other.yaml").write_text(f"doc_to_text: {text}\n")
    assert "!function is code" in refused(tmp_path, CHOICE.replace("TEXT", "a") + "include: other.yaml\n")


def test_a_template_cannot_change_a_row(tmp_path):
    assert "SecurityError" in refused(tmp_path, CHOICE.replace("TEXT", "'{{question}}{{options.append(1)}}'"))


@pytest.mark.parametrize("file", ["cruxeval/cruxeval_output.yaml", "longproc/countdown_2k.yaml"])
def test_a_task_that_runs_code_is_refused_whatever_is_on_top(tmp_path, file):
    included = f"include: {FOLDER / file}\nunsafe_code: false\nrepeats: 1\nprocess_docs: null\n"
    said = refused(tmp_path, GENERATION + included)
    assert "unsafe_code is not supported" in said or "may run texts as code" in said


def test_a_manifest_has_functions_only_where_lm_eval_has_them(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"include": str(FOLDER / "winogrande/default.yaml")}))
    user = read_definition(str(path), "tasks.mine.lm_eval")
    assert user.included == ["winogrande/default.yaml"]
    manifest = {"file": None, "included": user.included, "yaml": user.config}
    check_functions(manifest)
    for changed in (
        {"included": []},
        {"included": ["../../x.yaml"]},
        {"yaml": {"doc_to_target": user.config["doc_to_text"]}},
        {"yaml": {"doc_to_text": {FUNCTION: "hellaswag/utils.process_docs"}}},
    ):
        with pytest.raises(InputError):
            check_functions(manifest | changed)


@pytest.mark.parametrize(
    "change",
    [
        {"metric_list": [{"metric": "evil.py"}]},
        {"metric_list": [{"metric": "acc", "hf_evaluate": True}]},
        {"generation_kwargs": {"custom_generate": "org/code"}},
        {"doc_to_text": {FUNCTION: "hellaswag/utils.process_docs"}},
    ],
)
def test_an_edited_manifest_brings_no_code(tmp_path, change):
    (tmp_path / "task.yaml").write_text(GENERATION)
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", ROWS)
    examples = load_lm_eval_examples("mine", TaskData(lm_eval=str(tmp_path / "task.yaml"), local=str(tmp_path)))
    examples.task.definition["yaml"] |= change
    with pytest.raises(InputError):
        harness_definition(examples.task, examples.rows)


def test_a_file_whose_aliases_make_it_large_or_endless_is_refused(tmp_path):
    names = "abcdefgh"
    bomb = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise(names))
    for lines in (f"a: &a [x]\n{bomb}", "a: &a [*a]\n", "a: " + "[" * 500 + "]" * 500 + "\n"):
        assert "values or" in refused(tmp_path, CHOICE.replace("TEXT", "a") + lines)


def test_the_answer_of_the_configuration_is_rendered_in_the_sandbox(tmp_path):
    assert "SecurityError" in refused(tmp_path, GENERATION, answer="{{ ''.__class__ }}")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("custom_dataset: x", "custom_dataset is not supported"),
        ("class: os.system", "class is not supported"),
        ("group: all", "group is not supported"),
        ("use_prompt: promptsource:*", "use_prompt is not supported"),
        ("unsafe_code: true", "unsafe_code is not supported"),
        ("doc_to_image: picture", "doc_to_image is not supported"),
        ("process_docs: utils.text", "process_docs is not a function of lm-eval"),
        ("process_results: utils.text", "process_results is not a function of lm-eval"),
        ("doc_to_txt: a", "no key 'doc_to_txt'; write 'doc_to_text'"),
        ("repeats: 5", "repeats 5"),
        ("filter_list: [{name: a, filter: [{function: take_first}]}]", "no filters"),
        ("metric_list: [{metric: evil.py, aggregation: mean, higher_is_better: true}]", "no metric 'evil.py'"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]", "no metric that is a mean"),
        ("metric_list: [{metric: brier_score}, {metric: mcc}]", "no metric that is a mean"),
        ("metric_list: [{metric: acc}, {metric: acc}]", "the metric 'acc' occurs twice"),
        ("metric_list: [{metric: acc_nrm}]", "no metric 'acc_nrm'; write 'acc_norm'"),
        ("metric_list: [acc]", "metric_list is ['acc']; set it to a list"),
        ("metric_list: [{aggregation: mean}]", "metric is missing"),
        ("doc_to_choice: question", "doc_to_choice gives 'Q0?', and a list is needed"),
        ("num_fewshot: 1.5", "num_fewshot is 1.5; set it to a whole number"),
        ("num_fewshot: -1", "num_fewshot is -1"),
        ("num_fewshot: true", "num_fewshot is True"),
        ("num_fewshot: .nan", "num_fewshot is nan"),
        ("fewshot_config: first_n", "fewshot_config is 'first_n'; set it to keys"),
        ("fewshot_config: {sampler: best}", "sampler is 'best'; set it to one of default"),
        ("include: ''", "include is ''"),
        ("include: null", "include is None"),
        (r'include: "a\0b"', "include is"),
        (f"include: {'a' * 300}", "cannot be read"),
        ("generation_kwargs: [1]", "generation_kwargs is [1]"),
        ("description: \"{{'a' * 2000000}}\"", "a text of 2000000 characters, and at most 1000000 are taken"),
        ("include: missing.yaml", "include missing.yaml: no such file"),
        ("dataset_kwargs: {trust_remote_code: true}", "dataset_kwargs.trust_remote_code"),
        ("include: task.yaml", "Include cycle"),
        ("metadata: {day: 2020-01-01}\nnum_fewshot: 2020-01-01", "more than text and numbers"),
        ("doc_to_text: [", "not valid YAML"),
        (f"description: {FOLDER}/arc/utils.text", "begins with the folder of lm-eval"),
        ("output_type: loglikelihood_rolling", "output_type loglikelihood_rolling is not supported"),
        ("fewshot_split: validation\nnum_fewshot: 1\ntraining_split: null\nlocal: x", "no key 'local'"),
    ],
)
def test_what_is_not_a_prompt_with_an_answer_is_refused(tmp_path, line, what):
    keys = set(yaml.safe_load(line)) if "[\n" not in f"{line}\n" or "]" in line else {"doc_to_text"}
    kept = [text for text in CHOICE.replace("TEXT", "question").splitlines() if text.partition(":")[0] not in keys]
    assert what in refused(tmp_path, "\n".join([*kept, line, ""]))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('until: ["."]', 'until: ["."], custom_generate: org/code', "generation_kwargs.custom_generate"),
        ('until: ["."]', "until: 1", "until is 1; set it to a text or a list"),
        ('until: ["."]', "max_gen_toks: 0", "max_gen_toks is 0; set it to a whole number of at least 1"),
        ('until: ["."]', "temperature: hot", "temperature is 'hot'; set it to a number"),
        ('until: ["."]', 'until: ["."], do_sample: true, temperature: 1', "drawn at random"),
        (
            "doc_to_target: solution",
            "doc_to_target: soluton",
            "'soluton' is neither a field of the rows nor a template",
        ),
        ("doc_to_target: solution", "doc_to_target: '{{soluton}}'", "'soluton' is undefined"),
        ("doc_to_target: solution", "doc_to_target: '{{options}}'", "several right answers"),
        ("doc_to_target: solution", "doc_to_target: '{{solution if false}}'", "its answer is empty"),
        ('"{{question}}"', "\"{{text | default('')}}\"", "its prompt is empty"),
        ('"{{question}}"', '"{{question | random}}"', "No filter named 'random'"),
        ('"{{question}}"', '"{{lipsum()}}"', "'lipsum' is undefined"),
        (
            "doc_to_target: solution",
            "doc_to_target: solution\nfewshot_split: validation\nnum_fewshot: 4",
            "num_fewshot is 4, but lm-eval finds only 3 other rows",
        ),
    ],
)
def test_a_generated_answer_that_cannot_be_learned_or_compared_is_refused(tmp_path, old, new, what):
    assert old in GENERATION
    assert what in refused(tmp_path, GENERATION.replace(old, new))


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("filter_list: [{filter: [{function: take_first}]}]", "name is missing"),
        ("filter_list: [{name: a, filter: [{function: tak_first}]}]", "no filter 'tak_first'; write 'take_first'"),
        ("filter_list: [{name: a, filter: [{function: regex, regex_pattern: '('}]}]", "no regular expression"),
        ("filter_list: [{name: a, filter: [{function: regex, group_select: 9}]}]", "group_select is 9"),
        ("filter_list: [{name: a, filter: [{function: regex, other: 9}]}]", "filter a fails on a sample answer"),
        (f"filter_list: [{', '.join(['{name: a, filter: [{function: take_first}]}'] * 2)}]", "'a' occurs twice"),
        ("metric_list: [{metric: exact_match, regexes_to_ignore: ['[']}]", "'[' is no regular expression"),
        ("metric_list: [{metric: exact_match, regexes_to_ignore: x}]", "set it to a list of regular expressions"),
    ],
)
def test_a_filter_or_a_metric_that_would_stop_the_evaluation_is_refused(tmp_path, lines, what):
    assert what in refused(tmp_path, f"{GENERATION}{lines}\n")


def test_a_target_that_is_one_choice_and_the_index_of_another_is_refused(tmp_path):
    rows = [{"question": "Q?", "options": ["1", "2", "3"], "right": "1"} for _ in range(4)]
    definition = CHOICE.replace("TEXT", "question")
    said = refused(tmp_path, definition.replace(": right", ": '{{right}}'"), rows)
    assert "gives '1', which is choice 1, but lm-eval takes it for the index of choice 2" in said
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    (tmp_path / "task.yaml").write_text(definition)
    data = TaskData(lm_eval=str(tmp_path / "task.yaml"), local=str(tmp_path))
    assert load_lm_eval_examples("mine", data).rows["train"][0]["answer"] == " 1"


def test_an_answer_belongs_to_a_generated_text(tmp_path):
    assert "tasks.mine.answer" in refused(tmp_path, CHOICE.replace("TEXT", "question"), answer="solution")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"right": 3}, "validation row 5|train row 5"),
        ({"right": None}, "right choice is None"),
        ({"options": ["x"], "right": 0}, "fewer than two choices"),
        ({"options": ["x", ""], "right": 0}, "choice 2 is empty"),
        ({"options": ["x", None], "right": 0}, "a choice is not a text"),
        ({"question": None}, "no value"),
        ({"question": " "}, "its prompt is empty"),
        ({"question": 1}, "values of different types"),
        ({"extra": 1}, "rows 1 and 5 differ in having the field 'extra'"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, row, what):
    fitting = {"question": "Q5?", "options": ["x", "y"], "right": 1, "solution": "s"}
    said = refused(tmp_path, CHOICE.replace("TEXT", "'{{question}}'"), [*ROWS, {**fitting, **row}])
    assert any(part in said for part in what.split("|")), said
    assert "5" in said or "types" in said


@pytest.mark.long
def test_rows_in_other_fields_are_refused_with_the_field(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", ROWS)
    for name, field in (("arc_easy", "choices"), ("hellaswag", "ctx_a"), ("winogrande", "answer"), ("gsm8k", "answer")):
        with pytest.raises(
            InputError, match=rf"^mine: lm-eval cannot render .*{field}.*; give rows in the original fields"
        ):
            load_lm_eval_examples("mine", TaskData(lm_eval=name, local=str(tmp_path)))


@pytest.mark.long
def test_a_name_that_lm_eval_does_not_have_is_refused_with_what_it_may_mean():
    """lm-eval's index takes 8 s to make, so one test has all cases."""
    cases = {
        "arc_esay": r"^tasks\.mine\.lm_eval: lm-eval has no task 'arc_esay'; give a name such as .*arc_easy",
        "mmlu": r"^tasks\.mine\.lm_eval: 'mmlu' is a group .*; name its members: mmlu_\w+, .* and \d+ more$",
        "ai2_arc": "'ai2_arc' is a group .*: arc_challenge, arc_easy$",
        "squadv2": "written in Python",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            read_definition(name, "tasks.mine.lm_eval")


def test_lm_eval_s_own_functions_are_kept_by_name_and_are_the_same_functions():
    definition = read_definition("hellaswag", "tasks.mine.lm_eval")
    assert definition.file == "hellaswag/hellaswag.yaml"
    assert definition.config["process_docs"] == {FUNCTION: "hellaswag/utils.process_docs"}
    assert json.loads(json.dumps(definition.config)) == definition.config
    from lm_eval.tasks.hellaswag import utils

    function = with_functions(definition.config)["process_docs"]
    assert function.__code__.co_code == utils.process_docs.__code__.co_code


def test_a_user_s_file_may_include_a_file_of_lm_eval_with_functions(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"include": str(FOLDER / "winogrande/default.yaml"), "target_delimiter": "  "}))
    config = read_definition(str(path), "tasks.mine.lm_eval").config
    assert config["target_delimiter"] == "  "
    assert config["doc_to_text"] == {FUNCTION: "winogrande/preprocess_winogrande.doc_to_text"}


@pytest.mark.parametrize(
    "name",
    ["../../os.system", "arc/os.system", "os.system", "/tmp/x.f", "arc/../../../os.mkdir", "longproc/metrics.Popen"],
)
def test_a_manifest_names_only_functions_of_lm_eval(name):
    with pytest.raises(InputError, match="no function of lm-eval"):
        with_functions({"doc_to_text": {FUNCTION: name}})


def test_a_data_set_that_needs_more_than_a_place_is_asked_for(hub):
    base = yaml.safe_load(CHOICE.replace("TEXT", "question"))
    places = {
        "dataset_path '' is not": {},
        "dataset_path 'json' is not": {"dataset_path": "json"},
        "dataset_path './code.py' is not": {"dataset_path": "./code.py"},
        "dataset_kwargs.data_files": {"dataset_path": "org/name", "dataset_kwargs": {"data_files": "/etc/passwd"}},
        "cannot be loaded": {"dataset_path": "org/name"},
    }
    for what, keys in places.items():
        Path("task.yaml").write_text(yaml.safe_dump(base | keys))
        with pytest.raises(InputError, match=what) as error:
            load_lm_eval_examples("mine", TaskData(lm_eval="task.yaml"))
        assert "tasks.mine.local" in str(error.value)
    publish(hub, "org/name", {"train": ROWS, "test": ROWS})
    with pytest.raises(InputError, match="no split validation, only train, test"):
        load_lm_eval_examples("mine", TaskData(lm_eval="task.yaml"))
