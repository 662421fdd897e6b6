"""The rules of the backend cerebras: one job at a time, what is tried again and what is not.

A stand-in trains; the workflow with the real package on its CPU backend is in tests/cerebras."""

import pytest
import yaml
from project import ROOT, TINY_STUDY, Study, program, tiny_grid

CS3 = ["--profile", str(ROOT / "profiles/cs3")]
STAND_IN = """#!/bin/bash
case "$*" in
  *measure_cerebras.py*) kind=measure; echo "$*" >> $HERE/flags;;
  *) kind=train;;
esac
while [ $# -gt 0 ]; do case $1 in --output_dir) out=$2;; --run_id) run=$2;; esac; shift; done
echo "$kind $run $out begin $(date +%s%N)" >> $HERE/calls
sleep 0.3
if [ $kind = train ] && [ -e "$HERE/fail_$run" ]; then cat "$HERE/fail_$run" >&2; rm -f "$HERE/once_$run"; exit 1; fi
mkdir -p $out
case $kind in
  measure) echo '{}' > $out/measurement.json;;
  train) mkdir $out/adapter; echo '{}' > $out/train.json;;
esac
echo "$kind $run $out end $(date +%s%N)" >> $HERE/calls
"""
DENSE, PRUNED = (
    f"llama-boolq_mini-{cell}-sparse_to_dense-seed0" for cell in ("dense-sparsity00", "unstructured-sparsity50")
)


@pytest.fixture
def study(tmp_path, tiny_models, monkeypatch) -> Study:
    """A study of three trainings on the appliance, with a stand-in for it."""
    monkeypatch.setenv("HERE", str(tmp_path))
    program(tmp_path / "trainer", STAND_IN)
    study = Study(tmp_path / "study")
    study.model = tiny_models["llama"]
    configure(study)
    return study


def configure(study: Study, *, grid: dict | None = None, throughput: dict | None = None, **cerebras: object) -> None:
    cells = tiny_grid("llama", "boolq_mini", ["unstructured"], sparsities=[0, 50]) | (grid or {})
    settings = {"lock": None, "job_labels": ["name=x"], "python": str(study.folder.parent / "trainer"), **cerebras}
    sections = {"backend": "cerebras", "cerebras": settings, "throughput": throughput or {}}
    study.configure({"llama": study.model}, grid=cells, **sections)


def calls(study: Study) -> list[list[str]]:
    return [line.split() for line in (study.folder.parent / "calls").read_text().splitlines()]


@pytest.mark.slow
def test_the_appliance_is_taken_in_turns(study):
    study.snakemake("train", *CS3, "--cores", "4")
    seen = calls(study)
    assert [call[3] for call in seen] == ["begin", "end"] * 3  # cores are free, the appliance is not
    assert len({run for _, run, *_ in seen}) == 3
    assert study.planned("train", *CS3) == {}

    def planned(**changed: object) -> dict[str, int]:
        configure(study, **changed)
        return study.planned("train", *CS3)

    # What decides no number trains nothing again.
    assert planned(job_priority="p3", job_time_sec=60, mount_dirs=["/a b"]) == {}
    assert planned(grid={"seeds": [0, 1]}) == {"train_adapter": 3, "train": 1}
    assert planned(grid={"methods": ["random", "unstructured"]})["train_adapter"] == 2
    assert planned(sequence_length=256)["train_adapter"] == 3


@pytest.mark.slow
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


@pytest.mark.slow
def test_each_batch_size_is_measured_in_turns(study):
    asked = {"batch_sizes": [4, 2], "steps": 100, "warmup_steps": 10, "repeats": 2, "sparsities": [50]}
    configure(study, grid={"modes": ["sparse_to_sparse"]}, throughput=asked)
    planned = study.planned("throughput", *CS3)
    assert planned.items() >= {"measure_batch": 4, "join_measurements": 1, "analyze_throughput": 1}.items()
    assert "train_adapter" not in planned
    study.snakemake("throughput", *CS3, "--cores", "4", expect=1)  # what the stand-in wrote is no measurement
    seen = calls(study)
    assert [call[3] for call in seen] == ["begin", "end"] * 4
    measured = sorted(place.rpartition("batch")[2] for _, _, place, moment, _ in seen if moment == "begin")
    assert measured == ["2-seed0", "2-seed1", "4-seed0", "4-seed1"]
    for flags in (study.folder.parent / "flags").read_text().splitlines():
        assert all(f" --{flag} " in flags for flag in ("steps 110", "save_every 0", "eval_every 0"))
        assert flags.count(" --batch_size ") == 1
    printed = (study.folder / "results/logs/join_measurements").glob("*.log")
    assert ["Field required" in log.read_text() for log in printed] == [True]


def test_modelzoo_has_an_export_per_mask_and_one_of_the_dense_model(study):
    content = yaml.safe_load((ROOT / "config/modelzoo.yaml").read_text())
    content["training"] = TINY_STUDY["training"] | content["training"]
    study.configure({"llama": study.model}, grid=tiny_grid("llama", "boolq_mini"), **content)
    planned = study.planned()
    assert (planned["export_checkpoint"], planned["train_adapter"]) == (3 * 2 + 1, 13)
