"""What jobs request: by the model's size, the attempt and the settings."""

from types import SimpleNamespace

import pytest
import yaml
from project import DEFAULT, ROOT
from sparseft.planning.memory import NEEDS, JobKind
from sparseft.planning.requests import UNKNOWN, Requests
from sparseft.planning.sizes import described
from sparseft.study.config import Config
from sparseft.study.section import parse_section

SWEEP = yaml.safe_load((ROOT / "config/sweep.yaml").read_text())


def study(base: dict = SWEEP, **sections: object) -> Config:
    return parse_section(Config, {**DEFAULT, **base, **sections}, "configuration")


def request(kind: str, attempt: int = 1, method: str = "", model: str = "llama", **sections: object) -> tuple[int, int]:
    """Return MB and minutes that a job on BoolQ requests."""
    requests, job = Requests(study(**sections)), JobKind(kind, model, "boolq", method)
    return requests.memory_mb(job, attempt), requests.minutes(job, attempt)


@pytest.mark.parametrize("kind", ["prepare", "weights", "files", *NEEDS])
def test_memory_and_time_grow_with_the_model_and_the_attempt(kind):
    method = "unstructured_taylor" if kind == "mask" else ""
    llama, mixtral = (request(kind, model=name, method=method) for name in ("llama", "mixtral"))
    assert llama[0] <= mixtral[0]
    assert llama[1] < mixtral[1]
    assert request(kind, 3, method) == (3 * llama[0], 3 * llama[1])


def test_a_training_requests_its_weights_where_they_are():
    weights = described("llama", study().models["llama"]).bytes / 1e6
    on_gpu, on_cpu = request("training")[0], request("training", resources={"threads": 8})[0]
    # Until they are on the GPU. On a CPU there are the activations, too.
    assert weights < on_gpu < 1.5 * weights
    assert 2 * weights < on_cpu
    four = request("training", resources={"threads": 8, "gpus": 4, "processes": 4})[0]
    assert four - 400 == pytest.approx(4 * (on_gpu - 400), rel=1e-3)


@pytest.mark.parametrize("processes", [2, 8])
def test_the_processes_of_a_divided_training_on_gpus_need_no_copy_of_the_model_in_the_machine(processes):
    rows = 32000 * 4096 * 2 / 1e6  # of the embedding, divided among the processes
    mask = 4096 * 11008 / 1e6  # of an MLP's matrix, a byte per weight
    settings = {**SWEEP["training"], "micro_batch_size": 4, "shard_model": True}
    divided = request("training", training=settings, resources={"gpus": processes, "processes": processes})[0]
    # 400 MB for Snakemake's processes, and 30 % more than the estimate.
    assert divided == pytest.approx(400 + 1.3 * (rows + processes * (600 + mask)), abs=1)


def test_the_configuration_decides_for_jobs_that_run_the_model_and_grows_too():
    resources = {"memory_mb": 1000, "minutes": 30}
    assert request("evaluation", 2, resources=resources) == (2000, 60)
    assert request("files", resources=resources)[0] > 1000


def test_a_model_of_unknown_size_requests_its_own_once_it_is_there(tmp_path, monkeypatch, tiny_models):
    monkeypatch.chdir(tmp_path)
    requests = Requests(study(models={**SWEEP["models"], "new": {"source": "hub:a/b"}}))
    job = JobKind("training", "new", "boolq")
    assert (requests.memory_mb(job, 2), requests.minutes(job, 2)) == tuple(2 * number for number in UNKNOWN)
    (tmp_path / "models/new").mkdir(parents=True)
    (tmp_path / "models/new/config.json").write_bytes((tiny_models["llama"] / "config.json").read_bytes())
    assert 600 < requests.memory_mb(job, 1) < UNKNOWN[0]


# Each pair: the settings of a job, and others with which it takes longer.
ROWS = {"train_examples": 8000, "validation_examples": 1000}
LONGER = {
    "training": ({"training": {"steps": 100}}, {"training": {"steps": 200}}),
    "throughput": ({"throughput": {"repeats": 2}}, {"throughput": {"repeats": 4}}),
    "reconstruction": ({"reconstruction": {"steps": 10}}, {"reconstruction": {"steps": 20}}),
    "evaluation": ({"perplexity": None}, {"perplexity": {}}),
    "selection": (
        {"tasks": SWEEP["tasks"] | {"boolq": ROWS}},
        {"tasks": SWEEP["tasks"] | {"boolq": ROWS | {"selection_examples": 2000}}},
    ),
    "mask": ({"masks": {"calibration_examples": 64}}, {"masks": {"calibration_examples": 128}}),
}


@pytest.mark.parametrize("kind", LONGER)
def test_more_work_requests_more_time(kind):
    method = "unstructured_wanda" if kind == "mask" else ""
    few, more = (request(kind, method=method, resources={"threads": 8}, **sections)[1] for sections in LONGER[kind])
    assert few < more <= 2.5 * few


def test_a_kind_names_only_what_decides_its_requests():
    wildcards = SimpleNamespace(model="llama", task="boolq", method="unstructured_wanda", training="-long")
    of_text = SimpleNamespace(**vars(wildcards) | {"method": "unstructured_wanda_on_c4"})
    by_magnitude = SimpleNamespace(**vars(wildcards) | {"method": "unstructured"})
    assert JobKind.of("training", wildcards) == JobKind("training", "llama", "boolq", training="long")
    assert JobKind.of("mask", wildcards) == JobKind("mask", "llama", "boolq", "unstructured_wanda")
    assert JobKind.of("mask", of_text) == JobKind("mask", "llama", "", "unstructured_wanda_on_c4")
    assert JobKind.of("mask", by_magnitude) == JobKind.of("weights", wildcards) == JobKind("weights", "llama")
