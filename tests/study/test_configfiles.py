"""Configuration files: what is refused in them, and the complete one that gives the same study again."""

import json
from pathlib import Path

import jsonschema
import pytest
from sparseft.errors import InputError
from sparseft.study.configfiles import (
    check_command,
    check_configfiles,
    complete,
    complete_text,
    read_configuration,
    read_sections,
    with_normal_places,
)

ROOT = Path(__file__).parents[2]
STUDIES = {
    "default": "analysis: {tolerance: 0.05}",
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
    "cerebras": "backend: cerebras\ncerebras: {num_csx: 2, lock: null, job_labels: [study=x]}\nthroughput: {steps: 100}",
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a configuration file and returns its path."""

    def write_text(text: str, name: str = "study.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_text


@pytest.mark.parametrize("name", STUDIES)
def test_the_complete_configuration_laid_over_the_default_gives_the_same_study(write, tmp_path, name):
    study = read_configuration([write(STUDIES[name])])
    again = read_configuration([write(complete_text(study, tmp_path), "configuration.yaml")])
    assert again == complete(study, tmp_path)
    assert with_normal_places(again, tmp_path).models == with_normal_places(study, tmp_path).models
    assert {task: again.training_of(task) for task in again.tasks} == {
        task: study.training_of(task) for task in study.tasks
    }
    assert complete_text(again, tmp_path) == complete_text(study, tmp_path)


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_s_complete_configuration_gives_it_again(write, tmp_path, file):
    study = read_configuration([file])
    again = read_configuration([write(complete_text(study, tmp_path))])
    assert again == complete(study, tmp_path)
    assert [again.training_of(task) for task in study.tasks] == [study.training_of(task) for task in study.tasks]


def test_a_complete_configuration_passes_the_checks_of_the_throughput_on_the_wafer(write, tmp_path):
    study = read_configuration([write(STUDIES["cerebras"])])
    again = read_configuration([write(complete_text(study, tmp_path))])
    again.check_measured("hellaswag_mini")


def test_what_the_environment_says_of_compilations_is_kept(write, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPILE_ONCE", "0")
    text = complete_text(read_configuration([write(STUDIES["cerebras"])]), tmp_path)
    monkeypatch.delenv("COMPILE_ONCE")
    assert not read_configuration([write(text)]).cerebras.compile_once


@pytest.mark.parametrize(
    ("place", "normal"),
    [
        ("source/x", "source/x"),
        ("./source/../source/x/", "source/x"),
        ("{folder}/source/x", "source/x"),
        ("{folder}/link/x", "source/x"),
        ("{folder}", "."),
        ("..", "{parent}"),
        ("/elsewhere/x", "/elsewhere/x"),
    ],
)
def test_a_place_has_one_normal_form(write, tmp_path, place, normal):
    (tmp_path / "source").mkdir()
    (tmp_path / "link").symlink_to("source")
    names = {"folder": tmp_path.resolve(), "parent": tmp_path.resolve().parent}
    text = f"models: {{mine: {{source: 'path:{place.format(**names)}'}}}}\ntasks: {{boolq: {{local: '{place.format(**names)}'}}}}"
    text += f"\nmasks: {{imported: {{a: {{50: 'path:{place.format(**names)}'}}}}}}"
    study = with_normal_places(read_configuration([write(text)]), tmp_path)
    assert study.models["mine"].source == f"path:{normal.format(**names)}"
    assert study.tasks["boolq"].local == normal.format(**names)
    assert study.masks.imported["a"][50] == f"path:{normal.format(**names)}"


@pytest.mark.parametrize(
    ("source", "normal"),
    [
        ("mdl:{folder}/a/b.mdl", "mdl:a/b.mdl"),
        ("mdl:a/b.mdl@./a", "mdl:a/b.mdl"),
        ("mdl:a/b.mdl@{folder}/hf", "mdl:a/b.mdl@hf"),
        ("hub:a/b@main", "hub:a/b@main"),
    ],
)
def test_both_places_of_a_modelzoo_checkpoint_have_a_normal_form(write, tmp_path, source, normal):
    text = f"models: {{mine: {{source: '{source.format(folder=tmp_path.resolve())}'}}}}"
    study = with_normal_places(read_configuration([write(text)]), tmp_path)
    assert study.models["mine"].source == normal


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("training: {steps: 3}\ntraining: {lora_r: 4}", "line 2: training is given twice; keep one of them"),
        ("training:\n  steps: 3\n  steps: 4", "line 3: steps is given twice; keep one of them"),
        ('{"training": {"steps": 3, "steps": 4}}', "line 1: steps is given twice; keep one of them"),
        ("grid: {sparsities: [0, 050]}", "line 1: YAML reads 050 as 40; write 40, or the number without leading zeros"),
        ("grid:\n\tseeds: [1]", "line 2: not YAML of plain values (found character '\\t' that cannot start any token)"),
        (
            "grid:\n  seeds: !!python/object/apply:os.system [id]",
            "line 2: not YAML of plain values (could not determine",
        ),
        ("a: 2020-13-01", "not YAML of plain values (month must be in 1..12"),
        ("__use_yte__: true\na: ?1", "__use_yte__ makes Snakemake run expressions"),
        ("resources: {minutes: 1:30}", "line 1: YAML reads 1:30 as 90; write 90, or the number without"),
    ],
)
def test_what_yaml_would_read_as_something_else_is_refused(write, text, line):
    with pytest.raises(InputError) as caught:
        read_sections(write(text))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_digits_of_a_sparsity_are_what_they_say(write):
    text = "grid: {sparsities: [00, 05, 08, 50]}"
    assert read_configuration([write(text)]).grid.sparsities == [0, 5, 8, 50]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["--config", "a={x: 1}", "-n", "--config", "b=2"],
         "--config is given 2 times, and Snakemake takes the last one only; write all after one: --config 'a={x: 1}' b=2"),
        (["-Ca=1", "-C", "b=2"], "--config is given 2 times"),
        (["--configfile", "a", "--configfiles=b"],
         "--configfile is given 2 times, and Snakemake takes the last one only; write all after one: --configfile a b"),
        (["--config", "training={steps: 3, steps: 4}"], "--config training, line 1: steps is given twice; keep one"),
        (["--config", "keep_merged=True", "keep_merged=False"], "--config: keep_merged is given twice; write one"),
        (["--config", "grid.seeds=[1]"],
         "--config: grid.seeds is not a key of the configuration's first level; write --config 'grid={seeds: [1]}'"),
        (["--config", "keep_merged=True", "masks"], "--config takes every word after it for KEY=VALUE, and masks is not; put the"),
        (["--config", "1a=1"], "--config: 1a is not a key of"),
    ],
)  # fmt: skip
def test_a_command_that_snakemake_would_take_a_part_of_is_refused(command, line):
    with pytest.raises(InputError) as caught:
        check_command(["snakemake", *command])
    assert str(caught.value).startswith(line)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return a folder with two studies and what one of them has made."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "study", "results/analysis/summary.csv", "results/analysis/configuration.yaml",
                 "results/runs/x/evaluation.json"):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    Path("masks").mkdir()
    return tmp_path


@pytest.mark.parametrize("target", ["masks", "train", "results/analysis/summary.csv", "results/runs/x/evaluation.json",
                                    "masks/m/masks_sparsity50_random.pt", "."])  # fmt: skip
@pytest.mark.parametrize("option", ["--configfile", "--configfiles"])
def test_a_target_among_the_configuration_files_is_refused_with_the_right_command(folder, option, target):
    with pytest.raises(InputError) as caught:
        check_configfiles(["snakemake", "-n", option, "a.yaml", target, "--cores", "2"])
    what, mend = caught.value.args
    assert target in what
    assert mend.endswith(f": snakemake {target} -n {option} a.yaml --cores 2")


def test_a_configuration_file_that_is_not_there_is_named(folder):
    with pytest.raises(InputError, match=r"b\.yaml: no such file"):
        check_configfiles(["snakemake", "--configfile", "a.yaml", "b.yaml"])


@pytest.mark.parametrize("words", [["masks", "--configfile", "a.yaml", "study"], ["--configfile=a.yaml", "masks"],
                                   ["--configfile", "results/analysis/configuration.yaml", "--", "train"],
                                   ["train", "--config", "keep_merged=True"]])  # fmt: skip
def test_configuration_files_after_their_option_are_taken(folder, words):
    check_configfiles(["snakemake", *words])


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_file_names_its_schema_and_obeys_it(file):
    first = file.read_text().splitlines()[0]
    schema = file.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert schema.samefile(ROOT / "config/schema.json")
    jsonschema.validate(read_sections(file), json.loads(schema.read_text()))


def test_a_command_that_gives_each_thing_once_is_taken():
    check_command(["snakemake", "train", "--configfile", "a", "b", "--config", "training={steps: 3}", "backend=torch"])
