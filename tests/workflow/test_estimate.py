"""The estimate beside the files of a finished study, and beside what the pages say."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from project import DEFAULT, ROOT, laid_over, refused, succeed, tiny_grid
from safetensors.torch import load_file
from scipy.stats import norm
from sparseft.data.loading import CHARACTERS_PER_TOKEN
from sparseft.errors import InputError
from sparseft.grid import Run
from sparseft.planning import estimate
from sparseft.planning.estimate import check_disk, disk, examples, hours, needs, study_jobs
from sparseft.planning.hours import TYPICAL
from sparseft.planning.probe import speeds_of, this_machine
from sparseft.planning.requests import Requests
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
    said = succeed("estimate.py", configfile=ROOT / "config/sweep.yaml")
    assert "498 runs; 330 are trained" in said
    assert re.search(r"hours \(.+\) on one machine", said)


# README's example, but with texts of 2,048 tokens, on a machine of 32 GB.
@pytest.mark.parametrize(("resources", "training", "lines"), [
    ({"gpus": 1}, {"micro_batch_size": 8},
     [r"training on own needs 1\d\d\S+ GB on a GPU .*, more than 80 GB on a GPU"]),
    ({"gpus": 1}, {"micro_batch_size": 8, "gradient_checkpointing": True},
     ["training on own also fits with training.micro_batch_size 32, which may be faster"]),
    ({"gpus": 1}, {"micro_batch_size": 32, "gradient_checkpointing": True}, []),
    ({"gpus": 1, "gpu_memory_mb": 12000}, {"micro_batch_size": 1, "gradient_checkpointing": True},
     ["evaluation on own needs .*",
      r"training on own needs 1\d\S+ GB on a GPU and .*, more than 12 GB on a GPU"]),
    ({"gpus": 1, "jobs_per_gpu": 2, "gpu_memory_mb": 24000}, {"micro_batch_size": 1, "gradient_checkpointing": True},
     ["evaluation on own needs .*",
      r"training on own needs 1\d\S+ GB on one of 2 shares of a GPU and .*, more than 12 GB on one of 2 shares"
      r" of a GPU"]),
    ({"memory_mb": 24_000}, {"cache_weights": True, "gradient_checkpointing": True, "micro_batch_size": 1},
     ["evaluation on own",
      r"training on own needs 2\d\S+ GB in the machine, more than 24 GB .*"]),
    ({"memory_mb": 4000}, {"micro_batch_size": 1, "shard_model": True, "gradient_checkpointing": True},
     ["evaluation on own", "training on own needs .*, more than 4 GB in the machine"]),
])  # fmt: skip
def test_a_job_that_needs_more_memory_than_there_is_is_said(monkeypatch, resources, training, lines):
    monkeypatch.setattr(estimate, "virtual_memory", lambda: SimpleNamespace(total=32 * 10**9))
    config = laid_over({
        "models": {"m": {"source": "hub:huggyllama/llama-7b", "dtype": "bfloat16"}},
        "tasks": {"own": {"kind": "text", "hub": "a/b", "length": 2048}},
        "grid": {"models": ["m"], "tasks": ["own"], "methods": ["unstructured", "random"]},
        "training": {"batch_size": 32, **training},
        "resources": resources,
    })  # fmt: skip
    said = needs(Requests(config), study_jobs(config)).splitlines()[1:]
    assert len(said) == len(lines), said
    assert all(re.match(f"m: {line}", text) for line, text in zip(lines, said, strict=True)), said


CHECKPOINTING = "set training.gradient_checkpointing to true"
DISTILLED = {"distillation": {"weight": 0.5}}


@pytest.mark.parametrize(("card", "task", "changes", "advice"), [
    (24, "gsm8k", {}, {"evaluation": "set evaluation_batch_size to 8"}),
    (None, "gsm8k", {}, {}),
    # An evaluation of choices has logits only of the answers, and fits.
    (24, "boolq", {}, {"training": CHECKPOINTING}),
    (16, "boolq", {"training": {"micro_batch_size": 16}},
     {"evaluation": "set evaluation_batch_size to 16", "training": "no single key makes it fit; use a larger machine"}),
    # A teacher is as large as the model.
    (24, "boolq", {"training": DISTILLED}, {"training": "set training.shard_model to true"}),
    # A reconstruction refuses shard_model, which is tried before the size of an evaluation.
    (24, "gsm8k", {"grid": {"modes": ["reconstruct"]}}, {"evaluation": "set evaluation_batch_size to 8"}),
    (48, "gsm8k", {"resources": {"jobs_per_gpu": 2}}, {"evaluation": "set evaluation_batch_size to 8"}),
])  # fmt: skip
def test_the_advice_is_the_first_single_change_that_fits(card, task, changes, advice):
    content = {
        "models": {"m": {"source": "hub:huggyllama/llama-7b"}},
        "tasks": {task: {}},
        "grid": {"models": ["m"], "tasks": [task], "methods": ["unstructured"], "modes": ["sparse_to_sparse"]},
        "training": {"batch_size": 16, "micro_batch_size": 4},
        "evaluation": {"divergence": 0},
        "resources": {"gpus": 1, "memory_mb": 10**6},
    }  # fmt: skip
    config = laid_over({name: section | changes.get(name, {}) for name, section in content.items()})
    said = needs(Requests(config, card and card * 10**9), study_jobs(config)).splitlines()[1:]
    lines = [line for line in said if "also fits" not in line]
    found = [re.fullmatch(rf"m: (\w+) on {task} needs .* than \d+ GB on .*GPU; (.*)", line) for line in lines]
    assert {match[1]: match[2] for match in found} == advice


BFLOAT16 = {"models": {"smollm2": {**DEFAULT["models"]["smollm2"], "dtype": "bfloat16"}}}


def high_sparsity(folder: Path) -> dict:
    """The study at high sparsities, without its data, but for a text of six windows."""
    sections = yaml.safe_load((ROOT / "studies/high_sparsity.yaml").read_text())
    (folder / "text.jsonl").write_text("x" * 6 * 1024 * CHARACTERS_PER_TOKEN)
    sections["tasks"]["hellaswag"].pop("local")
    return sections | {"perplexity": {"local": str(folder / "text.jsonl"), "context": 1024}}


# The minutes of a thread of a CPU with AVX-512: README.md (the sum of the jobs), and docs/results.md.
@pytest.mark.parametrize(("sections", "minutes"), [
    (lambda folder: {}, 9.4),
    (lambda folder: yaml.safe_load((ROOT / "config/hellaswag.yaml").read_text()) | BFLOAT16, 2 * 54),
    (lambda folder: yaml.safe_load((ROOT / "config/boolq.yaml").read_text()) | BFLOAT16, 35),
    (high_sparsity, 6.2 * 60),
])  # fmt: skip
def test_the_hours_of_studies_that_were_run_are_right_within_a_factor_of_two(tmp_path, monkeypatch, sections, minutes):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "this_machine", lambda: (TYPICAL, "a test"))
    config = laid_over(sections(tmp_path))
    said = re.match(r"about \S+ (\w+) \((\S+) to (\S+)\)", hours(Requests(config), study_jobs(config)))
    low, high = (float(number) * {"minutes": 1, "hours": 60}[said[1]] for number in said.groups()[1:])
    assert low < minutes < high
    assert high == pytest.approx(4 * low, rel=0.1)


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


def test_a_slower_machine_takes_longer_but_not_for_what_does_not_depend_on_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = laid_over({})
    times = []
    for speeds in (TYPICAL, speeds_of({"products": {"4": 49e9, "2": 200e9}, "disk": 0.5e9})):
        monkeypatch.setattr(estimate, "this_machine", lambda speeds=speeds: (speeds, "a test"))
        times.append(float(hours(Requests(config), study_jobs(config)).split()[1]))
    assert times[0] < times[1] < 2 * times[0]


def test_the_estimate_says_how_many_examples_a_difference_of_accuracies_needs():
    (line,) = examples(laid_over({}))
    said = re.match(r"hellaswag_mini: 64 validation examples; a difference of 0.05 of .* needs about (\d+),", line)
    # A normal approximation, worked out by hand: one answer in five differs.
    by_hand = (norm.isf(0.05 / 2) + norm.isf(0.2)) ** 2 * (0.2 - 0.05**2) / 0.05**2
    assert int(said[1]) == pytest.approx(by_hand, rel=0.01)
    text = laid_over({"tasks": {"own": {"kind": "text", "hub": "a/b"}}, "grid": {"tasks": ["own"]}})
    assert examples(text) == []


def test_pruned_bases_and_merged_models_are_as_large_as_their_models():
    methods, tasks = ["unstructured_wanda", "unstructured_sparsegpt"], ["boolq_mini", "gsm8k_mini"]
    config = laid_over({"grid": tiny_grid("smollm2", "", methods, tasks=tasks), "keep_merged": True})
    kept, _ = disk(Requests(config), study_jobs(config))
    # SparseGPT on two tasks at two sparsities.
    assert kept["pruned"] == 2 * 2 * kept["models"]
    assert kept["merged models"] == len(runs(config)) * kept["models"]


def test_a_study_that_does_not_fit_on_the_disk_is_refused_and_each_folder_counts_on_its_own_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A million copies of a model of 7B.
    huge = {f"m{number}": {"source": "hub:huggyllama/llama-7b"} for number in range(1000)}
    config = laid_over({"models": huge, "grid": {"models": list(huge)}})
    prepare = [("prepare", {"model": name}, "") for name in huge]
    with pytest.raises(InputError, match=r"^the disk at /.*: 13,[\d.,]+ GB are needed, and [\d.,]+ are free; free"):
        check_disk(Requests(config), 1000 * prepare)
    assert check_disk(Requests(config), []) is None
    unknown = laid_over({"models": {"smollm2": {"source": "hub:a/b"}}})
    assert check_disk(Requests(unknown), [("prepare", {"model": "smollm2"}, "")]) is None


def test_equal_jobs_that_ran_here_give_their_mean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/benchmarks/train_adapter"
    folder.mkdir(parents=True)
    jobs = [("training", vars(RUN), "train_adapter")] * 3
    assert "(3 jobs estimated, from " in hours(Requests(laid_over({})), jobs)
    schedule = laid_over({}).training_of(RUN.task).model_dump()
    for method, text in (("random", "s\n3600"), ("structured", "s\n7200"), ("unstructured", "s\n-"), ("dense", "")):
        run = Run(**vars(RUN) | {"method": method}).id
        (folder / f"{run}.tsv").write_text(text)
        (tmp_path / "results/runs" / run).mkdir(parents=True)
        (tmp_path / "results/runs" / run / "train.json").write_text(json.dumps(schedule))
    # The mean of an hour and two. The other two files are not complete.
    said = "about 4.5 hours on one machine, one job at a time (3 jobs measured here before)"
    assert hours(Requests(laid_over({})), jobs) == said
    data = laid_over({}).tasks[RUN.task].model_dump(exclude_unset=True)
    longer = laid_over({"tasks": {RUN.task: data | {"training": {"steps": 100 * schedule["steps"]}}}})
    assert re.match(r"about 3\d\d\.\d hours .* \(3 jobs measured here", hours(Requests(longer), jobs))
    assert "estimated" in hours(Requests(laid_over({"results": "results/other"})), jobs)


def test_what_is_not_known_yet_is_counted_and_not_guessed():
    engines = [("engines", vars(RUN), ""), ("export", vars(RUN), "")]
    assert "(1 job estimated, 1 job of unknown time, from " in hours(Requests(laid_over({})), engines)
    wafer = Requests(laid_over({"backend": "cerebras", "grid": {"modes": ["sparse_to_dense"]}}))
    said = hours(wafer, [(kind, vars(RUN), "") for kind in ("training", "merge")])
    assert "(1 job estimated, 1 job of unknown time, from " in said


@pytest.mark.parametrize(("text", "line"), [
    ("models: {smollm2: {source: 'hub:a/b', sha256: null}}\n", "models.smollm2: the sizes of hub:a/b"),
    ("models: {smollm2: {source: 'path:damaged', sha256: null}}\n", "models.smollm2: config.json"),
])  # fmt: skip
def test_a_study_that_cannot_be_estimated_is_one_line(tmp_path, monkeypatch, text, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text('{"architectures": ["LlamaForCausalLM"], "hidden_size": "576"}')
    (tmp_path / "c.yaml").write_text(text)
    assert line in refused(tmp_path, "estimate.py", configfile=tmp_path / "c.yaml")
