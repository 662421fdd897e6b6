"""The configuration: what it refuses, the schedules of its tasks, and what its masks depend on."""

import json
import re
from contextlib import nullcontext
from copy import deepcopy

import jsonschema
import pytest
from project import DEFAULT, ROOT, laid_over
from sparseft.axes.methods import get_method
from sparseft.common.errors import InputError, one_line
from sparseft.common.section import parse_section
from sparseft.pruning.masks.mask_record import MaskMeta
from sparseft.pruning.masks.settings import Masks, whole_percent
from sparseft.study.config import Config
from sparseft.study.inputs import check_sources
from sparseft.study.yaml_file import read_sections
from sparseft.training.settings import Distillation

FILES = sorted((ROOT / "config").glob("*.yaml"))
TEXT = {"kind": "text", "local": "x"}
WEB, MIXED = {"text": "web.jsonl"}, {"text": ["self", "web"]}


def changed(path: str, value: object) -> dict:
    """The default configuration with one key set; path as a.b.c."""
    raw = section = deepcopy(DEFAULT)
    *parents, last = path.split(".")
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = value
    return raw


# Texts under masks.calibration, and what is wrong with them.
TEXTS = [
    ({"c4": {"text": "c4.csv"}}, "c4.text: write a .jsonl file .*, not 'c4.csv'"),
    ({"c4": {"text": "hub:c4.txt"}}, "c4.text: write a .jsonl file"),
    ({"web": WEB, "mix": MIXED | {"examples": 1}}, "mix: examples 1 are too few"),
    ({"web": WEB, "mix": MIXED | {"examples": 130}}, "mix takes 65 windows of self, which has 64; raise masks.cal"),
    ({"web": WEB | {"temperature": 2}}, "web: temperature and together belong to text: self"),
    ({"self": {"text": "self", "choice": "get_c4"}}, "self: choice belongs to documents"),
    ({"self": WEB}, "self: this name is taken"),
    ({"divergence": {"text": "self"}}, "divergence: this name is taken"),
    ({"tasks": WEB}, "tasks: the name of a mixture with the part task begins"),
    ({"mix": {"text": ["self", "web"]}}, "mix: web is not a text under"),
    ({"web": WEB, "mix": MIXED, "big": {"text": ["self", "mix"]}}, "big: mix is not a text .* or is itself a mixture"),
    ({"web": WEB, "mix": MIXED | {"shares": [1]}}, "mix: shares needs a number per"),
    ({"web": WEB, "mix": MIXED | {"shares": [1, 0]}}, "mix.shares.1: .*greater than 0"),
]
OWN = DEFAULT["grid"] | {"methods": ["semistructured"], "sparsities_of": {"semistructured": [20]}}


