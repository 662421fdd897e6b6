"""The estimate beside the files of a finished study, and beside what the pages say."""

import json
import re
from types import SimpleNamespace

import pytest
import yaml
from project import ROOT, laid_over, refused, succeed, tiny_grid
from safetensors.torch import load_file
from scipy.stats import norm
from sparseft.axes.grid import Run
from sparseft.study.planning import estimate
from sparseft.study.planning.estimate import disk, examples, hours, study_jobs, summary
from sparseft.study.planning.needs import Job
from sparseft.study.planning.probe import TYPICAL, this_machine
from sparseft.study.planning.requests import Requests, seconds
from sparseft.study.targets import runs

SWEEP = yaml.safe_load((ROOT / "config/sweep.yaml").read_text())
RUN = Run("smollm2", "hellaswag_mini", "random", 10, "sparse_to_sparse", 0)


def test_models_and_adapters_have_the_bytes_of_the_files(small_study):
    config = laid_over(yaml.safe_load((small_study.folder / "study.yaml").read_text()))
    kept, _ = disk(Requests(config), study_jobs(config))

    def bytes_of(pattern: str) -> int:
        tensors = [tensor for file in small_study.folder.glob(pattern) for tensor in load_file(file).values()]
        return sum(tensor.nbytes for tensor in tensors)

    assert kept["adapters"] == bytes_of("results/runs/*/adapter/adapter_model.safetensors")
    assert kept["models"] + kept.get("merged models", 0) == bytes_of("**/model.safetensors")
    masks = [file.stat().st_size for file in small_study.folder.glob("masks/llama/*.pt")]
    assert len(masks) * min(masks) > kept["masks"] > 0


# docs/clusters.md, section "The full study", has these numbers.
def test_the_sweep_takes_what_the_docs_say():
    kept, running = disk(Requests(laid_over(SWEEP)), study_jobs(laid_over(SWEEP)))
    assert {name: round(size / 1e9) for name, size in kept.items()} == {"models": 28, "masks": 52, "adapters": 54}
    assert round(running / 1e9) == 14
    output = succeed("estimate.py", configfile=ROOT / "config/sweep.yaml")
    assert "498 runs; 330 are trained" in output
    assert re.search(r"hours \(.+\) on one machine", output)


MANY = {"batch_size": 32, "gradient_checkpointing": True}


# Texts of 2,048 tokens are on a GPU of unknown size, and on a machine of 32 GB unless there is a size.
@pytest.mark.parametrize(("card", "task", "sections", "lines"), [
    (0, "own", {"training": MANY | {"micro_batch_size": 8, "gradient_checkpointing": False}},
     [r"train on own needs 1\d\d\S+ GB on a GPU .*, more than 80 GB on a GPU; "]),
    (0, "own", {"training": MANY | {"micro_batch_size": 8}},
     ["train on own also fits with training.micro_batch_size 32, which may be faster"]),
    (0, "own", {"resources": {"gpus": 1, "jobs_per_gpu": 2, "gpu_memory_mb": 24000},
                "training": MANY | {"micro_batch_size": 1}},
     ["evaluate on own needs .*",
      r"train on own needs 1\d\S+ GB on one of 2 shares of a GPU and .*, more than 12 GB on one of 2 shares"]),
    (0, "own", {"resources": {"memory_mb": 24_000}, "training": MANY | {"micro_batch_size": 1, "cache_weights": True}},
     ["evaluate on own", r"train on own needs 2\d\S+ GB in the machine, more than 24 GB .*"]),
    # The advice is the first single change with which the job fits.
    (24, "gsm8k", {}, ["evaluate on gsm8k needs .*GPU; set evaluation_batch_size to 8$"]),
    (24, "boolq", {},
     ["evaluate on boolq needs .*GPU; set evaluation_batch_size to 16$",
      "train on boolq needs .*GPU; set training.gradient_checkpointing to true$"]),
    (16, "boolq", {"training": {"batch_size": 16, "micro_batch_size": 16}},
     ["evaluate on boolq needs .*GPU; set evaluation_batch_size to 4$",
      "train on boolq needs .*GPU; no single key makes it fit; use a larger machine$"]),
    # A reconstruction refuses shard_model, which is tried before the size of an evaluation.
    (24, "gsm8k", {"grid": {"modes": ["reconstruct"]}},
     ["evaluate on gsm8k needs .*GPU; set evaluation_batch_size to 8$"]),
])  # fmt: skip
def test_a_job_that_needs_more_memory_than_there_is_is_said_with_what_helps(monkeypatch, card, task, sections, lines):
    monkeypatch.setattr(estimate, "virtual_memory", lambda: SimpleNamespace(total=32 * 10**9))
    content = {
        "models": {"m": {"source": "hub:huggyllama/llama-7b", "dtype": "bfloat16"}},
        "tasks": {"own": {"kind": "text", "hub": "a/b", "length": 2048}, "boolq": {}, "gsm8k": {}},
        "grid": {"models": ["m"], "tasks": [task], "methods": ["unstructured"], "modes": ["sparse_to_sparse"]},
        "training": {"batch_size": 16, "micro_batch_size": 4},
        "evaluation": {"divergence": 0},
        "resources": {"gpus": 1, "memory_mb": 10**6 if card else None},
    }
    grid = content["grid"] | sections.get("grid", {})
    config = laid_over(content | sections | {"grid": grid})
    output = summary(Requests(config, card * 10**9 or None), study_jobs(config)).splitlines()[1:]
    said = [line for line in output if not card or "also fits" not in line]
    assert len(said) == len(lines), said
    assert all(re.match(f"m: {line}", text) for line, text in zip(lines, said, strict=True)), said


