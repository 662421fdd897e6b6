"""profiles/slurm on a real Slurm of one node, without an accounting database and without a GPU: make test-slurm."""

import re
import subprocess
import threading
from pathlib import Path

from project import ROOT, Study, program, tiny_grid

PROFILE = [
    "--profile", str(ROOT / "profiles/slurm"), "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2", "--latency-wait", "10",
    "--slurm-keep-successful-logs",
]  # fmt: skip
SMALL = tiny_grid("llama", "boolq_mini", ["unstructured"], sparsities=[50], modes=["sparse_to_dense"])
RUN = "results/runs/llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-seed0"
WAFER = """#!/bin/bash
while [ $# -gt 0 ]; do case $1 in --output_dir) out=$2;; esac; shift; done
echo "begin $(date +%s.%N)" >> {calls}
sleep 6
mkdir -p $out/adapter
echo '{{}}' > $out/train.json
echo "end $(date +%s.%N)" >> {calls}
"""


def study_in(folder: Path, tiny_models: dict[str, Path], **sections: object) -> Study:
    return Study(folder).configure({"llama": tiny_models["llama"]}, grid=SMALL, **sections)


def jobs() -> dict[str, dict[str, str]]:
    """Slurm's job id -> its fields, of every job that it still knows."""
    shown = subprocess.run(["scontrol", "show", "job", "--oneliner"], capture_output=True, text=True, check=True).stdout
    found = [dict(re.findall(r"(\w+)=(\S+)", line)) | {"comment": line} for line in shown.splitlines()]
    return {job["JobId"]: job for job in found if "JobId" in job}


def submitted(before: dict, rule: str) -> list[dict[str, str]]:
    """Jobs of a rule since `before`, in the order of their ids."""
    return [job for number, job in sorted(jobs().items(), key=lambda item: int(item[0]))
            if number not in before and f"rule_{rule}" in job["comment"]]  # fmt: skip


def test_a_study_goes_through_the_queue_and_asks_for_what_its_jobs_need(slurm, tmp_path, tiny_models):
    before, study = jobs(), study_in(tmp_path / "study", tiny_models)
    study.snakemake(*PROFILE)
    assert len(study.table()) == 2  # the pruned run and the trained one
    assert study.planned() == {}
    (training,) = submitted(before, "train_adapter")
    assert (training["JobState"], training["NumCPUs"]) == ("COMPLETED", "1")
    assert 700 < int(re.search(r"mem=(\d+)M", training["comment"])[1]) < 1500  # the program, and little of a model
    assert training["TimeLimit"] == "00:21:00"
    names = [job["comment"] for number, job in jobs().items() if number not in before]
    assert len(names) == 9  # prepare 3, masks, train, evaluate_adapter, two groups of three, analyze_results
    assert not list(study.folder.glob("results/runs/*/model_dir"))


def test_a_job_that_was_ended_for_its_memory_gets_more(slurm, tmp_path, tiny_models):
    before, study = jobs(), study_in(tmp_path / "study", tiny_models, resources={"memory_mb": 330})
    printed = study.snakemake(f"{RUN}/train.json", *PROFILE)
    trainings = submitted(before, "train_adapter")
    memories = [int(re.search(r"mem=(\d+)M", job["comment"])[1]) for job in trainings]
    assert memories == [330 * attempt for attempt in range(1, len(memories) + 1)]
    assert len(memories) > 1
    assert [job["JobState"] for job in trainings][-1] == "COMPLETED"
    assert all(job["JobState"] != "COMPLETED" for job in trainings[:-1])
    assert "Trying to restart job" in printed
    assert study.json(f"{RUN}/train.json")["final_loss"]


def test_one_licence_keeps_the_wafer_jobs_of_two_snakemakes_apart(slurm, tmp_path, tiny_models):
    calls, before = tmp_path / "calls", jobs()
    trainer = program(tmp_path / "trainer", WAFER.format(calls=calls))
    wafer = {"backend": "cerebras", "cerebras": {"lock": None, "python": str(trainer)}}
    studies = [study_in(tmp_path / name, tiny_models, **wafer) for name in ("one", "two")]
    for study in studies:
        study.snakemake("masks", "data/boolq_mini/train.jsonl", "--cores", "1")
    both = [threading.Thread(target=study.snakemake, args=("train", *PROFILE)) for study in studies]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(300)
    assert all((study.folder / RUN / "train.json").exists() for study in studies)
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["begin", "end"] * 2
    assert [job["Licenses"] for job in submitted(before, "train_adapter")] == ["csx:1"] * 2


def test_threads_and_gpus_are_asked_for_by_count(slurm, tmp_path, tiny_models, monkeypatch):
    """More threads than Snakemake's own machine has cores: they are not cut to those.

    The GPU is a stand-in, so the training refuses it. It does not compute on the CPU."""
    program(tmp_path / "bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: none (UUID: GPU-stand-in)'\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    before, study = jobs(), study_in(tmp_path / "study", tiny_models, resources={"threads": 2, "gpus": 1})
    printed = study.snakemake(f"{RUN}/train.json", *PROFILE, "--cores", "1", "--retries", "0", expect=1)
    (training,) = submitted(before, "train_adapter")
    assert (training["JobState"], training["NumCPUs"]) == ("FAILED", "2")
    assert "error: CUDA_VISIBLE_DEVICES is GPU-stand-in, but torch" in printed
    assert re.search(r"TresPerJob=gres[:/]gpu:1", training["comment"])
    assert training["NumNodes"] in ("1", "1-1")