@pytest.mark.parametrize(("path", "value", "line"), [
    # keys and types
    ("grid.sparsitys", [0], r"grid.sparsitys: unknown key \(the nearest is sparsities\);"),
    ("steps", 3, "steps: unknown key, not 3;"),
    ("grid.sparsities", [0.5], "grid.sparsities.0: .*valid integer.*, not 0.5;"),
    ("grid.seeds", [True], "grid: seeds cannot be .True."),
    ("grid.sparsities", [100], "grid.sparsities.0: .*less than 100, not 100"),
    ("grid.sparsities", ["5", 5], "grid: sparsities .*twice"),
    ("grid.seeds", 2, r"grid.seeds: write a list, \[2\], not 2;"),
    ("training", None, "training: .*dictionary"),
    ("training.learning_rate", float("nan"), "training.learning_rate: .*, not nan"),
    ("training.lora_targets", ["qproj"], "training.lora_targets.0: .*'q_proj'.*'qproj'"),
    # names
    ("models.a-b", {"source": "path:x"}, "models.a-b: .*pattern"),
    ("grid.trainings", {"seed0": {}}, "grid.trainings.seed0: .*pattern"),
    ("results", "results/runs", "results: .*pattern .*, not 'results/runs'"),
    # sources
    ("models.smollm2.source", "org/name", "models.smollm2.source: write hub:ORG/NAME .*, not 'org/name'"),
    ("models.smollm2.sha256", None, "models.smollm2: .*pypi: .*sha256"),
    ("tasks.boolq", {"hub": "boolq"}, "tasks.boolq.hub: .*pattern"),
    ("tasks.boolq", {"hub": "org/boolq", "local": "boolq"}, "tasks.boolq: give one of local and hub"),
    ("perplexity", {"local": "a", "hub": "b/c"}, "perplexity: local and hub"),
    ("models.a\n", {"source": "path:x"}, "'a.n' ends in a line break"),
    ("grid.models", ["smollm2\n"], "'smollm2.n' ends in a line break"),
    ("models.smollm2.source", "path:x", "models.smollm2: sha256 .*wheel.* path:x"),
    ("masks.imported_pattern", {"a": "2:4"}, "masks: imported_pattern.a: imported has no checkpoint of this name"),
    ("tasks.mine", TEXT | {"metric": "acc"}, "tasks.mine: metric and answer belong to"),
    ("tasks.mine", {"kind": "instruction", "local": "x", "length": 64}, "tasks.mine: length belongs to"),
    ("tasks.mine", TEXT | {"text": "self"}, "tasks.mine: text belongs to a task of kind text without local"),
    ("reconstruction", {"calibration": "self", "examples": 65}, "reconstruction.examples 65: self has fewer"),
    ("evaluation.divergence", 1, "evaluation.divergence 1: one window has no standard error"),
    ("evaluation.divergence", -1, "evaluation.divergence: .*greater than or equal to 0, not -1"),
    ("masks.imported", {"a": {50: "pypi:x==1"}}, "masks.imported.a.50: .*pattern"),
    ("masks.imported_pattern", {"a": "4:2"}, "masks: imported_pattern.a 4:2: N must be less than M"),
    # tasks
    ("tasks.squad", {}, "tasks.squad: a task needs lm_eval or kind .* boolq, hellaswag, gsm8k"),
    ("tasks.boolq", {"lm_eval": "boolq"}, "tasks.boolq: a task needs lm_eval or kind unless it is built in"),
    ("tasks.mine", TEXT | {"lm_eval": "piqa"}, "tasks.mine: .*one of lm_eval and kind"),
    ("tasks.mine", {"kind": "instruction", "hub": "a/b"}, "tasks.mine: a task of kind instruction .*local"),
    ("tasks.mine", {"kind": "text"}, "tasks.mine: a task of kind text needs"),
    ("tasks.boolq_mini.training", {"step": 3}, "tasks.boolq_mini.training: step: unknown key"),
    # methods
    ("grid.methods", ["wandering"], "grid.methods.0: method 'wandering' is unknown; docs/methods.md"),
    ("grid.methods", ["dense"], "grid.methods.0: 'dense' .*grid.sparsities"),
    ("grid.methods", ["unstructured_wanda_on_c4"], "unstructured_wanda_on_c4 .*masks.calibration .*c4: {text: "),
    ("grid.methods", ["imported_a"], "masks.imported.a has no checkpoint at 50 %; .*{a: {50: path:DIR}}"),
    ("grid", OWN, "semistructured: 20 % .*N:4.* 0, 25, 50, 75\\b"),
    # references
    ("grid.models", ["llama"], "grid.models asks for 'llama', which is none of smollm2"),
    ("analysis.against", "experts", "analysis.against asks for 'experts', which is none of unstructured"),
    ("throughput.sparsities", [0, 51], "throughput.sparsities asks for 51, which is none of 0, 50"),
    # schedules
    ("training.micro_batch_size", 3, "training: micro_batch_size 3 .*batch_size 8"),
    ("training.lora_dropout", 0.1, "training.lora_dropout 0.1: .*sparse_to_sparse"),
    ("training", {"shard_model": True, "cache_weights": True}, "training: shard_model .*cache_weights"),
    ("resources.processes", 3, "resources.processes: 3 processes .*micro-batches.*training.micro_batch_size"),
    ("resources", {"processes": 2, "gpus": 1}, "resources: gpus 1, processes 2: .*; set gpus to 2 or 0"),
    *(("masks.calibration", texts, f"masks(?:: |.)calibration.{line}") for texts, line in TEXTS),
])  # fmt: skip
def test_a_fault_is_one_line_that_names_its_place(path, value, line):
    with pytest.raises(InputError) as caught:
        parse_section(Config, changed(path, value), "configuration")
    # As every program prints it.
    message = one_line(caught.value)
    assert re.match(f"configuration: {line}", message), message
    assert "config/schema.json" in message
    assert "\n" not in message


