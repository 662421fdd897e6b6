"""What jobs request: more for a larger model, more work and a later attempt, and where the weights are."""

import json
import re
from pathlib import Path

import pytest
import yaml
from project import DEFAULT, ROOT
from sparseft.grid import Run
from sparseft.planning.hours import UPDATE, job_seconds
from sparseft.planning.job_kind import RUN_THE_MODEL, JobKind
from sparseft.planning.requests import CUDA_LIBRARIES, MARGIN, PROGRAM, UNKNOWN, Requests
from sparseft.section import parse_section
from sparseft.study.config import Config

SWEEP = DEFAULT | yaml.safe_load((ROOT / "config/sweep.yaml").read_text())


def of_sweep(card: float | None = None, **sections: object) -> Requests:
    return Requests(parse_section(Config, SWEEP | sections, "configuration"), card)


def request(kind: str, attempt: int = 1, method: str = "", model: str = "llama", **sections: object) -> tuple[int, int]:
    """Return MB and minutes that a job on BoolQ requests."""
    return of_sweep(**sections).of(JobKind(kind, model, "boolq", method, text="self"), attempt)


@pytest.mark.parametrize("kind", ["prepare", "weights", "export", *RUN_THE_MODEL])
def test_memory_and_time_grow_with_the_model_and_the_attempt(kind):
    method = "unstructured_taylor" if kind == "mask" else ""
    llama, mixtral = (request(kind, model=name, method=method) for name in ("llama", "mixtral"))
    assert llama[0] <= mixtral[0]
    assert llama[1] < mixtral[1]
    assert request(kind, 3, method) == (3 * llama[0], 3 * llama[1])


def write_config(folder: str, **sizes: int) -> None:
    """Write LLaMA-7B's config.json with other sizes into a new folder."""
    Path(folder).mkdir(parents=True)
    Path(folder, "config.json").write_text(json.dumps(of_sweep().subject("llama").config | sizes))


def test_engines_and_a_distillation_request_what_the_model_needs_from_which_theirs_was_pruned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = SWEEP["models"] | {"half": {"source": "pruned:llama/sparsity50_layers_random"}}
    # A pruned base that is not there yet counts as its model.
    assert request("training", model="half", models=models) == request("training")
    write_config("pruned/llama/sparsity50_layers_random", num_hidden_layers=16)
    taught = SWEEP["training"] | {"distillation": {"weight": 0.5}}
    for kind, training, is_whole in (("engines", {}, True), ("training", {}, False), ("training", taught, True)):
        half, whole = (request(kind, model=name, models=models, training=training) for name in ("half", "llama"))
        assert half == whole if is_whole else half < whole


def test_a_training_requests_its_weights_where_they_are():
    weights = of_sweep().subject("llama").bytes / 1e6
    divided = {**SWEEP["training"], "micro_batch_size": 4, "shard_model": True}
    four = {"gpus": 4, "processes": 4}
    on_gpu, on_cpu = request("training")[0], request("training", resources={"threads": 8})[0]
    assert 4 * on_gpu == pytest.approx(request("training", resources=four)[0], rel=0.1)
    assert on_gpu < weights
    # On a CPU there are the activations, too.
    assert 2 * weights < on_cpu
    # The only GPU gets them from pinned memory. Several GPUs have a part each, and the machine none.
    assert request("training", training=divided)[0] - on_gpu > MARGIN * weights
    assert request("training", training=divided, resources=four) == request("training", resources=four)


def test_all_weights_of_7b_are_planned_where_they_are():
    """The numbers are counted by hand. In fp32, a square matrix has 2^26 bytes, and the others are rounded to 2^28."""
    training = {**SWEEP["training"], "micro_batch_size": 1, "shard_model": True, "steps": 100}
    job, weights, a_layer = JobKind("training", "llama", "boolq", is_full=True), 6_738_415_616, 202_375_168
    gpus = {number: {"gpus": number, "processes": number} for number in (1, 2, 4)}
    sizes = {number: of_sweep(training=training, resources=own).bytes_of(job) for number, own in gpus.items()}
    # Weights and gradients are pinned; two moments and the mask are not. Embeddings, head and norms have only weights.
    layers = 32 * (4 * 2**26 + 3 * 2**28)
    tensor = 2 * 32_000 * 4096
    assert sizes[1][1] == PROGRAM + CUDA_LIBRARIES + tensor + 2 * layers + 2 * 2**29 + 65 * 2**14 + 9 * 32 * a_layer
    own = 17 * 32 * a_layer + 4 * (weights - 32 * a_layer)
    assert sizes[2][0] - sizes[4][0] == own // 2 - own // 4


