"""Two runs, exported and read back with the readers of TensorBoard and of W&B; and the files of lm-eval."""

import json
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from box import TRAINING
from hub_cache import write
from lm_eval import utils
from lm_eval.evaluator import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from project import call_script, succeed
from sparseft.data.lm_eval_rendering import sandboxed
from sparseft.data.prepared import find_task, read_splits
from sparseft.evaluation.harness import task_definition
from sparseft.evaluation.scoring import BOOTSTRAP
from sparseft.language_model.model import load_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tiny_models import save_tiny

pytestmark = pytest.mark.process
TRAINED = "m-colours-unstructured-sparsity50-sparse_to_sparse-seed0"
DENSE = "m-colours-dense-sparsity00-no_finetune-seed0"
COLOURS = {
    "output_type": "multiple_choice",
    "training_split": "train",
    "validation_split": "validation",
    "fewshot_split": "train",
    "num_fewshot": 2,
    "doc_to_text": "Thing: {{thing}}\nColour:",
    "doc_to_choice": "{{colours}}",
    "doc_to_target": "right",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}  # fmt: skip


def colours(number: int) -> dict:
    """Return one row of the task."""
    return {"thing": f"brick {number}", "colours": ["red", f"green {number}", "a pale blue"], "right": number % 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with a trained run and the original model, both evaluated on a task of lm-eval and on a probe."""
    folder = tmp_path_factory.mktemp("study")
    for split, numbers in {"train": range(10, 22), "validation": range(6)}.items():
        write(folder / f"rows/{split}.jsonl", [colours(number) for number in numbers])
    (folder / "colours.yaml").write_text(yaml.safe_dump(COLOURS | {"task": "colours"}))
    run = Path("results/runs", TRAINED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_tiny("llama", folder / "source", torch.float32)
        succeed("prepare_model.py", source="path:source", dtype="float32", output_dir="models/m")
        succeed("prepare_task.py", task="colours", lm_eval="colours.yaml", local="rows", output_dir="data/colours")
        mini = {"task": "gsm8k_mini", "train_examples": 4, "validation_examples": 3}
        succeed("prepare_task.py", **mini, output_dir="data/gsm8k_mini")
        succeed("compute_masks.py", model_path="models/m", output_dir="masks", sparsity="0.5", method="unstructured")
        place = {"run_id": TRAINED, "model_path": "models/m", "mask_path": "masks/masks_sparsity50_unstructured.pt"}
        succeed("train.py", **place, **TRAINING, eval_every=2, data_dir="data/colours", output_dir=run)
        succeed("merge.py", **place, adapter=run / "adapter", report=run / "merge.json", output_dir=run / "model_dir")
        proof = {"mask_path": place["mask_path"], "base": "models/m", "output": run / "validation_report.json"}
        succeed("validate_sparsity.py", checkpoint=run / "model_dir", run_id=TRAINED, **proof)
        scored = {"task": "colours", "data_dir": "data/colours", "probes": "gsm8k_mini:data/gsm8k_mini"}
        for run_id, model in ((TRAINED, run / "model_dir"), (DENSE, "models/m")):
            report = f"results/runs/{run_id}/evaluation.json"
            files = f"results/runs/{run_id}/lm_eval"
            succeed("evaluate.py", checkpoint=model, run_id=run_id, **scored, lm_eval_files=files, output=report)
    return folder


@pytest.fixture
def study(made, tmp_path, monkeypatch) -> Path:
    """Change into a copy of the folder, which a test may change; return the folder of the trained run."""
    shutil.copytree(made, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    return Path("results/runs", TRAINED)


def export(form: str) -> Path:
    """Export the runs; return the folder of the export."""
    succeed("export_study.py", results_dir="results/runs", output_dir=form, format=form)
    return Path(form)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of each chart of TensorBoard."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_curves_and_the_results(study):
    charts = points(export("tensorboard") / TRAINED)
    training, evaluation = read(study / "train.json"), read(study / "evaluation.json")
    for tag, key in (("train/loss", "loss"), ("train/learning_rate", "learning_rate")):
        assert charts[tag] == [(step["step"], pytest.approx(step[key])) for step in training["loss_curve"]]
    before = training["eval_curve"][0]["eval_loss"]
    assert charts["eval/loss"] == [(2, pytest.approx(before)), (4, pytest.approx(evaluation["eval_loss"]))]
    assert charts["eval/acc"] == [(4, pytest.approx(evaluation["metrics"]["acc"]))]
    assert charts["actual_sparsity"] == [(4, pytest.approx(50, abs=0.1))]
    assert charts["probe_gsm8k_mini/exact_match"] == [(4, 0)]


def test_tensorboard_shows_the_settings_of_a_run_as_hparams(study):
    events = EventAccumulator(str(export("tensorboard") / TRAINED)).Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    assert start.group_name == TRAINED
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    settings = {"sparsity": 50, "seed": 0, "steps": 4, "learning_rate": 0.02}
    assert found.items() >= (settings | {"method": "unstructured", "mask.scope": "layer"}).items()


def test_the_files_for_lm_eval_are_those_that_lm_eval_writes_for_the_model(study):
    model, tokenizer = load_model(study / "model_dir", torch.device("cpu"))
    lm, manager = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8), TaskManager(include_defaults=False)
    tasks = []
    for name in ("colours", "gsm8k_mini"):
        task = find_task(Path("data", name), name)
        with sandboxed(name):
            tasks += manager.load(task_definition(task, read_splits(Path("data", name), task)[0]))["tasks"].values()
    ours = lm_eval_files(study / "lm_eval")
    for task in tasks:
        with sandboxed("colours"):
            results = simple_evaluate(lm, tasks=[task], task_manager=manager, bootstrap_iters=BOOTSTRAP)
        samples, tracker = results.pop("samples"), EvaluationTracker(output_path="theirs/results.json")
        tracker.save_results_aggregated(results, samples)
        for name, rows in samples.items():
            tracker.save_results_samples(name, rows)
    theirs = lm_eval_files(Path("theirs"))
    assert ours.keys() == theirs.keys() == {"colours", "gsm8k_mini"}
    for name, (results, rows) in theirs.items():
        for key in ("results", "n-shot", "n-samples", "higher_is_better", "versions", "task_hashes"):
            assert ours[name][0][key] == results[key], key
        for row, expected in zip(ours[name][1], rows, strict=True):
            assert row | {"resps": 0, "filtered_resps": 0} == expected | {"resps": 0, "filtered_resps": 0}
            assert numbers(row["resps"]) == pytest.approx(numbers(expected["resps"]), rel=1e-5)
    metrics = read(study / "evaluation.json")["metrics"]
    assert f"|acc_norm|↑  |{metrics['acc_norm']:.4f}|±" in utils.make_table(ours["colours"][0])


def lm_eval_files(folder: Path) -> dict[str, tuple[dict, list[dict]]]:
    """Return the results and the samples by task, found and named by lm-eval's own functions."""
    files = [path.as_posix() for path in folder.iterdir()]
    results = [read(Path(file)) for file in utils.get_results_filenames(files)]
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
    (file,) = (export("wandb") / TRAINED).glob("wandb/offline-run-*/*.wandb")
    run, history, summary = wandb_records(file)
    assert (run.run_id, run.project, run.run_group) == (TRAINED, "pruning", TRAINED.removesuffix("-seed0"))
    config = values(run.config.update)
    assert config["learning_rate"] == 0.02 and config["lora_targets"] == []
    curve = read(study / "train.json")["loss_curve"]
    assert [step["train/loss"] for step in history] == [step["loss"] for step in curve]
    evaluation = read(study / "evaluation.json")
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


def refused(form: str, fault: str) -> None:
    """Check that an export ends after its fault."""
    found, said = call_script("export_study.py", results_dir="results/runs", output_dir="out", format=form)
    assert found == 2 and fault in said, said


@pytest.mark.skipif(bool(find_spec("wandb")), reason="needs an environment without wandb")
def test_wandb_is_named_if_it_is_not_installed(study):
    refused("wandb", "make install-wandb")
    assert not Path("out").exists()


def test_a_damaged_record_ends_the_export(study):
    (study / "train.json").write_text((study / "train.json").read_text().replace('"steps": 4', '"steps": 5'))
    refused("tensorboard", "train.json")


def test_a_file_of_somebody_else_is_kept(study):
    write(export("tensorboard") / TRAINED / "deep/notes.txt", [{}])
    write(Path("out", TRAINED, "notes.txt"), [{}])
    refused("tensorboard", "other files")
    code, said = call_script(
        "export_study.py", results_dir="results/runs", output_dir="tensorboard", format="tensorboard"
    )
    assert code == 2 and "would be lost: deep" in said
    assert Path("out", TRAINED, "notes.txt").exists() and Path("tensorboard", TRAINED, "deep/notes.txt").exists()


def test_a_later_export_completes_a_run_and_doubles_nothing(study):
    shutil.move(study / "evaluation.json", "later.json")
    (study / "validation_report.json").unlink()
    assert points(export("tensorboard") / TRAINED).keys() == {"train/loss", "train/learning_rate", "eval/loss"}
    shutil.move("later.json", study / "evaluation.json")
    charts = points(export("tensorboard") / TRAINED)
    assert len(charts["train/loss"]) == 4 and len(charts["eval/acc"]) == 1