BACKENDS = ("cerebras", "modelzoo")


@pytest.mark.parametrize(("sections", "line"), [
    ({"grid": {"methods": ["unstructured_owl"]}, "masks": {"scope": "global"}},
     "masks.scope global is impossible with unstructured_owl"),
    ({"grid": {"methods": ["unstructured_wanda"]}, "masks": {"scope": "global"}},
     "masks.scope global is impossible with masks.sequential"),
    ({"grid": {"methods": ["semistructured_wanda_owl"], "sparsities": [0, 50]}},
     "masks.owl_lambda 0.08 is too small for N:4"),
    ({"grid": {"methods": ["semistructured_wanda_owl"], "sparsities": [0, 50]}, "masks": {"owl_lambda": 0.125}},
     "masks.owl_lambda 0.125 is too small for N:4.*; set it to 0.126 or more"),
    ({"grid": {"methods": ["semistructured8_sparsegpt"], "sparsities": [50]}, "masks": {"sparsegpt_block": 100}},
     "masks.sparsegpt_block 100: semistructured8_sparsegpt.*; set it to a multiple of 8"),
    ({"models": {"other": {"source": "path:y"}}, "masks": {"imported": {"a": {10: "path:x"}}},
      "grid": {"methods": ["imported_a"], "models": ["smollm2", "other"]}}, r"grid\.methods: .*imported_a.* one model"),
    ({"tasks": {"mine": TEXT}, "evaluation": {"probes": ["mine"]}}, "evaluation.probes: .*mine.* no metric"),
    ({"backend": "cerebras", "resources": {"processes": 2}, "training": {"batch_size": 8, "micro_batch_size": 4}},
     r"resources\.processes 2: .*Cerebras"),
    ({"grid": {"modes": ["full_sparse_to_sparse"]}, "resources": {"processes": 2},
      "training": {"batch_size": 4, "micro_batch_size": 2}}, r"resources\.processes: 2 processes would each hold all"),
    ({"grid": {"modes": ["reconstruct"]}, "resources": {"processes": 2},
      "training": {"shard_model": True, "batch_size": 4, "micro_batch_size": 2}},
     r"training\.shard_model: reconstruct needs the whole model"),
    ({"backend": "cerebras", "training": {"batch_size": 4, "micro_batch_size": 1}, "cerebras": {"num_csx": 3}},
     r"cerebras\.num_csx 3 .*batch_size 4\b"),
    ({"grid": {"modes": ["reconstruct"], "methods": ["layers_random"]}},
     r"grid\.modes: .*nothing to learn with \['layers_random'\]"),
    ({"models": {"part": {"source": "pruned:other/sparsity50_layers_random"}}},
     r"models\.part: this study makes no pruned:other/sparsity50_layers_random"),
    ({"models": {"part": {"source": "pruned:smollm2/sparsity50_layers_perplexity_on_task"}}},
     r"models\.part: this study makes no pruned:smollm2/.*; write .*pruned:MODEL/TASK/sparsityXX_MET"),
    ({"models": {"part": {"source": "pruned:smollm2/sparsity50_unstructured"}}},
     r"models\.part: this study makes no pruned:smollm2/sparsity50_unstructured;"),
    ({"models": {"part": {"source": "pruned:smollm2/mine/sparsity50_layers_perplexity_on_task"}}},
     r"models\.part: this study makes no pruned:smollm2/mine/"),
    ({"models": {"part": {"source": "pruned:part/sparsity50_layers_random"}}}, r"models\.part is made from itself"),
    ({"training": {"recover_on": "boolq_mini"}, "grid": {"tasks": ["boolq_mini"]}},
     r"recover_on boolq_mini: name a task of kind text that is in grid\.tasks"),
    ({"tasks": {"mine": {"kind": "text", "text": "c4"}}, "grid": {"tasks": ["mine"]}},
     "tasks.mine.text c4: name a text under masks.calibration that the model samples, or self"),
    ({"grid": {"tasks": ["sampled"]}, "evaluation": {"divergence": 0}},
     "tasks.sampled: its validation rows are .* set evaluation.divergence to 2 or more"),
    ({"tasks": {"mine": TEXT}, "training": {"recover_on": "mine"}, "grid": {"methods": ["unstructured"]}},
     r"recover_on mine: name a task of kind text that is in grid\.tasks"),
    ({"tasks": {"mine": TEXT}, "training": {"recover_on": "mine"},
      "grid": {"tasks": ["mine"], "methods": ["unstructured_wanda"]}},
     r"mine: the masks of \['unstructured_wanda'\] differ from task to task"),
    ({"tasks": {"mine": TEXT}, "training": {"recover_on": "mine"},
      "grid": {"tasks": ["mine"], "methods": ["unstructured"], "modes": ["reconstruct_to_sparse"]}},
     "recover_on mine: reconstruct_to_sparse starts from reconstruct"),
    ({"grid": {"modes": ["reconstruct_to_sparse"], "trainings": {"good": {}, "bad": {"lora_dropout": 0.1}}}},
     "grid.trainings.bad, for .*: training.lora_dropout 0.1: in reconstruct"),
    *(({"backend": backend, "training": {"cache_weights": True}}, r"training\.cache_weights True: Cerebras")
      for backend in BACKENDS),
    *(({"backend": backend, "grid": {"methods": ["unstructured_sparsegpt"]}},
       "grid.methods .'unstructured_sparsegpt'.,.*: Cerebras' backends train .* without a pruned base")
      for backend in BACKENDS),
    *(({"backend": backend, "grid": {"modes": ["reconstruct"]}}, "grid.modes .'reconstruct'.: .* a reconstruction")
      for backend in BACKENDS),
])  # fmt: skip
def test_sections_that_do_not_fit_each_other_are_refused(sections, line):
    with pytest.raises(InputError, match=line):
        laid_over(sections)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_configuration_file_names_its_schema_and_obeys_it(file):
    name = file.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    schema = json.loads((file.parent / name).read_text())
    jsonschema.validate(read_sections(file), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"training": {"stepz": 1}}, schema)


