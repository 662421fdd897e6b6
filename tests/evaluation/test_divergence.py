"""The divergence of a model from the dense one is KL(dense, model), estimated on windows that the dense model has
sampled."""

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from project import read_record, refused, succeed
from scipy import stats
from sparseft.data.rows import write_rows
from sparseft.evaluation.divergence import measure_divergence
from sparseft.language_model.batches import Example
from sparseft.language_model.model import load_model
from sparseft.language_model.sampling import score_windows
from sparseft.storage.hashes import sha256
from sparseft.tasks import BY_NAME
from tiny_models import save_tiny
from torch import nn

CPU = torch.device("cpu")
TASK = BY_NAME["boolq_mini"]
FIELDS = ("divergence", "divergence_standard_error", "same_top_tokens", "divergences")


class Table(nn.Module):
    """A decoder whose hidden states are the rows of a table."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        self.table = torch.tensor(table).log()

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table[input_ids])


class Chain(nn.Module):
    """A language model of three tokens, whose next token depends on the last one only."""

    device = CPU

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        self.decoder = Table(table)

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def forward(self, **inputs: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.decoder(**inputs).last_hidden_state + 7)


def rows_of(model: nn.Module, windows: list[Example]) -> list[dict]:
    """Return windows as sample_text.py writes them."""
    scores = score_windows(model, windows)
    return [
        {
            "ids": window.ids,
            "answer_start": 1,
            "log_p": scores["log_p"][row].tolist(),
            "top": scores["top"][row].tolist(),
        }
        for row, window in enumerate(windows)
    ]


def test_the_mean_over_all_windows_by_their_probability_is_the_divergence_worked_out_by_hand():
    p = np.array([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    q = np.array([[0.25, 0.5, 0.25], [0.3, 0.3, 0.4], [0.3, 0.3, 0.4]])
    windows = [Example([0, *ids], 1) for ids in itertools.product(range(3), repeat=2)]
    probability = [p[0, first] * p[first, second] for _, first, second in (window.ids for window in windows)]
    record = measure_divergence(Chain(q.tolist()), rows_of(Chain(p.tolist()), windows))
    # By the chain rule: the divergence of the first token, and that of the second one by the first, over two tokens.
    of_token = (p * np.log(p / q)).sum(axis=1)
    expected = (of_token[0] + p[0] @ of_token) / 2
    assert sum(probability) == pytest.approx(1)
    assert np.dot(probability, record["divergences"]) == pytest.approx(expected, rel=1e-6)
    # After 0 the likeliest tokens differ. After 1, those of q are 2, and those of p are 1; after 2, both are 2.
    assert record["same_top_tokens"] == pytest.approx((0 + 3) / 18)


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """Return a folder with a tiny model in float32, models made from it, rows of a task, and texts that models have
    sampled."""
    box = tmp_path_factory.mktemp("box")
    save_tiny("llama", box / "dense", torch.float32, {"num_hidden_layers": 3})
    for name, change in (("pruned", prune), ("smaller", lambda model: leave_out(model, 1))):
        model, tokenizer = load_model(box / "dense", CPU)
        change(model)
        model.save_pretrained(box / name)
        tokenizer.save_pretrained(box / name)
    (box / "data").mkdir()
    for split in ("train", "validation"):
        write_rows(box / f"data/{split}.jsonl", TASK.generate(split, 6, 0))
    sampled = {"model_path": box / "dense", "length": 40}
    succeed("sample_text.py", **sampled, output=box / "texts/own.jsonl", examples=96, seed=11)
    succeed("sample_text.py", **sampled, output=box / "texts/self.jsonl", examples=8, seed=1)
    succeed("sample_text.py", **sampled, output=box / "texts/single.jsonl", examples=1)
    succeed("sample_text.py", **sampled, output=box / "texts/cold.jsonl", examples=4, temperature=0.9)
    mixed = {"text": box / "texts/self.jsonl", "windows": 3, "output": box / "texts/mix.jsonl"}
    succeed("mix_texts.py", model_path=box / "dense", **mixed)
    return box


@torch.no_grad()
def prune(model: nn.Module) -> None:
    """Set the smaller half of each decoder layer's weights to 0."""
    for parameter in model.model.layers.parameters():
        if parameter.ndim == 2:
            parameter[parameter.abs() < parameter.abs().median()] = 0


def leave_out(model: nn.Module, layer: int) -> None:
    """Leave a decoder layer out."""
    del model.model.layers[layer]
    model.config.num_hidden_layers -= 1


