"""The rules of the backend cerebras: compilations first, one job at a time, what is tried again and what is not.

A stand-in trains; the workflow with the real package on its CPU backend is in tests/cerebras."""

from pathlib import Path

import pytest
import yaml
from study import ROOT, TINY_STUDY, Study, tiny_grid

CS3 = ["--profile", str(ROOT / "profiles/cs3")]
STAND_IN = """#!/bin/bash
case "$*" in *--compile_only*) kind=compile;; *) kind=train;; esac
while [ $# -gt 0 ]; do case $1 in --output_dir) out=$2;; --run_id) run=$2;; esac; shift; done
echo "$kind $run $out begin $(date +%s%N)" >> $HERE/calls
sleep 0.3
if [ $kind = train ] && [ -e "$HERE/fail_$run" ]; then cat "$HERE/fail_$run" >&2; rm -f "$HERE/once_$run"; exit 1; fi
mkdir -p $out
if [ $kind = compile ]; then echo '{}' > $out/compile.json; else mkdir $out/adapter; echo '{}' > $out/train.json; fi
echo "$kind $run $out end $(date +%s%N)" >> $HERE/calls
"""
DENSE, PRUNED = (
    f"llama-boolq_mini-{cell}-sparse_to_dense-seed0" for cell in ("dense-sparsity00", "unstructured-sparsity50")
)


@pytest.fixture
def study(tmp_path, tiny_models, monkeypatch) -> Study:
    """A study of three trainings on the wafer, with a stand-in for it."""
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.delenv("COMPILE_ONCE", raising=False)
    trainer = tmp_path / "trainer"
    trainer.write_text(STAND_IN)
    trainer.chmod(0o755)
    study = Study(tmp_path / "study")
    configure(study, tiny_models["llama"], python=str(trainer))
    return study


def configure(study: Study, model: Path, *, seeds=(0,), methods=("unstructured",), **cerebras: object) -> None:
    cells = tiny_grid("llama", "boolq_mini", list(methods)) | {"sparsities": [0, 50], "seeds": list(seeds)}
    settings = {"lock": None, "job_labels": ["name=x"], **cerebras}
    study.configure({"llama": model}, grid=cells, backend="cerebras", cerebras=settings, **TINY_STUDY)


def calls(study: Study) -> list[list[str]]:
    return [line.split() for line in (study.folder.parent / "calls").read_text().splitlines()]


def test_the_sweep_is_planned_with_its_compilations(tmp_path):
    study = Study(tmp_path)
    (tmp_path / "study.yaml").write_text((ROOT / "config/sweep.yaml").read_text())
    planned = study.planned(*CS3)
    assert (planned["compile_program"], planned["train_adapter"]) == (74, 330)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(
        {**yaml.safe_load((ROOT / "config/sweep.yaml").read_text()), **yaml.safe_load((ROOT / "config/cs3.yaml").read_text())}
    ))  # fmt: skip
    assert study.planned()["compile_program"] == 74


def test_each_program_is_compiled_before_its_runs_and_the_wafer_is_taken_in_turns(study):
    study.snakemake("train", *CS3, "--cores", "4")
    seen = calls(study)
    assert [call[3] for call in seen] == ["begin", "end"] * 6  # cores are free, the appliance is not
    order = [(kind, run) for kind, run, _, moment, _ in seen if moment == "begin"]
    trained = [run for kind, run in order if kind == "train"]
    assert len(trained) == len(set(trained)) == 3
    for run in trained:
        assert order.index(("compile", run)) < order.index(("train", run))  # each program has one run here
    assert study.planned("train", *CS3) == {}


def test_what_decides_no_number_trains_nothing_again(study, tiny_models):
    study.snakemake("train")
    trainer = str(study.folder.parent / "trainer")
    configure(study, tiny_models["llama"], python=trainer, job_priority="p3", job_time_sec=60, mount_dirs=["/a b"])
    assert study.planned("train") == {}
    configure(study, tiny_models["llama"], python=trainer, seeds=(0, 1))
    assert study.planned("train") == {"train_adapter": 3, "train": 1}  # a program has no seed
    configure(study, tiny_models["llama"], python=trainer, methods=("random", "unstructured"))
    assert study.planned("train").keys() == {"compute_masks", "compile_program", "train_adapter", "train"}
    study.snakemake("train")  # the first run of the programs is another one now
    assert [call[1] for call in calls(study)].count(PRUNED) == 4
    configure(study, tiny_models["llama"], python=trainer, sequence_length=256)
    assert study.planned("train")["train_adapter"] == 3


def test_a_broken_connection_is_tried_again_and_a_wrong_configuration_is_not(study):
    here = study.folder.parent
    (here / f"fail_{PRUNED}").write_text("StatusCode.UNAVAILABLE\n")
    (here / f"fail_{DENSE}").write_text("error: the mask is of another model; give its own\n")
    study.snakemake("train", expect=1)
    begun = [run for kind, run, _, moment, _ in calls(study) if (kind, moment) == ("train", "begin")]
    assert (begun.count(PRUNED), begun.count(DENSE), len(begun)) == (3, 1, 5)
    assert "the mask is of another model" in (study.folder / f"results/logs/train_adapter/{DENSE}.log").read_text()
    for run in (PRUNED, DENSE):
        (here / f"fail_{run}").unlink()
    study.snakemake("train")
    assert study.planned("train") == {}


def test_a_full_quota_stops_the_wafer_until_snakemake_starts_again(study):
    here = study.folder.parent
    for run in (DENSE, PRUNED, PRUNED.replace("dense", "sparse")):
        (here / f"fail_{run}").write_text("OSError: [Errno 122] Disk quota exceeded\n")
    study.snakemake("train", expect=1)
    assert [kind for kind, *_ in calls(study)].count("train") == 1
    for file in here.glob("fail_*"):
        file.unlink()
    study.snakemake("train")
    assert [kind for kind, *_ in calls(study)].count("train") == 1 + 3 * 2


def test_an_environment_that_is_not_there_is_one_line(study, tiny_models):
    configure(study, tiny_models["llama"], python="/no/such/python")
    printed = study.snakemake("train", expect=1)
    assert "error: /no/such/python: no such program; " in printed
    assert not (study.folder.parent / "calls").exists()


def test_without_compilations_the_runs_stand_alone(study, monkeypatch):
    assert study.planned("train")["compile_program"] == 3
    monkeypatch.setenv("COMPILE_ONCE", "0")
    assert "compile_program" not in study.planned("train")
    monkeypatch.setenv("COMPILE_ONCE", "yes")
    line = "error: configuration: COMPILE_ONCE=yes in the environment; set it to 1 or 0, or unset it; "
    assert line in study.snakemake("train", "--dry-run", expect=2)


def test_the_throughput_of_the_wafer_is_refused(study):
    printed = study.snakemake("throughput", "--dry-run", expect=2)
    assert "error: throughput is measured with backend torch alone; " in printed
