"""Configuration files: what is refused in them, and the written one that gives the same study again."""

import re
from pathlib import Path

import pytest
from project import ROOT
from sparseft.common.errors import InputError
from sparseft.study import yaml_file
from sparseft.study.configfiles import read_configuration, written
from sparseft.study.yaml_file import check_command, parsed, read_sections

STUDIES = {
    "set schedule": "training: {steps: 3, lora_targets: [q_proj, v_proj]}\ntasks: {boolq_mini: {training: {steps: 5}}}",
    "other models and tasks": """
models:
  mine: {source: path:source/x, dtype: float16}
  zoo: {source: "mdl:a/b.mdl@hf"}
  smollm2: {source: hub:a/b@main, sha256: null}
tasks: {boolq: {local: data_of_mine, training: {learning_rate: 1e-5}}, gsm8k: {hub: org/gsm8k}}
perplexity: {local: wikitext.jsonl, context: 64}
grid: {models: [mine, zoo], tasks: [boolq, gsm8k], methods: [semistructured_wanda], sparsities: [0, 50], seeds: [0, 7]}
masks: {sequential: false}
""",
    "ship": "ship: {model: smollm2, speed: 1.3}",
    "cerebras": "backend: cerebras\ncerebras: {num_csx: 2, lock: null, job_labels: [study=x]}\n"
    "throughput: {steps: 100}",
} | {path.stem: path.read_text() for path in sorted((ROOT / "config").glob("*.yaml"))}
# The backends of a CS-3 train no pruned base and have no teacher, as the default study does.
WITHOUT_BASES = "\ngrid: {methods: [unstructured], tasks: [hellaswag_mini]}\n"
STUDIES |= {name: STUDIES[name] + WITHOUT_BASES for name in ("cerebras", "cs3", "modelzoo")}


@pytest.fixture
def write(tmp_path):
    def write_text(text: str, name: str = "study.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_text


@pytest.mark.parametrize("name", STUDIES)
def test_the_written_configuration_gives_the_same_study(write, name):
    study = read_configuration([write(STUDIES[name])])
    again = read_configuration([write(written(study), "configuration.yaml")])
    assert again == study
    assert written(again) == written(study)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("training:\n  steps: 3\n  steps: 4", "line 3: steps is given twice; correct it"),
        ("grid: {sparsities: [0, 050]}", "line 1: YAML reads 050 as 40"),
        ("masks:\n  seed: 1:30", "line 2: YAML reads 1:30 as 90"),
        ("grid:\n\tseeds: [1]", "line 2: found character '\\t' that cannot start any token"),
        ("__use_yte__: true\na: ?1", "__use_yte__ makes Snakemake run expressions"),
        ("- a list", "holds no sections"),
        (
            "x0: &x0 [a, a]\n" + "".join(f"x{n}: &x{n} [{10 * f'*x{n - 1}, '}]\n" for n in range(1, 9)),
            "line 5: an alias stands in what it names, or makes 100,000 values of them",
        ),
    ],
)
def test_what_yaml_would_read_as_something_else_is_refused(write, text, line):
    with pytest.raises(InputError) as caught:
        read_sections(write(text))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_bytes("# caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match="study.yaml: not UTF-8 text; .*save the file as UTF-8"):
        read_configuration([tmp_path / "study.yaml"])


def test_values_of_the_command_lie_over_the_files(write):
    file = write("grid: {seeds: [0, 1]}\nkeep_merged: true")
    study = read_configuration([file], ["grid={seeds: [7], sparsities: [0, 50]}", "grid={sparsities: [60]}"])
    assert (study.grid.seeds, study.grid.sparsities, study.keep_merged) == ([7], [60], True)
    with pytest.raises(InputError, match="^--config grid, line 1: "):
        read_configuration([file], ["grid={seeds: ["])


def test_two_digits_of_a_sparsity_are_what_they_say(write):
    assert read_configuration([write("grid: {sparsities: [00, 05, 08, 50]}")]).grid.sparsities == [0, 5, 8, 50]


@pytest.mark.parametrize("command", ["--config a=1 -n -C b=2", "--configfile a.yaml --configfiles=b.yaml"])
def test_a_part_of_the_configuration_that_snakemake_would_not_read_is_refused(command):
    with pytest.raises(InputError, match="is given 2 times"):
        check_command(["snakemake", *command.split()])
    check_command(["snakemake", "--configfile", "a.yaml", "b.yaml", "--config", "training={steps: 3}", "backend=torch"])


def test_every_mistake_is_in_one_line(write):
    text = "grid:\n  methods: [unstructured,\n    wandering]\n  sparsitys: [0]\nmodels: {}\ntraining: {batch_size: x}\n"
    with pytest.raises(InputError) as caught:
        read_configuration([write(text + "cerebras:\n  csx_micro_batch_size: none\n")])
    places = re.findall(r"(?:^configuration:|;) ([\w.]+): ", str(caught.value))
    assert places == ["grid.methods.1", "grid.sparsitys", "training.batch_size", "cerebras.csx_micro_batch_size"]
    with pytest.raises(InputError, match=r"grid.models asks for 'llama', .*; also: grid.tasks asks for 'none'"):
        read_configuration([write("grid: {models: [llama], tasks: [none]}")])


def test_any_number_of_values_is_read_if_no_alias_makes_them(monkeypatch):
    monkeypatch.setattr(yaml_file, "MOST", 5)
    assert parsed("{a: [1, 2, 3, 4, 5, 6], b: &b [7], c: *b}", "study") == {"a": [1, 2, 3, 4, 5, 6], "b": [7], "c": [7]}
