"""The configuration: what it refuses, and its schema."""

import difflib
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config
from sparseft.config import Config, parse_section, schema, split_mdl
from sparseft.errors import InputError

ROOT = Path(__file__).parent.parent
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())


def changed(path: str, value: object) -> dict:
    """The default configuration with one key set; path as a.b.c."""
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    *parents, last = path.split(".")
    section = raw
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = value
    return raw


def test_schema_json_is_what_config_py_generates():
    committed = (ROOT / "config/schema.json").read_text()
    diff = "\n".join(difflib.unified_diff(committed.splitlines(), schema().splitlines(), lineterm=""))
    assert committed == schema(), f"run: python -m sparseft.config > config/schema.json\n{diff}"


def test_every_configuration_file_is_valid():
    files = sorted((ROOT / "config").glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        merged = deepcopy(DEFAULT)
        update_config(merged, yaml.safe_load(file.read_text()))
        parse_section(Config, merged, "configuration")


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("grid.sparsitys", [0], "grid.sparsitys: unknown key"),
        ("grdi", {}, "grdi: unknown key"),
        ("grid.sparsities", [100], "grid.sparsities.0: Input should be less than 100, not 100"),
        ("grid.sparsities", [], "grid.sparsities: List should have at least 1 item"),
        ("grid.sparsities", [50, 50], "grid: sparsities lists a value twice"),
        ("grid.sparsities", "50", "grid.sparsities: Input should be a valid list, not '50'"),
        (
            "grid.methods",
            ["wandering"],
            "grid.methods.0: Input should be 'unstructured', 'structured', 'semistructured', 'random', ",
        ),
        (
            "grid.methods",
            ["random_magnitude"],
            "grid.methods.0: Input should be 'unstructured', 'structured', 'semistructured', 'random', ",
        ),
        ("grid.models", ["llama"], "grid asks for model 'llama', which models: does not describe"),
        ("training.lora_dropout", 0.1, "training.lora_dropout: sparse_to_sparse multiplies by (W + s B A) * M at once"),
        ("training.lora_targets", ["qproj"], "training.lora_targets.0: Input should be 'q_proj', 'k_proj', "),
        ("training.gradient", "biased", "training.gradient: Input should be 'exact' or 'straight_through'"),
        ("training.shard_model", True, "training: a divided model keeps neither states nor W'"),
        ("throughput.batch_sizes", [8, 0], "throughput.batch_sizes.1: Input should be greater than 0, not 0"),
        ("throughput.batch_sizes", [], "throughput.batch_sizes: List should have at least 1 item"),
        ("throughput.batch_sizes", [8, 8], "throughput: batch_sizes lists a value twice"),
        ("throughput.methods", ["best"], "throughput.methods.0: Input should be 'unstructured', 'structured', "),
        ("throughput.methods", ["structured"], "throughput.methods asks for structured, which grid.methods lacks"),
        ("throughput.sparsities", [0, 51], "throughput.sparsities asks for 51, which grid.sparsities lacks"),
        ("throughput.sequence_length", 1, "throughput.sequence_length: Input should be greater than or equal to 2"),
        ("resources.processes", 3, "3 processes cannot share 1 micro-batches a step; set training.micro_batch_size to"),
        ("backend", "tpu", "backend: Input should be 'torch', 'cerebras' or 'modelzoo', not 'tpu'"),
        ("cerebras.target", "GPU", "cerebras.target: Input should be 'CSX' or 'CPU', not 'GPU'"),
        ("grid.modes", ["sparse"], "grid.modes.0: Input should be 'sparse_to_dense' or 'sparse_to_sparse'"),
        (
            "grid.methods",
            ["semistructured"],
            "semistructured: 30 % is no N:4; ask for sparsities 0, 25, 50, 75, or set",
        ),
        ("masks.scope", "column", "masks.scope: Input should be 'layer', 'row' or 'global', not 'column'"),
        ("training.steps", "many", "training.steps: Input should be a valid integer, unable to parse string"),
        ("training.steps", 0, "training.steps: Input should be greater than 0"),
        ("training.micro_batch_size", 3, "training: micro_batch_size 3 does not divide batch_size 8"),
        ("tasks.boolq_mini.training", {"step": 3}, "tasks.boolq_mini.training: step: unknown key"),
        ("tasks.boolq_mini.train_examples", None, "tasks.boolq_mini is generated"),
        ("tasks.boolq_mini.hub", "org/boolq", "tasks.boolq_mini is generated"),
        ("tasks.boolq", {"hub": "boolq"}, "tasks.boolq.hub: String should match pattern"),
        ("tasks.boolq", {"hub": "org/boolq", "local": "boolq"}, "tasks.boolq: local and hub are two sources: give one"),
        ("tasks.boolq", {"local": ""}, "tasks.boolq.local: String should have at least 1 character"),
        ("perplexity", {"local": "a", "hub": "b/c"}, "perplexity: local and hub are two sources: give one"),
        ("perplexity", {"context": 1}, "perplexity.context: Input should be greater than or equal to 2"),
        ("models.smollm2.source", "ftp:x", "models.smollm2.source: String should match pattern"),
        ("models.smollm2.sha256", None, "models.smollm2: a pypi: source needs the sha256 of its wheel"),
        ("models.other", {"source": "mdl:x.bin"}, "models.other.source: String should match pattern"),
        ("models.a-b", {"source": "path:x"}, "models.a-b: String should match pattern"),
    ],
)
def test_a_fault_is_one_line_that_names_its_place(path, value, line):
    with pytest.raises(InputError) as caught:
        parse_section(Config, changed(path, value), "configuration")
    message = str(caught.value)
    assert message.startswith(f"configuration: {line}"), message
    assert message.endswith("; config/schema.json describes every key")
    assert "\n" not in message


