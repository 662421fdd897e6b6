"""What jobs request: more for a larger model, more work and a later attempt, and where the weights are."""

import re
from types import SimpleNamespace

import pytest
import yaml
from project import DEFAULT, ROOT
from sparseft.planning.job_kind import RUN_THE_MODEL, JobKind
from sparseft.planning.requests import MARGIN, UNKNOWN, Requests
from sparseft.planning.sizes import described
from sparseft.study.config import Config
from sparseft.study.section import parse_section

SWEEP = yaml.safe_load((ROOT / "config/sweep.yaml").read_text())


def study(base: dict = SWEEP, **sections: object) -> Config:
    return parse_section(Config, {**DEFAULT, **base, **sections}, "configuration")


def request(kind: str, attempt: int = 1, method: str = "", model: str = "llama", **sections: object) -> tuple[int, int]:
    """Return MB and minutes that a job on BoolQ requests."""
    text = "self" if kind == "sampling" else ""
    return Requests(study(**sections)).of(JobKind(kind, model, "boolq", method, text=text), attempt)


@pytest.mark.parametrize("kind", ["prepare", "weights", "export", *RUN_THE_MODEL])
def test_memory_and_time_grow_with_the_model_and_the_attempt(kind):
    method = "unstructured_taylor" if kind == "mask" else ""
    llama, mixtral = (request(kind, model=name, method=method) for name in ("llama", "mixtral"))
    assert llama[0] <= mixtral[0]
    assert llama[1] < mixtral[1]
    assert request(kind, 3, method) == (3 * llama[0], 3 * llama[1])


def test_engines_request_what_the_model_needs_from_which_theirs_was_pruned():
    half = {"half": {"source": "pruned:tiny/sparsity50_layers_random"}, "tiny": DEFAULT["models"]["smollm2"]}
    models = SWEEP["models"] | half
    of_half, of_whole = (request("engines", model=name, models=models) for name in ("half", "tiny"))
    assert of_half == of_whole < request("engines", models=models)


def test_a_training_requests_its_weights_where_they_are():
    weights = described("llama", study().models).bytes / 1e6
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


def test_the_configuration_decides_for_jobs_that_run_the_model_and_grows_too():
    resources = {"memory_mb": 1000, "minutes": 30}
    assert request("evaluation", 2, resources=resources) == (2000, 60)
    assert request("export", resources=resources)[0] > 1000


def test_a_model_of_unknown_size_requests_its_own_once_it_is_there(tmp_path, monkeypatch, tiny_models):
    monkeypatch.chdir(tmp_path)
    requests = Requests(study(models={**SWEEP["models"], "new": {"source": "hub:a/b"}}))
    job = JobKind("training", "new", "boolq")
    assert requests.of(job, 2) == tuple(2 * number for number in UNKNOWN)
    assert requests.gpus(JobKind("evaluation", "new", "boolq")) == 1
    (tmp_path / "models/new").mkdir(parents=True)
    (tmp_path / "models/new/config.json").write_bytes((tiny_models["llama"] / "config.json").read_bytes())
    assert 600 < requests.of(job, 1)[0] < UNKNOWN[0]


# Settings of a job, and others with which it takes longer.
LONGER = {
    "training": ({"training": {"steps": 9000}}, {"training": {"steps": 9000, "distillation": {"weight": 0.5}}}),
    "reconstruction": ({"reconstruction": {"steps": 99}}, {"reconstruction": {"steps": 999}}),
    "evaluation": ({"evaluation": {"divergence": 0}}, {"evaluation": {"divergence": 900}}),
    "mask": ({"masks": {"calibration_examples": 640}}, {"masks": {"calibration_examples": 1280}}),
}


@pytest.mark.parametrize("kind", LONGER)
def test_more_work_requests_more_time(kind):
    method = "unstructured_wanda" if kind == "mask" else ""
    few, more = (request(kind, method=method, resources={"threads": 8}, **sections)[1] for sections in LONGER[kind])
    assert few < more


def test_a_kind_names_only_what_decides_its_requests():
    wildcards = SimpleNamespace(
        model="llama", task="boolq", method="unstructured_wanda", mode="sparse_to_sparse", training="-long"
    )
    by_magnitude = SimpleNamespace(**vars(wildcards) | {"method": "unstructured"})
    assert JobKind.of("training", wildcards) == JobKind("training", "llama", "boolq", training="long")
    full = SimpleNamespace(**vars(wildcards) | {"mode": "full_sparse_to_dense"})
    assert JobKind.of("training", full) == JobKind("training", "llama", "boolq", training="long", is_full=True)
    assert JobKind.of("evaluation", full) == JobKind.of("evaluation", wildcards)
    assert JobKind.of("mask", wildcards) == JobKind("mask", "llama", "boolq", "unstructured_wanda")
    assert JobKind.of("mask", by_magnitude) == JobKind("weights", "llama")
    assert JobKind.of("export", wildcards) == JobKind("export", "llama")


def test_the_rules_name_every_kind_that_runs_the_model_and_no_unknown_one():
    text = "\n".join(path.read_text() for path in (ROOT / "rules").rglob("*.smk"))
    kinds = set(re.findall(r'kind=(?:lambda w: )?"(\w+)"', text))
    assert kinds == {"prepare", "merge", "proof", "import", "export", *RUN_THE_MODEL}


def test_an_evaluation_takes_the_gpus_that_its_weights_need():
    job = JobKind("evaluation", "llama", "boolq")
    eight = {"gpus": 8, "processes": 8}
    # 13.5 GB of weights.
    for memory, gpus in ((None, 1), (16_000, 1), (10_000, 3), (1, 8)):
        limit = {"gpu_memory_mb": memory} if memory else {}
        assert Requests(study(resources=eight | limit, training={"micro_batch_size": 1})).gpus(job) == gpus
    assert Requests(study(resources={"memory_mb": 20_000})).gpus(job) == 0


def test_a_perplexity_of_long_windows_has_the_logits_of_some_rows_only():
    job = JobKind("evaluation", "llama", "boolq")
    sizes = [
        Requests(study(perplexity={"context": context}, resources={"gpus": 1})).bytes_of(job)[0]
        for context in (2048, 131_072)
    ]
    activations = 131_072 * described("llama", study().models).activation_bytes
    assert activations < sizes[1] - sizes[0] + 8e9 < activations + 131_072 * 32_000 * 4


@pytest.mark.parametrize(
    "kind", ["merge", "proof", "weights", "mask", "training", "evaluation", "selection", "engines"]
)
def test_jobs_that_run_the_model_take_a_gpu_and_a_merge_waits_for_one(kind):
    job = JobKind(kind, "llama", "boolq", "unstructured_wanda")
    assert Requests(study(resources={"gpus": 1})).gpus(job) == (kind not in ("proof", "weights"))
    shared = Requests(study(resources={"gpus": 1, "jobs_per_gpu": 3}), 24e9)
    assert shared.gpus(job) == (kind not in ("proof", "weights")) * (3 if kind == "engines" else 1)
    assert shared.card == 8e9
    assert Requests(study(resources={"gpus": 0, "jobs_per_gpu": 3})).gpus(job) == 0
