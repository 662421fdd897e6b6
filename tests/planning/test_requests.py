"""What jobs ask for: by the model's size, the attempt and the settings."""

from types import SimpleNamespace

import pytest
import yaml
from project import ROOT, Study
from sparseft.planning.memory import mask_memory
from sparseft.planning.model_sizes import described
from sparseft.planning.requests import START, UNKNOWN, JobKind, Requests
from sparseft.study.config import Config
from sparseft.study.section import parse_section

DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())
SWEEP = yaml.safe_load((ROOT / "config/sweep.yaml").read_text())


def study(base: dict = SWEEP, **sections: object) -> Config:
    return parse_section(Config, {**DEFAULT, **base, **sections}, "configuration")


def test_memory_and_time_grow_with_the_model_and_the_attempt():
    requests = Requests(study())
    for kind in ("training", "evaluation", "files", "prepare"):
        asked = [requests.memory_mb(JobKind(kind, model, "boolq"), 1) for model in ("llama", "mixtral")]
        assert asked[0] <= asked[1]
        limits = [requests.minutes(JobKind(kind, model, "boolq"), 1) for model in ("llama", "mixtral")]
        assert limits[0] < limits[1]
        assert requests.memory_mb(JobKind(kind, "llama", "boolq"), 3) == 3 * asked[0]
        assert requests.minutes(JobKind(kind, "llama", "boolq"), 2) == 2 * limits[0]


def test_a_training_asks_for_its_weights_where_they_are():
    gpu, cpu = study(), study(resources={"threads": 8})
    weights = described("llama", gpu.models["llama"]).bytes / 1e6
    on_gpu, on_cpu = (Requests(config).memory_mb(JobKind("training", "llama", "boolq"), 1) for config in (gpu, cpu))
    assert weights < on_gpu < 1.5 * weights  # until they are on the GPU
    assert 2 * weights < on_cpu  # with the activations
    four = study(resources={"threads": 8, "gpus": 4, "processes": 4})
    assert Requests(four).memory_mb(JobKind("training", "llama", "boolq"), 1) - 400 == pytest.approx(
        4 * (on_gpu - 400), rel=1e-3
    )


def test_the_processes_of_a_divided_training_on_gpus_need_no_copy_of_the_model_in_the_machine():
    rows = 32000 * 4096 * 2 / 1e6  # of the embedding, divided among the processes
    mask = 4096 * 11008 / 1e6  # of an MLP's matrix, a byte per weight
    settings = {**SWEEP["training"], "micro_batch_size": 4, "shard_model": True}
    for processes in (2, 4, 8):
        config = study(training=settings, resources={"gpus": processes, "processes": processes})
        requested = Requests(config).memory_mb(JobKind("training", "llama", "boolq"), 1)
        # 400 MB for Snakemake's processes, and 30 % more than the estimate.
        assert requested == pytest.approx(400 + 1.3 * (rows + processes * (600 + mask)), abs=1)


def test_what_the_configuration_says_goes_first_and_grows_too():
    requests = Requests(study(resources={"memory_mb": 1000, "minutes": 30}))
    assert [requests.memory_mb(JobKind("training", "llama", "boolq"), attempt) for attempt in (1, 2)] == [1000, 2000]
    assert [requests.minutes(JobKind("evaluation", "llama", "boolq"), attempt) for attempt in (1, 2)] == [30, 60]
    assert requests.memory_mb(JobKind("files", "llama", ""), 1) > 1000


def test_a_model_of_unknown_size_asks_for_its_own_once_it_is_there(tmp_path, monkeypatch, tiny_models):
    monkeypatch.chdir(tmp_path)
    requests = Requests(study(models={**SWEEP["models"], "new": {"source": "hub:a/b"}}))
    asked = [(requests.memory_mb(JobKind(kind, "new", "boolq"), 2), requests.minutes(JobKind(kind, "new", "boolq"), 2))
             for kind in ("prepare", "training")]  # fmt: skip
    assert asked == [tuple(2 * each for each in UNKNOWN)] * 2
    folder = tmp_path / "models/new"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes((tiny_models["llama"] / "config.json").read_bytes())
    assert 600 < requests.memory_mb(JobKind("training", "new", "boolq"), 1) < UNKNOWN[0]


def test_the_time_of_a_measurement_grows_with_what_is_measured():
    def of(**asked: object) -> int:
        return (
            Requests(study(throughput=asked, resources={"threads": 8})).minutes(
                JobKind("throughput", "llama", "boolq"), 1
            )
            - START
        )

    few, more = of(batch_sizes=[8], repeats=2), of(batch_sizes=[8, 24], repeats=4)
    assert 6 * few < more < 9 * few  # 8 times the examples, 4 times the processes that load the model
    assert of(batch_sizes=[8], repeats=2, sequence_length=16) < few


