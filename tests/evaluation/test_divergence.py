"""The divergence of a model is KL(dense, model), estimated on windows that the dense model has sampled."""

import json
import re
from pathlib import Path

import pytest
import torch
from project import read_record, refused, succeed
from scipy import stats
from sparseft.axes.tasks import BY_NAME
from sparseft.data.rows import write_rows
from sparseft.models.language_model.model import load_model
from sparseft.storage.hashes import sha256
from tiny_models import save_tiny

CPU = torch.device("cpu")
TASK = BY_NAME["boolq_mini"]
FIELDS = ("divergence", "divergence_standard_error", "same_top_tokens", "divergences")


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """Return a folder with a tiny model in float32, a pruned one, rows of a task, and texts that the models have
    sampled."""
    box = tmp_path_factory.mktemp("box")
    save_tiny("llama", box / "dense", torch.float32)
    model, tokenizer = load_model(box / "dense", CPU)
    for parameter in model.model.layers.parameters():
        if parameter.ndim == 2:
            # The smaller half.
            parameter.data[parameter.abs() < parameter.abs().median()] = 0
    model.save_pretrained(box / "pruned")
    tokenizer.save_pretrained(box / "pruned")
    (box / "data").mkdir()
    for split in ("train", "validation"):
        write_rows(box / f"data/{split}.jsonl", TASK.generate(split, 6, 0))
    sampled = {"model_path": box / "dense", "length": 40}
    succeed("sample_text.py", **sampled, output=box / "texts/own.jsonl", examples=96, seed=11)
    succeed("sample_text.py", **sampled | {"length": 16}, output=box / "texts/short.jsonl", examples=16, seed=11)
    succeed("sample_text.py", **sampled, output=box / "texts/self.jsonl", examples=8, seed=1)
    succeed("sample_text.py", **sampled, output=box / "texts/single.jsonl", examples=1)
    succeed("sample_text.py", **sampled, output=box / "texts/cold.jsonl", examples=4, temperature=0.9)
    mixed = {"text": box / "texts/self.jsonl", "windows": 3, "output": box / "texts/mix.jsonl"}
    succeed("mix_texts.py", model_path=box / "dense", **mixed)
    return box


def evaluated(box: Path, output: Path, checkpoint: str, **flags: object) -> dict:
    flags = {"divergence": box / "texts/own.jsonl", "dense": box / "dense"} | flags
    data = {"task": TASK.name, "data_dir": box / "data", "output": output}
    succeed("evaluate.py", checkpoint=box / checkpoint, **data, **flags)
    return read_record(output)


@torch.no_grad()
def log_probabilities(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Return log p of every token of the vocabulary at each place but the last, float64, from one plain batch."""
    model, _ = load_model(folder, CPU)
    return model(ids).logits[:, :-1].double().log_softmax(-1)


@pytest.mark.long
def test_the_estimate_is_within_its_error_of_the_full_divergence_of_both_models(box, tmp_path):
    record = evaluated(box, tmp_path / "evaluation.json", "pruned")
    ids = torch.tensor([json.loads(line)["ids"] for line in (box / "texts/own.jsonl").open()])
    of_dense, of_model = (log_probabilities(box / name, ids) for name in ("dense", "pruned"))
    drawn = (of_dense - of_model).gather(2, ids[:, 1:, None])[..., 0].mean(dim=1).numpy()
    assert record["divergences"] == pytest.approx(drawn, abs=1e-4)
    assert record["divergence"] == pytest.approx(drawn.mean(), abs=1e-4)
    assert record["divergence_standard_error"] == pytest.approx(stats.sem(drawn), rel=1e-3)
    same = (of_dense.argmax(-1) == of_model.argmax(-1)).double().mean().item()
    assert record["same_top_tokens"] == pytest.approx(same, abs=1e-3)
    full = (of_dense.exp() * (of_dense - of_model)).sum(-1).mean(dim=1).numpy()
    assert abs((drawn - full).mean()) < 3 * stats.sem(drawn - full)
    # The error is not so large that anything would be within it.
    assert full.mean() > 10 * stats.sem(drawn - full) > 0
    assert record["inputs"]["divergence"] == sha256(box / "texts/own.jsonl")


@pytest.mark.long
def test_the_dense_model_has_none_and_the_bits_are_those_of_any_other_call(box, tmp_path):
    record = evaluated(box, tmp_path / "dense.json", "dense")
    assert (record["divergence"], record["divergence_standard_error"], record["same_top_tokens"]) == (0, 0, 1)
    assert record["divergences"] == [0] * 96
    text = box / "texts/self.jsonl"
    outputs = {size: tmp_path / f"{size}.json" for size in (32, 5)}
    first, again = (evaluated(box, outputs[size], "pruned", batch_size=size, calibration=text) for size in outputs)
    assert [first[name] for name in FIELDS] == [again[name] for name in FIELDS]


@pytest.mark.parametrize(("flags", "fault"), [
    ({"dense": "pruned"}, "own.jsonl: it was not sampled by .*pruned, but by another model; sample one"),
    ({"divergence": "texts/cold.jsonl"}, "cold.jsonl: it was not sampled at temperature 1; sample one"),
    ({"divergence": "texts/single.jsonl"}, "single.jsonl: it has 1 window, which has no standard error; sample one"),
    ({"divergence": "texts/mix.jsonl"}, "mix.jsonl, line 1: field 'log_p' is missing"),
    ({"calibration": "texts/own.jsonl"}, r"own.jsonl: the model was calibrated on windows of it \(.*own.jsonl\); "),
    ({"calibration": "texts/short.jsonl"}, r"own.jsonl: the model was calibrated on windows of it \(.*short.jsonl\); "),
    ({"divergence": "texts/short.jsonl", "calibration": "texts/own.jsonl"},
     r"short.jsonl: the model was calibrated on windows of it \(.*own.jsonl\); "),
    ({"divergence": "texts/self.jsonl", "calibration": "texts/mix.jsonl"},
     r"self.jsonl: the model was calibrated on windows of it \(.*mix.jsonl\); "),
    ({"dense": None}, "--divergence and --dense belong together; give both, or none"),
])  # fmt: skip
def test_windows_that_give_no_divergence_are_refused_in_one_line(box, flags, fault):
    flags = {"divergence": "texts/own.jsonl", "dense": "dense"} | flags
    places = {name: box / place for name, place in flags.items() if place}
    places |= {"checkpoint": box / "pruned", "data_dir": box / "data", "output": box / "evaluation.json"}
    said = refused(box, "evaluate.py", task=TASK.name, **places)
    assert re.search(fault, said), said