def test_several_processes_are_not_for_the_wafer():
    raw = changed("resources.processes", 2)
    raw |= {"backend": "cerebras", "training": {"batch_size": 8, "micro_batch_size": 4}}
    with pytest.raises(InputError, match=r"resources.processes: Cerebras' backends train in one; more systems"):
        parse_section(Config, raw, "configuration")


def test_a_schedule_that_the_wafer_cannot_have_is_refused_before_anything_runs():
    raw = changed("training", {"cache_weights": True}) | {"backend": "cerebras"}
    with pytest.raises(InputError, match=r"training.cache_weights: Cerebras' backends have none"):
        parse_section(Config, raw, "configuration")


@pytest.mark.parametrize("name", ["batch_size", "evaluation_batch_size"])
def test_the_systems_share_every_batch_evenly(name):
    sizes = {"batch_size": 6, "evaluation_batch_size": 6} | {name: 4}
    raw = changed("training", {"batch_size": sizes["batch_size"], "micro_batch_size": 1})
    raw |= {"backend": "cerebras", "cerebras": {"num_csx": 3}, "evaluation_batch_size": sizes["evaluation_batch_size"]}
    with pytest.raises(InputError, match=f"cerebras.num_csx 3 does not divide {name} 4; choose a divisor"):
        parse_section(Config, raw, "configuration")


def test_a_task_s_own_schedule_lies_over_the_common_one():
    study = parse_section(Config, changed("tasks.boolq", {"training": {"steps": 7}}), "configuration")
    assert study.training_of("boolq").model_dump() == {**study.training.model_dump(), "steps": 7}
    study = parse_section(Config, changed("tasks.boolq", {}), "configuration")
    assert study.training_of("boolq") == study.training


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("a/b.mdl", ("a/b.mdl", "a")),
        ("b.mdl@hf", ("b.mdl", "hf")),
        ("/home/me@here/b.mdl@c@d", ("/home/me@here/b.mdl", "c@d")),
        ("a.mdl/b.mdl", ("a.mdl/b.mdl", "a.mdl")),
        ("models/llama", None),
    ],
)
def test_an_mdl_place_is_a_file_and_the_folder_of_its_configuration(place, found):
    assert split_mdl(place) == (tuple(map(Path, found)) if found else None)