def test_only_masks_that_are_made_in_sequence_take_a_pass_per_sparsity():
    few = study(grid=SWEEP["grid"] | {"sparsities": [0, 50]})
    more = study(grid=SWEEP["grid"] | {"sparsities": [0, 30, 50, 70, 90]})

    def minutes(config: Config, method: str) -> int:
        return Requests(config).minutes(JobKind("mask", "llama", "boolq", method), 1)

    for importance in ("gradient", "taylor"):
        assert minutes(few, f"unstructured_{importance}") == minutes(more, f"unstructured_{importance}")
    assert minutes(few, "unstructured_wanda") < minutes(more, "unstructured_wanda")


def test_an_allocation_is_one_more_pass():
    masks = study().masks
    for method, passes in (("unstructured_owl", 1), ("unstructured_taylor_owl", 2), ("unstructured_wanda_owl", 4)):
        assert masks.passes_of(method, [0, 30, 50, 70]) == passes
    in_one_pass = masks.model_copy(update={"sequential": False})
    assert in_one_pass.passes_of("unstructured_wanda_owl", [0, 30, 50, 70]) == 1


def test_a_study_of_a_model_of_unknown_size_is_planned(tmp_path):
    folder = Study(tmp_path)
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({"models": {"new": {"source": "hub:a/b"}}, "grid": {"models": ["new"]}})
    )
    assert folder.planned()["prepare_model"] == 1


def test_masks_on_a_text_ask_for_its_windows_and_for_no_task():
    def asked(method: str, **text: object) -> tuple[int, int]:
        config = study(
            grid={**SWEEP["grid"], "methods": [method]}, masks={"calibration": {"c4": {"text": "c4.jsonl", **text}}}
        )
        job = JobKind.of("mask", SimpleNamespace(model="llama", method=method))
        requests = Requests(config)
        return requests.memory_mb(job, 1), requests.minutes(job, 1) - START

    wanda, taylor = "unstructured_wanda_on_c4", "unstructured_taylor_on_c4"
    states = 128 * 2048 * (4096 + 2 * 128) * 2 / 1e6
    more = asked(wanda, examples=256)[0] - asked(wanda)[0]
    # The sweep's masks are computed on a GPU, whose memory a job does not request.
    assert more == 0
    assert asked(wanda, length=1024)[1] < asked(wanda)[1] < asked(wanda, examples=256)[1]
    config = study(resources={"threads": 8}, masks={"calibration": {"c4": {"text": "c4.jsonl"}}})
    subject = described("llama", config.models["llama"])
    assert mask_memory(config, subject, "", wanda).model["hidden states of the examples"] == states * 1e6
    logits = mask_memory(config, subject, "", taylor).model["logits of an example"]
    assert logits == 2048 * 32000 * 2


def test_masks_on_a_task_ask_for_each_task():
    wildcards = SimpleNamespace(model="llama", task="boolq", method="unstructured_wanda")
    assert JobKind.of("mask", wildcards) == JobKind("mask", "llama", "boolq", "unstructured_wanda")
    on_text = SimpleNamespace(model="llama", task="boolq", method="unstructured_wanda_on_c4")
    assert JobKind.of("mask", on_text) == JobKind("mask", "llama", "", "unstructured_wanda_on_c4")


def test_an_evaluation_on_selection_rows_takes_as_long_as_their_number():
    tasks = {"boolq": {"train_examples": 8000, "validation_examples": 1000}}

    def minutes(kind: str, **changes: object) -> int:
        """Return the time limit of a kind of job on BoolQ with a changed description."""
        config = study(tasks={**SWEEP["tasks"], "boolq": tasks["boolq"] | changes}, perplexity=None)
        return Requests(config).minutes(JobKind(kind, "llama", "boolq"), 1)

    assert minutes("selection") == minutes("evaluation")
    growth = minutes("selection", selection_examples=5000) - minutes("selection")
    assert growth == pytest.approx(minutes("evaluation", validation_examples=5000) - minutes("evaluation"), abs=1) != 0


def test_a_training_that_takes_more_steps_or_memory_requests_more():
    named = {"short": {"steps": 10}, "long": {"steps": 10_000}, "wide": {"steps": 10, "lora_r": 4000}}
    requests = Requests(study(grid={**SWEEP["grid"], "trainings": named}, resources={}))
    kinds = {name: JobKind("training", "llama", "boolq", training=name) for name in named}
    minutes = {name: requests.minutes(kind, 1) for name, kind in kinds.items()}
    memory = {name: requests.memory_mb(kind, 1) for name, kind in kinds.items()}
    assert minutes["long"] > minutes["short"]
    assert memory["wide"] > memory["short"] == memory["long"]
    # The wildcard of a job has a hyphen before the name.
    wildcards = SimpleNamespace(model="llama", task="boolq", training="-long")
    assert JobKind.of("training", wildcards) == kinds["long"]
