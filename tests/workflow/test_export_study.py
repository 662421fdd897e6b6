"""Two runs, exported and read back with the readers of TensorBoard and of W&B; and the files of lm-eval."""

import json
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from box import RUNS, flags
from lm_eval import utils
from lm_eval.evaluator import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from project import read_record, refused, succeed
from sparseft.data.lm_eval_rendering import sandboxed
from sparseft.data.prepared import find_task, read_splits
from sparseft.evaluation.harness import task_definition
from sparseft.evaluation.scoring import BOOTSTRAP
from sparseft.language_model.model import load_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tiny_models import save_tiny

RUN = RUNS[0]
EXPORT = ("export_study.py", "--results_dir", "results/runs", "--output_dir", "out")


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


def export(form: str) -> Path:
    """Export the runs; return the folder of the export."""
    succeed("export_study.py", results_dir="results/runs", output_dir=form, format=form)
    return Path(form)


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of each chart of TensorBoard."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_curves_and_the_results(study):
    charts = points(export("tensorboard") / RUN)
    training, evaluation = read_record(study / "train.json"), read_record(study / "evaluation.json")
    for tag, key in (("train/loss", "loss"), ("train/learning_rate", "learning_rate")):
        assert charts[tag] == [(step["step"], pytest.approx(step[key])) for step in training["loss_curve"]]
    before = training["eval_curve"][0]["eval_loss"]
    assert charts["eval/loss"] == [(2, pytest.approx(before)), (4, pytest.approx(evaluation["eval_loss"]))]
    assert charts["eval/acc"] == [(4, pytest.approx(evaluation["metrics"]["acc"]))]
    assert charts["actual_sparsity"] == [(4, pytest.approx(50, abs=0.1))]
    assert charts["probe_gsm8k_mini/exact_match"] == [(4, 0)]


def test_tensorboard_shows_the_settings_of_a_run_as_hparams(study):
    events = EventAccumulator(str(export("tensorboard") / RUN)).Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    assert start.group_name == RUN
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    settings = {"sparsity": 50, "seed": 0, "steps": 4, "learning_rate": 0.02, "method": "structured"}
    assert found.items() >= (settings | {"mask.scope": "layer"}).items()


def test_the_files_for_lm_eval_are_those_that_lm_eval_writes_for_the_model(study):
    # In bfloat16, another batch gives other bits.
    place = save_tiny("llama", Path("model"), torch.float32)
    scored = {"task": "hellaswag_mini", "data_dir": "data", "probes": "gsm8k_mini:data/gsm8k_mini"}
    succeed("evaluate.py", checkpoint=place, **scored, lm_eval_files="ours", output="evaluation.json")
    model, tokenizer = load_model(place, torch.device("cpu"))
    lm, manager = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8), TaskManager(include_defaults=False)
    tasks = []
    for name, data in (("hellaswag_mini", Path("data")), ("gsm8k_mini", Path("data/gsm8k_mini"))):
        task = find_task(data, name)
        with sandboxed(name):
            tasks += manager.load(task_definition(task, read_splits(data, task)[0]))["tasks"].values()
    ours = lm_eval_files(Path("ours"))
    for task in tasks:
        with sandboxed("tasks"):
            results = simple_evaluate(lm, tasks=[task], task_manager=manager, bootstrap_iters=BOOTSTRAP)
        samples, tracker = results.pop("samples"), EvaluationTracker(output_path="theirs/results.json")
        tracker.save_results_aggregated(results, samples)
        for name, rows in samples.items():
            tracker.save_results_samples(name, rows)
    theirs = lm_eval_files(Path("theirs"))
    assert ours.keys() == theirs.keys() == {"hellaswag_mini", "gsm8k_mini"}
    for name, (results, rows) in theirs.items():
        for key in ("results", "n-shot", "n-samples", "higher_is_better", "versions", "task_hashes"):
            assert ours[name][0][key] == results[key], key
        for row, expected in zip(ours[name][1], rows, strict=True):
            assert row | {"resps": 0, "filtered_resps": 0} == expected | {"resps": 0, "filtered_resps": 0}
            assert numbers(row["resps"]) == pytest.approx(numbers(expected["resps"]), rel=1e-5)
    metrics = read_record(Path("evaluation.json"))["metrics"]
    assert f"|acc_norm|↑  |{metrics['acc_norm']:.4f}|±" in utils.make_table(ours["hellaswag_mini"][0])


