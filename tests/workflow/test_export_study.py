"""Two runs, exported and read back with the reader of TensorBoard."""

import shutil
from pathlib import Path

import pytest
from box import RUNS, flags
from project import read_record, refused, succeed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

RUN = RUNS[0]
PLACES = {"results_dir": "results/runs", "output_dir": "out"}


@pytest.fixture(scope="module")
def made(tmp_path_factory, finished_runs) -> Path:
    """Return a copy of the finished runs. One of them has losses during its training, and a probe."""
    box = Path(shutil.copytree(finished_runs, tmp_path_factory.mktemp("study") / "box"))
    probe, folder = box / "data/gsm8k_mini", box / "results/runs" / RUN
    succeed("prepare_task.py", task="gsm8k_mini", train_examples=4, validation_examples=3, output_dir=probe)
    succeed("train.py", **flags(box, RUN, "train.py", folder), eval_every=2)
    succeed("evaluate.py", **flags(box, RUN, "evaluate.py", folder), probes=f"gsm8k_mini:{probe}")
    return box


@pytest.fixture
def study(made, tmp_path, monkeypatch) -> Path:
    """Change into a copy of the folder, which a test may change; return the folder of the run."""
    shutil.copytree(made, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    return Path("results/runs", RUN)


def export() -> Path:
    succeed("export_study.py", **PLACES)
    return Path("out", RUN)


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_curves_the_results_and_the_settings(study):
    charts = points(export())
    training, evaluation = read_record(study / "train.json"), read_record(study / "evaluation.json")
    for tag, key in (("train/loss", "loss"), ("train/learning_rate", "learning_rate")):
        assert charts[tag] == [(step["step"], pytest.approx(step[key])) for step in training["loss_curve"]]
    before = training["eval_curve"][0]["eval_loss"]
    assert charts["eval/loss"] == [(2, pytest.approx(before)), (4, pytest.approx(evaluation["eval_loss"]))]
    assert charts["eval/acc"] == [(4, pytest.approx(evaluation["metrics"]["acc"]))]
    assert charts["actual_sparsity"] == [(4, pytest.approx(50, abs=0.1))]
    assert charts["probe_gsm8k_mini/exact_match"] == [(4, 0)]
    # The settings are its hparams.
    events = EventAccumulator(f"out/{RUN}").Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    assert start.group_name == RUN
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    settings = {"sparsity": 50, "seed": 0, "steps": 4, "learning_rate": 0.02, "method": "structured"}
    assert found.items() >= (settings | {"mask.scope": "layer"}).items()


def test_the_record_of_another_run_ends_the_export(study):
    study.rename(study.with_name(RUN.replace("seed0", "seed7")))
    assert f"train.json: belongs to run {RUN}" in refused(Path("results"), "export_study.py", **PLACES)


def test_a_later_export_completes_a_run_and_doubles_nothing(study):
    shutil.move(study / "evaluation.json", "later.json")
    (study / "validation_report.json").unlink()
    assert points(export()).keys() == {"train/loss", "train/learning_rate", "eval/loss"}
    shutil.move("later.json", study / "evaluation.json")
    charts = points(export())
    assert len(charts["train/loss"]) == 4 and len(charts["eval/acc"]) == 1
