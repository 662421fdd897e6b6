"""What jobs request: more for a larger model, more work and a later attempt, and where the weights are."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from project import DEFAULT, ROOT
from sparseft.axes.grid import Run
from sparseft.common.section import parse_section
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job
from sparseft.study.planning.requests import (
    BEFORE_FETCH,
    CUDA_LIBRARIES,
    MARGIN,
    PROGRAM,
    SECONDS_PER_UPDATE,
    WITHOUT_MODEL,
    Requests,
    seconds,
)

# The stages whose needs grow with the model, and what runs it.
BY_MATRIX = ("prepare_model", "merge", "validate_sparsity", "import_pruned", "export_run", "export_modelzoo")
RUNNING = (
    "train",
    "measure_throughput",
    "reconstruct",
    "compute_masks",
    "check_engines",
    "evaluate",
    "sample_text",
)
OTHER_BACKENDS, OF_SHIP = (
    ("train_cerebras", "train_modelzoo", "measure_cerebras"),
    ("find_shares", "split_texts", "ship"),
)
SWEEP = DEFAULT | yaml.safe_load((ROOT / "config/sweep.yaml").read_text())


def of_sweep(card: float | None = None, **sections: object) -> Requests:
    return Requests(parse_section(Config, SWEEP | sections, "configuration"), card)


def job_of(stage: str, model: str = "llama", method: str = "unstructured", mode: str = "sparse_to_sparse") -> Job:
    """Return a job on BoolQ."""
    return Job(stage, model, "boolq", method, mode=mode, text="self")


def request(stage: str, attempt: int = 1, method: str = "unstructured", model: str = "llama", **sections: object):
    """Return MB and minutes that a job on BoolQ requests."""
    return of_sweep(**sections).of(job_of(stage, model, method), attempt)


@pytest.mark.parametrize("stage", [*BY_MATRIX, *RUNNING, *OF_SHIP])
@pytest.mark.parametrize("method", ["unstructured", "unstructured_taylor"])
def test_memory_and_time_grow_with_the_model_and_the_attempt(stage, method):
    def of(model: str, attempt: int = 1) -> tuple[int, int]:
        wish = {"model": model, "speed": 1.3} if stage in OF_SHIP else None
        return request(stage, attempt, method, model, ship=wish)

    llama, mixtral = of("llama"), of("mixtral")
    assert llama[0] <= mixtral[0]
    assert llama[1] < mixtral[1]
    assert of("llama", 3) == (3 * llama[0], 3 * llama[1])


def write_config(folder: str, **sizes: int) -> None:
    """Write LLaMA-7B's config.json with other sizes into a new folder."""
    Path(folder).mkdir(parents=True)
    Path(folder, "config.json").write_text(json.dumps(of_sweep().sizes_of("llama").config | sizes))


def test_engines_and_a_distillation_request_what_the_model_needs_from_which_theirs_was_pruned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = SWEEP["models"] | {"half": {"source": "pruned:llama/sparsity50_layers_random"}}
    # A pruned base that is not there yet counts as its model.
    assert request("train", model="half", models=models) == request("train")
    write_config("pruned/llama/sparsity50_layers_random", num_hidden_layers=16)
    taught = SWEEP["training"] | {"distillation": {"weight": 0.5}}
    for stage, training, is_whole in (("check_engines", {}, True), ("train", {}, False), ("train", taught, True)):
        half, whole = (request(stage, model=name, models=models, training=training) for name in ("half", "llama"))
        assert half == whole if is_whole else half < whole


def test_a_training_requests_its_weights_where_they_are():
    weights = of_sweep().sizes_of("llama").bytes / 1e6
    divided = {**SWEEP["training"], "micro_batch_size": 4, "shard_model": True}
    four = {"gpus": 4, "processes": 4}
    on_gpu, on_cpu = request("train")[0], request("train", resources={"threads": 8})[0]
    assert 4 * on_gpu == pytest.approx(request("train", resources=four)[0], rel=0.1)
    assert on_gpu < weights
    # On a CPU there are the activations, too.
    assert 2 * weights < on_cpu
    # The only GPU gets them from pinned memory. Several GPUs have a part each, and the machine none.
    assert request("train", training=divided)[0] - on_gpu > MARGIN * weights
    assert request("train", training=divided, resources=four) == request("train", resources=four)


def test_all_weights_of_7b_are_planned_where_they_are():
    """The numbers are counted by hand. In fp32, a square matrix has 2^26 bytes, and the others are rounded to 2^28."""
    training = {**SWEEP["training"], "micro_batch_size": 1, "shard_model": True, "steps": 100}
    job, weights, a_layer = job_of("train", mode="full_sparse_to_dense"), 6_738_415_616, 202_375_168
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
    assert request("evaluate", 2, resources=resources) == (2000, 60)
    assert request("export_run", resources=resources)[0] > 1000