def test_the_configuration_decides_for_jobs_that_run_the_model_and_grows_too():
    resources = {"memory_mb": 1000, "minutes": 30}
    assert request("evaluation", 2, resources=resources) == (2000, 60)
    assert request("export", resources=resources)[0] > 1000


def test_a_model_of_unknown_size_requests_its_own_once_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    requests = of_sweep(models=SWEEP["models"] | {"new": {"source": "hub:a/b"}})
    training, evaluation = (JobKind(kind, "new", "boolq") for kind in ("training", "evaluation"))
    assert requests.of(training, 2) == tuple(2 * number for number in UNKNOWN)
    assert requests.gpus(evaluation) == 1
    write_config("models/new", num_hidden_layers=1)
    assert 600 < requests.of(training, 1)[0] < UNKNOWN[0]


@pytest.mark.parametrize(
    "key", ["training.steps", "reconstruction.steps", "evaluation.divergence", "masks.calibration_examples"]
)
def test_more_work_requests_more_time(key):
    section, _, name = key.partition(".")
    kind, method = ("mask", "unstructured_wanda") if section == "masks" else (section, "")
    few, more = (request(kind, method=method, **{section: {name: number}})[1] for number in (500, 5000))
    assert few < more


def test_a_kind_names_only_what_decides_its_requests():
    run = vars(Run("llama", "boolq", "unstructured_wanda", 50, "sparse_to_sparse", 0, training="long"))
    full = run | {"mode": "full_sparse_to_dense"}
    assert JobKind.of("training", full) == JobKind("training", "llama", "boolq", training="long", is_full=True)
    assert JobKind.of("evaluation", full) == JobKind.of("evaluation", run)
    assert JobKind.of("mask", run) == JobKind("mask", "llama", "boolq", "unstructured_wanda")
    assert JobKind.of("mask", run | {"method": "unstructured"}) == JobKind("weights", "llama")


def test_the_rules_name_every_kind_that_runs_the_model_and_no_unknown_one():
    text = "\n".join(path.read_text() for path in (ROOT / "rules").rglob("*.smk"))
    kinds = set(re.findall(r'running\([\w"]+, kind="(\w+)"', text))
    assert kinds == {"prepare", "merge", "proof", "import", "export", *RUN_THE_MODEL}


@pytest.mark.parametrize(("memory", "gpus"), [(16_000, 1), (10_000, 3), (1, 8)])
def test_an_evaluation_takes_the_gpus_that_its_13_5_gb_of_weights_need(memory, gpus):
    resources = {"gpus": 8, "processes": 8, "gpu_memory_mb": memory}
    requests = of_sweep(resources=resources, training={"micro_batch_size": 1})
    assert requests.gpus(JobKind("evaluation", "llama", "boolq")) == gpus


@pytest.mark.parametrize("kind", ["merge", "proof", "weights", "training", "engines"])
def test_jobs_that_run_the_model_take_a_gpu_and_a_merge_waits_for_one(kind):
    job, is_one = JobKind(kind, "llama", "boolq", "unstructured_wanda"), kind not in ("proof", "weights")
    shared = of_sweep(24e9, resources={"gpus": 1, "jobs_per_gpu": 3})
    assert shared.card == 8e9
    assert shared.gpus(job) == is_one * (3 if kind == "engines" else 1)
    assert of_sweep(resources={"gpus": 1}).gpus(job) == is_one
    assert of_sweep(resources={"gpus": 0, "jobs_per_gpu": 3}).gpus(job) == 0


def test_the_time_of_a_teacher_is_one_forward_beside_the_forward_and_the_backward():
    def seconds(steps: int, **more: object) -> float:
        requests = of_sweep(training=SWEEP["training"] | {"steps": steps, "eval_every": 0} | more)
        return job_seconds(requests.config, JobKind("training", "llama", "boolq"), requests.subject("llama"))

    plain, taught = (seconds(200, **more) - seconds(100, **more) for more in ({}, {"distillation": {"weight": 0.5}}))
    assert taught == pytest.approx(4 / 3 * plain)


def test_the_time_of_adamw_on_the_machine_s_threads_is_planned():
    job, training = JobKind("training", "llama", "boolq", is_full=True), {**SWEEP["training"], "shard_model": True}
    seconds = [
        job_seconds(requests.config, job, requests.subject("llama"))
        for requests in (of_sweep(training=training, resources={"gpus": 1, "threads": number}) for number in (1, 16))
    ]
    steps = of_sweep(training=training).config.training_of("boolq").steps
    assert seconds[0] - seconds[1] == pytest.approx(steps * 6.476e9 * UPDATE * 15 / 16, rel=1e-3)
