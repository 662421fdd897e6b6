"""The configuration: what it refuses."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from project import laid_over
from snakemake.utils import update_config
from sparseft.errors import InputError
from sparseft.records.manifests import MaskMeta
from sparseft.study.config import Config, Masks, Training, split_mdl
from sparseft.study.section import parse_section

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("path", ["masks.seed", "masks.calibration_seed", "tasks.boolq_mini.seed", "grid.seeds"])
def test_a_seed_fits_into_an_int64(path):
    def section(seed: int) -> dict:
        return changed(path, [seed] if path == "grid.seeds" else seed)

    parse_section(Config, section(2**63 - 1), "configuration")
    with pytest.raises(InputError, match=rf"{re.escape(path)}.*9223372036854775808"):
        parse_section(Config, section(2**63), "configuration")


@pytest.mark.parametrize("path", ["training.steps", "training.eval_every", "training.save_every", "throughput.steps",
                                  "throughput.warmup_steps", "perplexity.context", "resources.memory_mb",
                                  "masks.calibration_examples", "tasks.boolq_mini.train_examples"])  # fmt: skip
def test_a_count_is_at_most_a_thousand_million(path):
    with pytest.raises(InputError, match=rf"{re.escape(path)}.* 1000000000, .*1000000001"):
        parse_section(Config, changed(path, 10**9 + 1), "configuration")


@pytest.mark.parametrize("path", ["training.batch_size", "training.lora_r"])
def test_a_batch_and_a_rank_are_at_most_65536(path):
    with pytest.raises(InputError, match=rf"{re.escape(path)}.* 65536, .*65544"):
        parse_section(Config, changed(path, 65544), "configuration")


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
        ("grid.sparsitys", [0], "grid.sparsitys: unknown"),
        ("grdi", {}, "grdi: unknown"),
        ("grid.sparsities", [100], "grid.sparsities.0: .*less than 100"),
        ("grid.sparsities", [], "grid.sparsities: .*at least 1 item"),
        ("grid.sparsities", [50, 50], "grid: sparsities .*twice"),
        ("grid.sparsities", "50", "grid.sparsities: .* list, .*'50'"),
        ("grid.methods", ["wandering"], "grid.methods.0: method 'wandering' is unknown; .*unstructured, "),
        ("grid.methods", ["random_magnitude"], "grid.methods.0: method 'random_magnitude' is unknown"),
        ("grid.methods", ["dense"], "grid.methods.0: 'dense' .*grid.sparsities"),
        ("grid.methods", ["unstructured_wanda_on_c4"], "unstructured_wanda_on_c4 .*masks.calibration .*c4: {text: "),
        ("grid.methods", ["structured_on_c4"], "grid.methods.0: .*structured looks at no examples; write structured"),
        ("grid.methods", ["unstructured_wanda_on_C4"], "grid.methods.0: .*'C4' is not the name of a text"),
        ("masks.calibration", {"C4": {"text": "a.jsonl"}}, "masks.calibration.C4: .*pattern"),
        ("masks.calibration", {"c4": {}}, "masks.calibration.c4.text: Field required"),
        ("masks.calibration", {"c4": {"text": "a.json"}}, "masks.calibration.c4: text 'a.json': .*.jsonl .*hub:"),
        ("masks.calibration", {"c4": {"text": "hub:c4"}}, "masks.calibration.c4: text 'hub:c4': .*hub:ORG/NAME"),
        ("masks.calibration", {"c4": {"text": "a.txt", "length": 1}}, "masks.calibration.c4.length: .*equal to 2"),
        ("grid.methods", ["imported_a"], "imported_a imports a, .*masks.imported .*{a: {50: path:DIR}}"),
        ("grid.methods", ["imported_A"], "grid.methods.0: .*'A' is not the name of imported checkpoints"),
        ("masks.imported", {"A": {50: "path:x"}}, "masks.imported.A: .*pattern"),
        ("masks.imported", {"a": {}}, "masks.imported.a: .*at least 1 item"),
        ("masks.imported", {"a": {0: "path:x"}}, "masks.imported.a.0: .*greater than 0"),
        ("masks.imported", {"a": {50: "pypi:x==1"}}, "masks.imported.a.50: .*pattern"),
        ("grid.models", ["llama"], "grid .*model 'llama'"),
        ("results", "results/runs", "results: 'results/runs' is not a folder of results; .*results/NAME"),
        ("results", "results/a/b", "results: 'results/a/b' is not "),
        ("results", "results/..", "results: 'results/..' is not "),
        ("results", "/tmp/a", "results: '/tmp/a' is not "),
        ("analysis.against", "structured_taylor", "analysis.against .*structured_taylor.* grid.methods"),
        ("analysis.compare", ["best"], "analysis.compare.0: .*'dense', 'untuned', 'methods' or 'modes', .*'best'"),
        ("grid.trainings", {"a" * 100: {"steps": 9}}, "grid: the name a{100} ends in 20 equal parts"),
        ("grid.trainings", {"x1" * 20: {"steps": 9}}, "grid: the name (x1){20} ends in 20 equal parts"),
        (
            "grid.trainings",
            {"abcde12" * 19: {"steps": 9}},
            "grid: the run smollm2-.* a name of 2.. characters, and at most 200",
        ),
        ("training.lora_dropout", 0.1, "training.lora_dropout 0.1: .*sparse_to_sparse"),
        ("training.lora_targets", ["qproj"], "training.lora_targets.0: .*'q_proj'.*'qproj'"),
        ("training.gradient", "biased", "training.gradient: .*'exact' or 'straight_through'"),
        ("training.shard_model", True, "training.shard_model needs at least 2 processes; .*resources.processes"),
        ("training", {"shard_model": True, "cache_weights": True}, "training: shard_model .*cache_weights"),
        ("throughput.batch_sizes", [8, 0], "throughput.batch_sizes.1: .*greater than 0"),
        ("throughput.batch_sizes", [], "throughput.batch_sizes: .*at least 1 item"),
        ("throughput.batch_sizes", [8, 8], "throughput: batch_sizes .*twice"),
        ("throughput.methods", ["best"], "throughput.methods.0: method 'best' is unknown"),
        ("throughput.methods", ["semistructured"], "throughput.methods .*semistructured.* grid.methods"),
        ("throughput.sparsities", [0, 51], "throughput.sparsities .*51.* grid.sparsities"),
        ("throughput.sequence_length", 1, "throughput.sequence_length: .*equal to 2"),
        ("resources.processes", 3, "resources.processes: 3 processes .*micro-batches.*training.micro_batch_size"),
        ("backend", "tpu", "backend: .*'torch', 'cerebras' or 'modelzoo', .*'tpu'"),
        ("cerebras.target", "GPU", "cerebras.target: .*'CSX' or 'CPU', .*'GPU'"),
        (
            "grid.modes",
            ["sparse"],
            "grid.modes.0: .*'sparse_to_dense', 'sparse_to_sparse', 'reconstruct' or 'reconstruct_to_sparse'",
        ),
        ("grid.methods", ["semistructured"], "semistructured: 10 % .*N:4.* 0, 25, 50, 75\\b"),
        ("masks.owl_lambda", 0, "masks.owl_lambda: .*greater than 0"),
        ("masks.scope", "column", "masks.scope: .*'layer', 'row' or 'global', .*'column'"),
        ("training.steps", "many", "training.steps: .*integer.*'many'"),
        ("training.steps", 0, "training.steps: .*greater than 0"),
        ("training.micro_batch_size", 3, "training: micro_batch_size 3 .*batch_size 8"),
        ("tasks.boolq_mini.training", {"step": 3}, "tasks.boolq_mini.training: step: unknown"),
        ("tasks.boolq_mini.train_examples", None, "tasks.boolq_mini is generated"),
        ("tasks.boolq_mini.hub", "org/boolq", "tasks.boolq_mini is generated"),
        ("tasks.boolq", {"hub": "boolq"}, "tasks.boolq.hub: .*pattern"),
        ("tasks.boolq", {"hub": "org/boolq", "local": "boolq"}, "tasks.boolq: local and hub"),
        ("tasks.boolq", {"local": ""}, "tasks.boolq.local: .*at least 1 character"),
        ("perplexity", {"local": "a", "hub": "b/c"}, "perplexity: local and hub"),
        ("perplexity", {"context": 1}, "perplexity.context: .*equal to 2"),
        ("models.smollm2.source", "ftp:x", "models.smollm2.source: .*pattern"),
        ("models.smollm2.sha256", None, "models.smollm2: .*pypi: .*sha256"),
        ("models.other", {"source": "mdl:x.bin"}, "models.other.source: .*pattern"),
        ("models.a-b", {"source": "path:x"}, "models.a-b: .*pattern"),
        ("models.smollm2.source", "path:x", "models.smollm2: sha256 .*wheel.* path:x"),
        ("training.steps", True, "training: steps .*yes/no"),
        ("training.weight_decay", True, "training: weight_decay .*yes/no"),
        ("grid.sparsities", [False, 50], "grid: sparsities .*yes/no"),
        ("tasks.boolq_mini.training", {"steps": True}, "tasks.boolq_mini.training: steps .*yes/no"),
        ("training.cache_weights", "maybe", "training.cache_weights: .*boolean"),
        ("training", None, "training: .*dictionary"),
        ("grid", None, "grid: .*dictionary"),
        ("tasks.boolq", None, "tasks.boolq: .*dictionary"),
        ("tasks.boolq", {"local": "null"}, "tasks.boolq: local: 'null' .*--config"),
        ("cerebras.lock", "None", "cerebras: lock: 'None' .*--config"),
        ("cerebras.lock", "", "cerebras.lock: .*at least 1 character"),
        ("grid.sparsities", ["5", 5], "grid: sparsities .*twice"),
        ("grid.sparsities", ["0.50"], "grid.sparsities.0: .*integer.*'0.50'"),
        ("grid.sparsities", "[0, 50]", r"grid.sparsities: .* list, .*'\[0, 50\]'"),
        ("tasks.boolq_mini.examples", 5, "tasks.boolq_mini.examples: unknown"),
        ("tasks.squad", {}, "tasks.squad is not built in.* boolq, hellaswag, gsm8k"),
    ],
)
def test_a_fault_is_one_line_that_names_its_place(path, value, line):
    with pytest.raises(InputError) as caught:
        parse_section(Config, changed(path, value), "configuration")
    message = str(caught.value)
    assert re.match(f"configuration: {line}", message), message
    assert "config/schema.json" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("method", "masks", "line"),
    [
        ("unstructured_owl", {"scope": "global"}, "masks.scope global is impossible with unstructured_owl: "),
        ("semistructured_wanda_owl", {}, "masks.owl_lambda 0.08 is too small for N:4: "),
    ],
)
def test_an_allocation_that_the_masks_cannot_have_is_refused_before_anything_runs(method, masks, line):
    raw = changed("grid", {**DEFAULT["grid"], "methods": [method], "sparsities": [0, 50]}) | {"masks": masks}
    with pytest.raises(InputError, match=line):
        parse_section(Config, raw, "configuration")


def test_several_processes_are_not_for_the_wafer():
    raw = changed("resources.processes", 2)
    raw |= {"backend": "cerebras", "training": {"batch_size": 8, "micro_batch_size": 4}}
    with pytest.raises(InputError, match=r"resources\.processes 2: .*Cerebras"):
        parse_section(Config, raw, "configuration")


def test_a_schedule_that_the_wafer_cannot_have_is_refused_before_anything_runs():
    raw = changed("training", {"cache_weights": True}) | {"backend": "cerebras"}
    with pytest.raises(InputError, match=r"training\.cache_weights: .*Cerebras"):
        parse_section(Config, raw, "configuration")


@pytest.mark.parametrize("name", ["batch_size", "evaluation_batch_size"])
def test_the_systems_share_every_batch_evenly(name):
    sizes = {"batch_size": 6, "evaluation_batch_size": 6} | {name: 4}
    raw = changed("training", {"batch_size": sizes["batch_size"], "micro_batch_size": 1})
    raw |= {"backend": "cerebras", "cerebras": {"num_csx": 3}, "evaluation_batch_size": sizes["evaluation_batch_size"]}
    with pytest.raises(InputError, match=rf"cerebras\.num_csx 3 .*{name} 4\b"):
        parse_section(Config, raw, "configuration")


def test_a_task_s_own_schedule_lies_over_the_common_one():
    study = parse_section(Config, changed("tasks.boolq", {"training": {"steps": 7}}), "configuration")
    assert study.training_of("boolq").model_dump() == {**study.training.model_dump(), "steps": 7}
    study = parse_section(Config, changed("tasks.boolq", {}), "configuration")
    assert study.training_of("boolq") == study.training


def schedule(training: dict, own: dict, task: str = "hellaswag_mini") -> tuple[int, float, int]:
    """Return steps, learning rate and batch size of a task; `own` is its tasks.NAME.training."""
    raw = changed(f"tasks.{task}.training", own) | {"training": training}
    found = parse_section(Config, raw, "configuration").training_of(task)
    return found.steps, found.learning_rate, found.batch_size


def test_each_layer_of_a_schedule_lies_over_those_before_it():
    assert schedule({}, {}) == (20, 0.003, 4)  # the task's suggestion over the default of 60 steps
    assert schedule({"steps": 3}, {}) == (3, 0.003, 4)  # the user's `training` over the suggestion
    assert schedule({"steps": 60}, {}) == (60, 0.003, 4)  # even where it is the default
    assert schedule({"steps": 3}, {"steps": 5, "batch_size": 16}) == (5, 0.003, 16)  # the task's own keys over all
    assert schedule({"steps": "3"}, {"learning_rate": "5e-1"}) == (3, 0.5, 4)  # numbers of --config come as text


def test_the_default_study_s_schedules_are_these():
    study = parse_section(Config, DEFAULT, "configuration")
    expected = {
        "hellaswag_mini": {"steps": 20, "learning_rate": 0.003, "batch_size": 4, "micro_batch_size": 4},
        "boolq_mini": {"steps": 24, "learning_rate": 0.001},
        "gsm8k_mini": {"steps": 40, "learning_rate": 0.001},
    }
    assert study.tasks.keys() == expected.keys()
    for task, suggested in expected.items():
        assert study.training_of(task) == Training(**suggested)  # every other key has its default


def test_text_of_the_command_line_is_read_as_what_it_says():
    raw = changed("keep_merged", "False") | {"training": {"cache_weights": "true"}, "analysis": {"tolerance": "0.50"}}
    study = parse_section(Config, raw, "configuration")
    assert (study.keep_merged, study.training.cache_weights, study.analysis.tolerance) == (False, True, 0.5)


def test_a_key_that_every_task_of_the_grid_replaces_is_said():
    raw = changed("tasks.hellaswag_mini.training", {"steps": 5}) | {"training": {"steps": 3, "lora_r": 4}}
    (sentence,) = parse_section(Config, raw, "configuration").unused_training()
    assert re.match(r"training\.steps 3 .*tasks\.hellaswag_mini\.training\.steps .*5$", sentence)
    raw["grid"]["tasks"] = ["hellaswag_mini", "boolq_mini"]
    assert parse_section(Config, raw, "configuration").unused_training() == []


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


@pytest.mark.parametrize(("tasks", "place"), [
    ({"mine": {}}, "tasks.mine is not built in"),
    ({"boolq": {"lm_eval": "boolq"}}, "tasks.boolq.lm_eval: boolq is built in"),
    ({"mine": {"lm_eval": "piqa", "kind": "text"}}, "lm_eval and kind"),
    ({"mine": {"kind": "instruction", "local": "x", "length": 64}}, "length belongs to"),
    ({"mine": {"kind": "text", "local": "x", "metric": "acc"}}, "metric belongs to"),
    ({"my-task": {"kind": "text", "local": "x"}}, "tasks.my-task"),
])  # fmt: skip
def test_a_task_of_one_s_own_is_described_once(tasks, place):
    with pytest.raises(InputError, match=place):
        laid_over({"tasks": tasks})


def test_a_probe_without_a_description_is_lm_eval_s_task_of_this_name():
    config = laid_over({"tasks": {"mine": {"kind": "text", "local": "x"}}, "evaluation": {"probes": ["piqa", "boolq"]}})
    assert config.task_data("piqa").lm_eval == "piqa"
    assert config.task_data("boolq").task_kind is None
    assert config.evaluated_tasks("mine") == ["mine", "piqa", "boolq"]
    with pytest.raises(InputError, match="evaluation.probes: mine has no metric but its loss"):
        laid_over({"tasks": {"mine": {"kind": "text", "local": "x"}}, "evaluation": {"probes": ["mine"]}})


def test_two_probes_whose_columns_would_have_one_name_are_refused():
    for ending in ("_stderr", "_examples", "_low", "_high", "_mean", "_sd"):
        with pytest.raises(
            InputError, match=f"evaluation.probes: piqa and piqa{ending} would have .*; rename"
        ) as refusal:
            laid_over({"evaluation": {"probes": ["rte", f"piqa{ending}", "piqa"]}})
        assert "\n" not in str(refusal.value)
    assert laid_over({"evaluation": {"probes": ["rte_low", "piqa", "piqa_lower"]}}).evaluation.probes


def test_sparsegpt_has_settings_of_its_own_and_its_own_scope():
    masks = Masks(scope="row", sparsegpt_block=64)
    assert masks.scope_of("unstructured_sparsegpt", [50]) == "block"
    assert masks.scope_of("semistructured_sparsegpt", [50]) == "group"
    own = {"sparsegpt_block": 64, "sparsegpt_damping": 0.01}
    task = {"calibration_examples": 128, "calibration_seed": 0}
    assert masks.used_by("unstructured_sparsegpt") == own | task
    assert masks.used_by("semistructured_sparsegpt") == own | task | {"nm_group": 4}
    assert "sparsegpt_block" not in masks.used_by("unstructured_wanda")
    # The analysis compares these settings between runs.
    assert own.keys() <= MaskMeta.model_fields.keys()
    # Wanda's `sequential` says nothing about it.
    assert Masks(scope="global").scope_of("unstructured_sparsegpt", [50]) == "block"


def test_a_group_of_n_to_m_lies_in_one_block_of_columns():
    masks = Masks(nm_group=10, sparsegpt_block=128)
    assert masks.scope_of("semistructured", [50]) == "group"
    with pytest.raises(
        InputError, match="masks.sparsegpt_block 128: semistructured_sparsegpt.*; set it to a multiple of 10"
    ):
        masks.scope_of("semistructured_sparsegpt", [50])


def imported(sparsities: list[int], models: list[str]) -> dict:
    """The default configuration with imported checkpoints at 50 and 70 %."""
    raw = changed("masks.imported", {"a": {50: "path:x", "70": "hub:b/c"}})
    raw["models"]["other"] = {"source": "path:y"}
    raw["grid"] |= {"methods": ["imported_a"], "sparsities": sparsities, "models": models}
    return raw


def test_imported_checkpoints_are_those_of_the_grids_sparsities_and_only_model():
    config = parse_section(Config, imported([0, 50, 70], ["smollm2"]), "configuration")
    assert config.masks.imported_source("imported_a", 70) == "hub:b/c"
    with pytest.raises(
        InputError, match=r"masks\.imported\.a has no checkpoint at 60 %, only at 50, 70 %; .*grid\.sparsities"
    ):
        parse_section(Config, imported([50, 60], ["smollm2"]), "configuration")
    with pytest.raises(
        InputError, match=r"grid\.methods: the checkpoints of imported_a are of one model, and grid\.models lists 2"
    ):
        parse_section(Config, imported([50], ["smollm2", "other"]), "configuration")