def evaluated(box: Path, output: Path, checkpoint: str, **flags: object) -> dict:
    """Return the record of a checkpoint."""
    own = {"divergence": box / "texts/own.jsonl", "dense": box / "dense"}
    data = {"task": TASK.name, "data_dir": box / "data", "output": output}
    succeed("evaluate.py", checkpoint=box / checkpoint, **data, **own | flags)
    return read_record(output)


@torch.no_grad()
def log_probabilities(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Return log p of every token of the vocabulary at each place but the last, float64, from one plain batch."""
    model, _ = load_model(folder, CPU)
    return model(ids).logits[:, :-1].double().log_softmax(-1)


@pytest.mark.parametrize("checkpoint", ["pruned", "smaller"])
def test_the_estimate_is_within_its_error_of_the_full_divergence_of_both_models(box, tmp_path, checkpoint):
    record = evaluated(box, tmp_path / "evaluation.json", checkpoint)
    ids = torch.tensor([json.loads(line)["ids"] for line in (box / "texts/own.jsonl").open()])
    of_dense, of_model = (log_probabilities(box / name, ids) for name in ("dense", checkpoint))
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


def test_the_dense_model_has_none_and_the_bits_are_those_of_any_other_call(box, tmp_path):
    record = evaluated(box, tmp_path / "dense.json", "dense")
    assert (record["divergence"], record["divergence_standard_error"], record["same_top_tokens"]) == (0, 0, 1)
    assert record["divergences"] == [0] * 96
    first, again = (
        evaluated(box, tmp_path / f"{size}.json", "pruned", batch_size=size, calibration=box / "texts/self.jsonl")
        for size in (32, 5)
    )
    assert [first[name] for name in FIELDS] == [again[name] for name in FIELDS]


def test_a_model_in_bfloat16_has_none_either(tiny_models, tmp_path, box):
    text = tmp_path / "text.jsonl"
    succeed("sample_text.py", model_path=tiny_models["llama"], output=text, examples=2, length=300)
    flags = {"divergence": text, "dense": tiny_models["llama"]}
    assert evaluated(box, tmp_path / "dense.json", str(tiny_models["llama"]), **flags)["divergences"] == [0, 0]


def test_without_a_text_none_is_measured(box, tmp_path):
    data = {"task": TASK.name, "data_dir": box / "data", "output": tmp_path / "evaluation.json"}
    succeed("evaluate.py", checkpoint=box / "dense", **data)
    record = read_record(tmp_path / "evaluation.json")
    assert [record[name] for name in FIELDS] == 4 * [None]
    assert record["inputs"]["divergence"] is None


@pytest.mark.parametrize(("flags", "fault"), [
    ({"dense": "pruned"}, "own.jsonl: it was not sampled by .*pruned, but by another model; sample one"),
    ({"divergence": "texts/cold.jsonl"}, "cold.jsonl: it was not sampled at temperature 1; sample one"),
    ({"divergence": "texts/single.jsonl"}, "single.jsonl: it has 1 window, which has no standard error; sample one"),
    ({"divergence": "texts/mix.jsonl"}, "mix.jsonl, line 1: field 'log_p' is missing"),
    ({"divergence": "data/train.jsonl"}, "train.jsonl, line 1: field 'text' is missing"),
    ({"divergence": "texts/none.jsonl"}, "none.jsonl: no such file"),
    ({"calibration": "texts/own.jsonl"}, r"own.jsonl: the model was calibrated on windows of it \(.*own.jsonl\); "),
    (
        {"divergence": "texts/self.jsonl", "calibration": "texts/mix.jsonl"},
        r"self.jsonl: the model was calibrated on windows of it \(.*mix.jsonl\); ",
    ),
    ({"dense": None}, "--divergence and --dense belong together; give both, or none"),
    ({"divergence": None}, "--divergence and --dense belong together; give both, or none"),
])  # fmt: skip
def test_windows_that_give_no_divergence_are_refused_in_one_line(box, flags, fault):
    flags = {"divergence": "texts/own.jsonl", "dense": "dense"} | flags
    places = {name: box / place for name, place in flags.items() if place}
    places |= {"checkpoint": box / "pruned", "data_dir": box / "data", "output": box / "evaluation.json"}
    said = refused(box, "evaluate.py", task=TASK.name, **places)
    assert re.search(fault, said), said
