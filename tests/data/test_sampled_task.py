"""A task whose rows a model samples: its rows keep their token ids, and each original model has a folder of its own."""

import json
from pathlib import Path

import pytest
from project import laid_over, refused, succeed
from sparseft.axes.methods import get_method
from sparseft.data.prepared import find_task, read_splits
from sparseft.models.language_model.batches import encode
from sparseft.study import targets

TASK = {"kind": "text", "text": "own"}
STUDY = {
    "models": {"half": {"source": "pruned:smollm2/sparsity50_layers_random"}},
    "tasks": {"mine": TASK | {"validation_examples": 4}},
    "masks": {"calibration": {"own": {"text": "self", "examples": 6, "length": 20, "together": 3}}},
    "grid": {"models": ["smollm2", "half"], "tasks": ["mine"], "methods": ["unstructured_wanda"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_models) -> Path:
    """Return a folder with two texts of the tiny LLaMA, and the task that is prepared from them."""
    folder = tmp_path_factory.mktemp("sampled")
    windows = [folder / "train_text.jsonl", folder / "held_out.jsonl"]
    for seed, path in enumerate(windows):
        succeed("sample_text.py", model_path=tiny_models["llama"], output=path, examples=6 - 2 * seed, length=20,
                seed=seed, together=3)  # fmt: skip
    succeed("prepare_task.py", task="mine", **TASK, validation_examples=4, windows=windows, output_dir=folder / "data")
    return folder


def test_the_examples_are_the_token_ids_that_the_model_has_sampled(folder, tiny_models):
    task = find_task(folder / "data", "mine")
    rows, _ = read_splits(folder / "data", task)
    for split, text in (("train", "train_text"), ("validation", "held_out")):
        sampled = [json.loads(line)["ids"] for line in (folder / f"{text}.jsonl").open()]
        examples = encode(rows[split], task, tokenizer=None, max_length=20)
        assert [example.ids for example in examples] == sampled
        assert {example.answer_start for example in examples} == {1}


def test_a_loss_is_that_of_the_dense_model_and_the_divergence(folder, tiny_models):
    places = {"task": "mine", "data_dir": folder / "data", "divergence": folder / "held_out.jsonl"}
    records = []
    for name in ("llama", "mistral"):
        output = folder / name / "evaluation.json"
        succeed("evaluate.py", **places, checkpoint=tiny_models[name], dense=tiny_models["llama"], output=output)
        records.append(json.loads(output.read_text()))
    dense, other = records
    assert (dense["divergence"], dense["same_top_tokens"]) == (0, 1)
    assert other["eval_loss"] - dense["eval_loss"] == pytest.approx(other["divergence"], abs=1e-9)


def test_a_pruned_model_reads_the_windows_of_its_original_and_the_held_out_ones_are_as_long():
    study = laid_over(STUDY)
    assert study.data_folder("mine", "half") == study.data_folder("mine", "smollm2") == "data/mine-smollm2"
    assert targets.task_windows(study, "mine", "-smollm2") == [
        "data/calibration_own-smollm2.jsonl", "data/calibration_divergence-smollm2.jsonl",
    ]  # fmt: skip
    held_out = study.texts["divergence"]
    assert (held_out.examples, held_out.length, held_out.seed) == (4, 20, 2**32 - 1)
    # The text has fewer windows than a calibration takes by default.
    assert study.mask_settings(get_method("unstructured_wanda"), "mine")["calibration_examples"] == 6
    assert study.mask_settings(get_method("unstructured_wanda"), "boolq_mini")["calibration_examples"] == 128


@pytest.mark.parametrize(
    ("windows", "what"),
    [
        (["held_out"], "--text and --windows belong together"),
        (["train_text", "train_text"], "100 % of the windows of 13 words of the validation text also occur"),
    ],
)
def test_windows_that_are_no_training_and_other_validation_rows_are_refused(folder, windows, what):
    paths = [folder / f"{name}.jsonl" for name in windows]
    assert what in refused(folder, "prepare_task.py", task="mine", **TASK, windows=paths, output_dir=folder / "out")