@pytest.mark.parametrize(("training", "own", "named", "expected"), [
    ({}, {}, {}, (20, 0.003, 4)),  # the task's suggestion over the default of 60 steps
    ({"steps": 60}, {}, {}, (60, 0.003, 4)),  # the user's `training` over the suggestion, even if it is the default
    ({"steps": 3}, {"steps": 5, "batch_size": 16}, {}, (5, 0.003, 16)),  # the task's own keys over both
    ({"steps": 3}, {"steps": 5, "batch_size": 16}, {"steps": 7}, (7, 0.003, 16)),  # the training's keys over all
    ({"steps": "3"}, {"learning_rate": "5e-1"}, {}, (3, 0.5, 4)),  # numbers of --config come as text
])  # fmt: skip
def test_each_layer_of_a_schedule_lies_over_those_before_it(training, own, named, expected):
    raw = changed("tasks.hellaswag_mini.training", own) | {"training": training}
    raw["grid"]["trainings"] = {"name": named}
    found = parse_section(Config, raw, "configuration").training_of("hellaswag_mini", "name")
    assert (found.steps, found.learning_rate, found.batch_size) == expected


@pytest.mark.parametrize(("training", "task", "named", "size"), [
    ({"batch_size": 4}, "boolq_mini", {}, 4),  # below the default of 8
    ({"batch_size": 8}, "hellaswag_mini", {}, 4),  # the task's suggestion divides it
    ({"batch_size": 32, "micro_batch_size": 16}, "boolq_mini", {"batch_size": 24}, 12),
    ({"batch_size": 32, "micro_batch_size": 16}, "boolq_mini", {"batch_size": 24, "micro_batch_size": 4}, 4),
])  # fmt: skip
def test_a_micro_batch_follows_the_batch_and_is_never_larger_than_it_was(training, task, named, size):
    study = laid_over({"training": training, "grid": {"trainings": {"a": named}}})
    assert study.training_of(task, "a").micro_batch_size == size