def lm_eval_files(folder: Path) -> dict[str, tuple[dict, list[dict]]]:
    """Return the results and the samples by task, found and named by lm-eval's own functions."""
    files = [path.as_posix() for path in folder.iterdir()]
    results = [read_record(Path(file)) for file in utils.get_results_filenames(files)]
    samples = {
        utils.get_file_task_name(Path(file).name): [json.loads(line) for line in Path(file).read_text().splitlines()]
        for file in utils.get_sample_results_filenames(files)
    }
    return {task: (result, samples[task]) for result in results for task in result["results"]}


def numbers(responses: list) -> list[float]:
    """Return the log-likelihoods in lm-eval's responses; none of a generated text."""
    return [float(answer[0]) for (answer,) in responses if isinstance(answer, list)]


@pytest.mark.skipif(not find_spec("wandb"), reason="needs wandb")
def test_wandb_gets_the_curve_the_settings_and_the_results(study, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "pruning")
    export("wandb")
    (file,) = (export("wandb") / RUN).glob("wandb/offline-run-*/*.wandb")
    run, history, summary = wandb_records(file)
    assert (run.run_id, run.project, run.run_group) == (RUN, "pruning", RUN.removesuffix("-seed0"))
    config = values(run.config.update)
    assert config["learning_rate"] == 0.02 and config["lora_targets"] == []
    curve = read_record(study / "train.json")["loss_curve"]
    assert [step["train/loss"] for step in history] == [step["loss"] for step in curve]
    evaluation = read_record(study / "evaluation.json")
    assert summary["eval/acc"] == evaluation["metrics"]["acc"] and summary["eval/loss"] == evaluation["eval_loss"]


def wandb_records(file: Path) -> tuple[object, list[dict], dict]:
    """Return the run, the history and the summary in a file of W&B, which is a log of LevelDB behind a head of 7
    bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, record = file.read_bytes(), 7, b""
    run, history, summary = None, [], {}
    while place + 7 <= len(content):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        # A record that does not fit into a block of 32 KiB has several parts, and the last 6 bytes of a block hold
        # none.
        place += 32768 - place % 32768 if 32768 - place % 32768 < 7 else 0
        if kind in (1, 4):
            parsed, record = Record.FromString(record), b""
            run = parsed.run if parsed.HasField("run") else run
            history += [values(parsed.history.item)] if parsed.HasField("history") else []
            summary |= values(parsed.summary.update)
    return run, history, summary


def values(items: list) -> dict:
    """Return the values in a list of W&B's items by name."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.skipif(bool(find_spec("wandb")), reason="needs an environment without wandb")
def test_wandb_is_named_if_it_is_not_installed(study):
    assert "make install-wandb" in refused(Path(), *EXPORT, format="wandb")


def test_a_damaged_record_ends_the_export(study):
    (study / "train.json").write_text((study / "train.json").read_text().replace('"steps": 4', '"steps": 5'))
    assert "train.json" in refused(study, *EXPORT, format="tensorboard")


def test_the_record_of_another_run_ends_the_export(study):
    study.rename(study.with_name(RUN.replace("seed0", "seed7")))
    line = refused(Path("results"), *EXPORT, format="tensorboard")
    assert f"train.json: belongs to run {RUN}" in line


def test_a_later_export_completes_a_run_and_doubles_nothing(study):
    shutil.move(study / "evaluation.json", "later.json")
    (study / "validation_report.json").unlink()
    assert points(export("tensorboard") / RUN).keys() == {"train/loss", "train/learning_rate", "eval/loss"}
    shutil.move("later.json", study / "evaluation.json")
    charts = points(export("tensorboard") / RUN)
    assert len(charts["train/loss"]) == 4 and len(charts["eval/acc"]) == 1