def test_a_model_of_unknown_size_requests_its_own_once_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    requests = of_sweep(models=SWEEP["models"] | {"new": {"source": "hub:a/b"}})
    training, evaluation = (job_of(stage, "new") for stage in ("train", "evaluate"))
    assert requests.of(training, 2) == tuple(2 * number for number in BEFORE_FETCH)
    assert requests.gpus(evaluation) == 1
    assert requests.threads(evaluation) == requests.resources.threads
    write_config("models/new", num_hidden_layers=1)
    assert 600 < requests.of(training, 1)[0] < BEFORE_FETCH[0]


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ("train", "training.steps"),
        ("reconstruct", "reconstruction.steps"),
        ("evaluate", "evaluation.divergence"),
        ("compute_masks", "masks.calibration_examples"),
    ],
)
def test_more_work_requests_more_time(stage, key):
    section, _, name = key.partition(".")
    few, more = (request(stage, method="unstructured_wanda", **{section: {name: number}})[1] for number in (500, 5000))
    assert few < more


def test_jobs_that_differ_in_what_decides_nothing_have_equal_needs():
    run = vars(Run("llama", "boolq", "unstructured_wanda", 50, "sparse_to_sparse", 0, training="long"))
    others = run | {"seed": 1, "sparsity": 70, "method": "unstructured"}
    requests = of_sweep(grid=SWEEP["grid"] | {"trainings": {"long": {}}})

    def needs(stage: str, values: dict) -> object:
        return requests.needs(Job.of(stage, values))

    assert Job.of("train", run | {"seed": 1}) == Job.of("train", run | {"training": "-long"})
    assert needs("train", run) == needs("train", others)
    assert needs("train", run) != needs("train", run | {"mode": "full_sparse_to_dense"})
    assert needs("evaluate", run) == needs("evaluate", others | {"mode": "full_sparse_to_dense"})
    assert needs("compute_masks", run).tokens > 0
    assert needs("compute_masks", others).tokens == 0


def test_every_stage_that_reads_a_model_says_its_needs_and_the_others_request_a_default():
    stages = {path.stem for path in (ROOT / "lib/sparseft/stages").glob("[a-z]*.py")}
    said = {name for name in stages if hasattr(import_module(f"sparseft.stages.{name}"), "needs")}
    assert said == {*BY_MATRIX, *RUNNING, *OTHER_BACKENDS, *OF_SHIP}
    text = "\n".join(path.read_text() for path in (ROOT / "rules").rglob("*.smk"))
    assert said <= set(re.findall(r"SCRIPTS\}/(\w+)\.py", text)) - {"run_on_appliance"} <= stages
    assert request("prepare_task") == WITHOUT_MODEL


@pytest.mark.parametrize(("memory", "gpus"), [(16_000, 1), (10_000, 3), (1, 8)])
def test_an_evaluation_takes_the_gpus_that_its_13_5_gb_of_weights_need(memory, gpus):
    resources = {"gpus": 8, "processes": 8, "gpu_memory_mb": memory}
    requests = of_sweep(resources=resources, training={"micro_batch_size": 1})
    assert requests.gpus(job_of("evaluate")) == gpus


@pytest.mark.parametrize("stage", ["merge", "validate_sparsity", "compute_masks", "train", "check_engines"])
def test_jobs_that_run_the_model_take_a_gpu_and_a_merge_waits_for_one(stage):
    job, is_one = job_of(stage), stage not in ("validate_sparsity", "compute_masks")
    shared = of_sweep(24e9, resources={"gpus": 1, "jobs_per_gpu": 3})
    assert shared.bytes_per_job == 8e9
    assert shared.gpus(job) == is_one * (3 if stage == "check_engines" else 1)
    assert of_sweep(resources={"gpus": 1}).gpus(job) == is_one
    assert of_sweep(resources={"gpus": 0, "jobs_per_gpu": 3}).gpus(job) == 0


def test_the_time_of_a_teacher_is_one_forward_beside_the_forward_and_the_backward():
    def lasts(steps: int, **more: object) -> float:
        requests = of_sweep(training=SWEEP["training"] | {"steps": steps, "eval_every": 0} | more)
        return seconds(requests.resources, requests.needs(job_of("train")), requests.sizes_of("llama"))

    plain, taught = (lasts(200, **more) - lasts(100, **more) for more in ({}, {"distillation": {"weight": 0.5}}))
    assert taught == pytest.approx(4 / 3 * plain)


def test_the_time_of_adamw_on_the_machine_s_threads_is_planned():
    job, training = job_of("train", mode="full_sparse_to_dense"), {**SWEEP["training"], "shard_model": True}
    lasts = [
        seconds(requests.resources, requests.needs(job), requests.sizes_of("llama"))
        for requests in (of_sweep(training=training, resources={"gpus": 1, "threads": number}) for number in (1, 16))
    ]
    steps = of_sweep(training=training).config.training_of("boolq").steps
    assert lasts[0] - lasts[1] == pytest.approx(steps * 6.476e9 * SECONDS_PER_UPDATE * 15 / 16, rel=1e-3)