def test_a_reconstruction_has_its_own_steps_and_no_teacher_as_a_measurement_has_none():
    study = laid_over({"grid": {"trainings": {"taught": {"lora_r": 4, "distillation": {"weight": 0.25}}}}})
    training = study.schedule_of("sparse_to_dense", "boolq_mini", "taught")
    layer = study.schedule_of("reconstruct", "boolq_mini", "taught")
    measured = study.throughput.schedule(training, 4)
    assert (layer.steps, layer.lora_r) == (study.reconstruction.steps, 4)
    taught = Distillation(weight=0.25, temperature=2.0)
    assert [schedule.distillation for schedule in (training, layer, measured)] == [taught, None, None]


def test_sparsegpt_has_settings_of_its_own_and_its_own_scope():
    masks = Masks(scope="global", sparsegpt_block=64)
    assert masks.scope_of(get_method("unstructured_sparsegpt"), [50]) == "block"
    own = {"sparsegpt_block": 64, "damping": 0.01}
    task = {"calibration_examples": 128, "calibration_seed": 0}
    assert masks.used_by(get_method("unstructured_sparsegpt")) == own | task
    assert "sparsegpt_block" not in masks.used_by(get_method("unstructured_wanda"))
    # The analysis compares these settings between runs.
    assert own.keys() <= MaskMeta.model_fields.keys()


@pytest.mark.parametrize(("tasks", "asked", "windows"), [
    ({"boolq": 200}, None, 16),
    ({"boolq": 199}, None, 0),
    # How many there are is not known.
    ({"own": None}, None, 0),
    ({"boolq": 199}, 64, 64),
    ({"boolq": 1000}, 0, 0),
])  # fmt: skip
def test_the_divergence_is_measured_by_default_if_every_task_has_200_validation_examples(tasks, asked, windows):
    kinds = {"own": {"lm_eval": "arc_easy"}}
    described = {name: {"validation_examples": number, **kinds.get(name, {})} for name, number in tasks.items()}
    config = laid_over({"tasks": described, "grid": {"tasks": list(tasks)}, "evaluation": {"divergence": asked}})
    assert config.divergence_windows == windows
    # Nothing calibrates on its text, whose seed no other text has by accident.
    assert config.texts.keys() - config.masks.texts.keys() == ({"divergence"} if windows else set())
    assert not windows or config.texts["divergence"].seed == 2**32 - 1


def test_a_key_that_no_run_uses_is_said():
    raw = changed("tasks.hellaswag_mini.training", {"steps": 5}) | {"training": {"steps": 3, "lora_r": 4}}
    (sentence,) = parse_section(Config, raw, "configuration").unused_training()
    assert sentence.startswith("training.steps 3 is used by no run")
    raw["grid"]["tasks"] = ["hellaswag_mini", "boolq_mini"]
    assert parse_section(Config, raw, "configuration").unused_training() == []


@pytest.mark.parametrize(("text", "percent"), [("0.29", 29), ("1/2", 50), ("1", None), ("0.005", None)])
def test_a_sparsity_is_a_whole_percent_exactly(text, percent):
    with pytest.raises(InputError, match=f"--sparsity {text}") if percent is None else nullcontext():
        assert whole_percent(text) == percent


def test_a_model_that_a_backend_does_not_train_is_refused_before_anything_runs(tiny_models):
    def check(backend: str, name: str) -> None:
        models = {"mine": {"source": f"path:{tiny_models[name]}"}}
        check_sources(laid_over({"backend": backend, "models": models, "grid": {"models": ["mine"]}}))

    for trained in (("torch", "qwen3"), ("cerebras", "mixtral"), ("modelzoo", "llama")):
        check(*trained)
    for backend, name in (("cerebras", "qwen2"), ("modelzoo", "mixtral")):
        line = rf"^models\.mine: the backend {backend} does not train \w+; use one of Llama.*backend: torch"
        with pytest.raises(InputError, match=line):
            check(backend, name)


def test_a_wish_makes_the_study_once_and_takes_the_number_format_of_its_model():
    config = laid_over({"ship": {"model": "smollm2", "speed": 1.3}})
    assert config.models["smollm2_shorter"].dtype == config.models["smollm2"].dtype
    changed = config.training.model_copy(update={"micro_batch_size": 1})
    # A plan asks so which key would make a job fit.
    again = Config.model_validate(vars(config) | {"training": changed})
    assert again.training.micro_batch_size == 1
    assert again.model_dump(exclude={"training"}) == config.model_dump(exclude={"training"})
