"""The files that a study is made from: all are listed, and one that is missing, edited or does not fit is refused."""

import json
from pathlib import Path

import lm_eval
import pytest
import yaml
from project import laid_over, succeed
from sparseft.common.errors import InputError
from sparseft.data.settings import TaskData
from sparseft.data.task_files import task_files
from sparseft.storage.known_hashes import KnownHashes
from sparseft.study.config import Config
from sparseft.study.inputs import check_inputs, check_sources, fetched_files, rounded_heads
from sparseft.study.planning.sizes import NAMED
from tiny_models import change_json


def write_all(contents: dict[str, dict]) -> None:
    for name, content in contents.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Change into a folder with a local model of 64 tokens of context, and three rows."""
    monkeypatch.chdir(tmp_path)
    config = NAMED["hub:huggyllama/llama-7b"] | {"max_position_embeddings": 64}
    write_all({"model/config.json": config, "gpt/config.json": config | {"architectures": ["GPT2LMHeadModel"]}})
    (tmp_path / "three").mkdir()
    write_all({f"csv/{split}.jsonl": {} for split in ("train", "validation")})
    (tmp_path / "csv/train.jsonl").write_text("question,passage,answer\nq,p,true\n")
    boolq = {"question": "q", "pasage": "p", "answer": True}
    write_all({f"boolq/{split}.jsonl": boolq for split in ("train", "validation")})
    for split in ("train", "validation"):
        # Blank lines do not count as rows.
        (tmp_path / f"three/{split}.jsonl").write_text("{}\n{}\n\n{}\n")
    return tmp_path


def study(text: str = "", **sections: object) -> Config:
    """Return the study of one model, with sections in YAML or as values over it."""
    sections = {"models": {"mine": {"source": "path:model"}}} | (yaml.safe_load(text) or {}) | sections
    return laid_over(sections | {"grid": {"models": ["mine"]} | sections.get("grid", {})})


MISSING = """
tasks: {own: {kind: instruction, local: rows}}
grid: {tasks: [own], methods: [unstructured_wanda_on_story], modes: [reconstruct]}
masks: {calibration: {story: {text: story.txt}, tale: {text: tale.txt}}}
reconstruction: {calibration: tale}
perplexity: {local: text.jsonl}
"""
IMPORTED = """
grid: {methods: [imported_a], sparsities: [0, 50]}
masks: {imported: {a: {50: 'path:sparse', 60: 'path:unused'}}}
"""
FEW = "{tasks: {own: {kind: instruction, local: three, validation_examples: 4}}, grid: {tasks: [own]}}"
FEW_ON_THE_HUB = "{tasks: {boolq: {validation_examples: 4000}}, grid: {tasks: [boolq]}}"
CSV = "{tasks: {own: {kind: instruction, local: csv}}, grid: {tasks: [own]}}"
LONG = f"{{models: {{{'m' * 190}: {{source: 'path:model'}}}}, grid: {{models: [{'m' * 190}]}}}}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("models: {mine: {source: 'path:moved'}}", "models.mine: moved/config.json: no such file"),
        ("models: {mine: {source: 'path:gpt'}}", "models.mine: architecture GPT2LMHeadModel"),
        ("grid: {methods: [layers_random], sparsities: [50, 51]}", "models.mine: 50 % and 51 % both remove 16 of 32"),
        ("grid: {methods: [experts_random], sparsities: [50]}", "LlamaForCausalLM has no experts"),
        (
            MISSING,
            "tasks.own: rows/train.jsonl: no such file, .*, masks.calibration.story.text: story.txt: .*,"
            " masks.calibration.tale.text: tale.txt: .*, perplexity.local: text.jsonl",
        ),
        (IMPORTED, "masks.imported.a.50: sparse/config.json: no such file; "),
        (LONG, "^m{190}.*-seed0: the name of a run has .* characters, and 200 are possible"),
        (FEW, "tasks.own.validation_examples 4: three has 3 rows; lower it"),
        (CSV, "csv/train.jsonl, line 1: not valid JSON"),
        (
            "{tasks: {boolq: {local: boolq}}, grid: {tasks: [boolq]}}",
            "boolq/train.jsonl, line 1: field 'passage' is missing, and the nearest is pasage; ",
        ),
        (FEW_ON_THE_HUB, "tasks.boolq.validation_examples 4,000: the data set has 3,270 rows"),
        ("perplexity: {context: 65}", "perplexity.context: windows of 65 tokens, but mine takes 64"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_refused_in_one_line_with_its_place(folder, text, line):
    with pytest.raises(InputError, match=line) as error:
        check_sources(study(text))
    assert "unused" not in str(error.value)


def test_a_window_may_be_as_long_as_the_model_takes(folder):
    check_sources(study("perplexity: {context: 64}"))


@pytest.mark.parametrize(
    ("number", "note"), [(3, "asks for 20 % of 3 key-value heads at 20 %, and 1 go (33 %)"), (32, None)]
)
def test_a_share_of_heads_that_rounding_misses_by_far_is_said(folder, number, note):
    change_json(folder / "model/config.json", num_key_value_heads=number)
    grid = {"methods": ["structured"], "sparsities": [20, 50], "sparsities_of": {}}
    notes = rounded_heads(study(grid=grid, masks={"head_share": 1}))
    assert len(notes) == (note is not None)
    assert all(said.startswith("models.mine: masks.head_share 1 ") and note in said for said in notes)


def test_what_was_fetched_is_in_the_configuration_and_another_commit_is_refused(folder):
    commits = {"hub:a/b": "0" * 40, "org/rows": "1" * 40, "org/text/part": "2" * 40}
    one, two, three = commits.values()
    manifests = {
        "models/mine/manifest.json": {"source": "hub:a/b", "revision": one, "files": {}},
        "models/fixed/manifest.json": {"source": "hub:a/b@main", "revision": two, "files": {}},
        "data/hellaswag_mini/manifest.json": {"source": {"hub": "org/rows", "revision": two}, "sha256": {}},
        "data/calibration_c.jsonl.json": {"source": {"hub": "org/text/part", "revision": three}},
        "data/boolq_mini/manifest.json": {"source": {"local": "x"}},
    }
    write_all(manifests)
    output, own = Path("configuration.yaml"), "# one\nresults: results\n"
    succeed("write_configuration.py", text=own, output=output, manifests=[*manifests, "gone.json"])
    assert yaml.safe_load(output.read_text()) == {"results": "results", "revisions": commits}
    models = {"mine": {"source": "hub:a/b"}}
    check_inputs(study(models=models, revisions=commits), KnownHashes(Path("known.json")))
    with pytest.raises(InputError, match=f"mine/manifest.json has hub:a/b at {one}, not at {two}; leave hub:a/b"):
        check_inputs(study(models=models, revisions=commits | {"hub:a/b": two}), KnownHashes(Path("known.json")))


def test_a_yaml_file_is_listed_with_all_files_that_it_includes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = f"{lm_eval.__path__[0]}/tasks/winogrande/default.yaml"
    contents = {
        "task.yaml": f"include: [between.yaml, missing.yaml, {own}]\ndoc_to_text: a\n",
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


PRUNED_TWICE = """
models: {smollm2: {source: 'hub:a/b'}, half: {source: 'pruned:smollm2/sparsity50_layers_random'}}
grid: {models: [smollm2, half], trainings: {long: {steps: 3}, short: {}}}
"""


def test_what_the_study_makes_of_its_own_models_needs_no_network():
    rows = {f"data/hellaswag_mini/{part}manifest.json" for part in ("", "validation_", "selection_")}
    needed = set(map(str, fetched_files(laid_over(yaml.safe_load(PRUNED_TWICE)))))
    assert needed == {"models/smollm2/manifest.json", *rows}


def test_the_model_that_was_pruned_is_fetched_too(folder):
    models = {"base": {"source": "hub:a/b"}, "half": {"source": "pruned:base/sparsity50_layers_random"}}
    config = study(models=models, grid={"models": ["half"]})
    assert Path("models/base/manifest.json") in fetched_files(config)
