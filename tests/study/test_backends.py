"""The table of training backends: everything that depends on a backend hangs on its value."""

import re
from pathlib import Path

import pytest
import yaml
from project import ROOT
from sparseft.errors import InputError
from sparseft.planning.inputs import check_sources
from sparseft.study import targets
from sparseft.study.backends import BACKENDS, backend_sections
from sparseft.study.config import Config
from sparseft.study.schedule import Training
from sparseft.study.section import parse_section

DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())
NAMES = [backend.name for backend in BACKENDS]
CELL = "results/throughput/{model}-{task}-dense-sparsity00-sparse_to_dense.json"


def study(**sections: object) -> Config:
    return parse_section(Config, {**DEFAULT, **sections}, "configuration")


def test_a_configuration_names_its_backend_and_has_the_sections_of_all():
    assert len(set(NAMES)) == len(NAMES)
    assert [study(backend=backend.name).training_backend for backend in BACKENDS] == list(BACKENDS)
    assert backend_sections().items() <= {name: field.annotation for name, field in Config.model_fields.items()}.items()
    with pytest.raises(InputError, match="backend: .*'torch'.*'tpu'"):
        study(backend="tpu")


@pytest.mark.parametrize("backend", BACKENDS, ids=NAMES)
def test_each_backend_has_a_rules_file_that_trains_and_code_of_its_own(backend):
    assert "rule train_adapter:" in (ROOT / backend.rules).read_text()
    code = ROOT / "lib/sparseft/backends" / backend.name
    assert code.is_dir() or code.with_suffix(".py").exists()
    assert backend.chosen_keys <= Training.model_fields.keys()


def test_no_code_outside_a_backend_compares_with_its_name():
    places = [
        *ROOT.glob("lib/**/*.py"),
        *ROOT.glob("rules/**/*.smk"),
        *ROOT.glob("workflow/scripts/*.py"),
        ROOT / "Snakefile",
    ]
    compared = re.compile(rf"[=!]= *[\"'](?:{'|'.join(NAMES)})[\"']|[\"'](?:{'|'.join(NAMES)})[\"'] *[=!]=")
    found = [path for path in places if "backends" not in path.parts and compared.search(Path(path).read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("backend", "name", "is_trained"),
    [
        ("torch", "qwen3", True),
        ("cerebras", "mixtral", True),
        ("cerebras", "qwen2", False),
        ("modelzoo", "llama", True),
        ("modelzoo", "mixtral", False),
        ("modelzoo", "gemma3", False),
    ],
)
def test_a_model_that_a_backend_does_not_train_is_refused_before_anything_runs(tiny_models, backend, name, is_trained):
    models = {"mine": {"source": f"path:{tiny_models[name]}"}}
    config = study(backend=backend, models=models, grid={**DEFAULT["grid"], "models": ["mine"]})
    if is_trained:
        check_sources(config)
        return
    line = rf"^models\.mine: the backend {backend} does not train \w+; use one of LlamaForCausalLM, .*backend: torch"
    with pytest.raises(InputError, match=line):
        check_sources(config)


@pytest.mark.parametrize("stage", ["throughput", "results/analysis/throughput_vs_batch_size.csv", CELL])
def test_measurements_that_a_backend_cannot_make_are_refused_by_their_targets(stage):
    model, task = DEFAULT["grid"]["models"][0], DEFAULT["grid"]["tasks"][0]
    target = stage.format(model=model, task=task)
    targets.check_settings(study(), target)
    with pytest.raises(InputError, match="backend modelzoo"):
        targets.check_settings(study(backend="modelzoo"), target)
    targets.check_settings(study(backend="modelzoo"), "results/analysis/summary.csv")


@pytest.mark.parametrize("backend", ["cerebras", "modelzoo"])
def test_a_wafer_does_not_start_from_updated_weights(backend):
    grid = {**DEFAULT["grid"], "methods": ["unstructured_sparsegpt"]}
    with pytest.raises(InputError, match="unstructured_sparsegpt: Cerebras' backends start from the model's weights"):
        study(backend=backend, grid=grid)