def test_the_minutes_of_the_default_study_are_right_within_a_factor_of_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "this_machine", lambda: (TYPICAL, "a test"))
    range_of = re.match(
        r"about \S+ minutes \((\S+) to (\S+)\)", hours(Requests(laid_over({})), study_jobs(laid_over({})))
    )
    # README.md has the sum of the jobs on a thread of a CPU with AVX-512.
    assert float(range_of[1]) < 9.4 < float(range_of[2])


def test_a_machine_is_measured_once_and_the_estimate_says_which_and_when(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = this_machine()
    (file,) = (tmp_path / "cache/sparseft").iterdir()
    date = file.stat().st_mtime_ns
    assert this_machine() == first
    assert set(first[0].thread) == {2, 4}
    assert file.stat().st_mtime_ns == date
    config = laid_over({})
    assert f"estimated, from {first[1]})" in hours(Requests(config), study_jobs(config))


def test_the_estimate_says_how_many_examples_a_difference_of_accuracies_needs():
    (line,) = examples(laid_over({}))
    match = re.match(r"hellaswag_mini: 64 validation examples; a difference of 0.05 of .* needs about (\d+),", line)
    # A normal approximation, worked out by hand: one answer in five differs.
    by_hand = (norm.isf(0.05 / 2) + norm.isf(0.2)) ** 2 * (0.2 - 0.05**2) / 0.05**2
    assert int(match[1]) == pytest.approx(by_hand, rel=0.01)


def test_pruned_bases_and_merged_models_are_as_large_as_their_models():
    methods, tasks = ["unstructured_wanda", "unstructured_sparsegpt"], ["boolq_mini", "gsm8k_mini"]
    config = laid_over({"grid": tiny_grid("smollm2", "", methods, tasks=tasks), "keep_merged": True})
    kept, _ = disk(Requests(config), study_jobs(config))
    # SparseGPT on two tasks at two sparsities.
    assert kept["pruned"] == 2 * 2 * kept["models"]
    assert kept["merged models"] == len(runs(config)) * kept["models"]


def test_equal_jobs_that_ran_here_give_their_mean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/benchmarks/train_adapter"
    folder.mkdir(parents=True)
    jobs = [(Job.of("train", vars(RUN)), "train_adapter")] * 3
    assert "(3 jobs estimated, from " in hours(Requests(laid_over({})), jobs)
    schedule = laid_over({}).training_of(RUN.task).model_dump()
    for method, text in (("random", "s\n3600"), ("structured", "s\n7200"), ("unstructured", "s\n-"), ("dense", "")):
        run = Run(**vars(RUN) | {"method": method}).id
        (folder / f"{run}.tsv").write_text(text)
        (tmp_path / "results/runs" / run).mkdir(parents=True)
        (tmp_path / "results/runs" / run / "train.json").write_text(json.dumps(schedule))
    # The mean of an hour and two. The other two files are not complete.
    expected = "about 4.5 hours on one machine, one job at a time (3 jobs measured here before)"
    assert hours(Requests(laid_over({})), jobs) == expected
    assert "estimated" in hours(Requests(laid_over({"results": "results/other"})), jobs)


def test_the_hours_of_a_check_of_engines_grow_with_its_repeats_and_its_engines():
    def lasts(**export: object) -> float:
        requests = Requests(laid_over({"export": export}))
        needed = requests.needs(Job.of("check_engines", vars(RUN)))
        return seconds(requests.resources, needed, requests.sizes_of("smollm2"))

    one, two, three = (lasts(repeats=repeats) for repeats in (1, 2, 3))
    assert two - one == pytest.approx(three - two) and two > one
    assert lasts(repeats=1, engines=["vllm:python3"]) == pytest.approx(two)


def test_a_study_that_cannot_be_estimated_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("models: {smollm2: {source: 'hub:a/b', sha256: null}}\n")
    line = "models.smollm2: the sizes of hub:a/b"
    assert line in refused(tmp_path, "estimate.py", configfile=tmp_path / "c.yaml")
