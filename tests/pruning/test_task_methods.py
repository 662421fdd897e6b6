"""Masks by gradient, Taylor and wanda, from the scores' own definition to the bits that are written."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.importances.ria import RIA
from sparseft.importances.wanda import INPUT_NORMS
from sparseft.methods import get_method
from sparseft.pruning.calibration import calibrate, calibration_examples, compute_statistic
from sparseft.study.config import Masks
from sparseft.tasks import BY_NAME
from tiny_models import save_tiny

from masks import compute_masks

TASK = BY_NAME["boolq_mini"]
ROWS = TASK.generate("train", 8, 0)
NUMBER, PERCENTS = 3, [0, 30, 50]
DENSE_INPUTS = ("q_proj", "k_proj", "v_proj")  # of decoder layer 0: nothing before them is pruned, whatever the mode


@pytest.fixture
def train(tmp_path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def computed(checkpoint: Checkpoint, method: str, train: Path, percents: list[int] = PERCENTS, **settings) -> dict:
    settings = {"calibration_examples": NUMBER, **settings}
    calibration = calibrate(get_method(method), TASK.name, train, Masks(**settings))
    return compute_masks(checkpoint, method, percents, calibration, **settings)


def kept(scores: np.ndarray, percent: int) -> np.ndarray:
    """bool, of the shape of `scores`: a stable ascending sort of all of them."""
    mask = np.ones(scores.size, bool)
    mask[np.argsort(scores, axis=None, kind="stable")[: round(Fraction(percent * scores.size, 100))]] = False
    return mask.reshape(scores.shape)


@pytest.mark.parametrize(
    ("importance", "score"),
    [
        ("gradient", lambda weights, evidence: evidence),
        ("taylor", lambda weights, evidence: np.abs(weights) * evidence),
        ("fisher", lambda weights, evidence: weights**2 * evidence),
    ],
)
def test_masks_follow_the_scores_of_their_importance(tiny, train, importance, score):
    method = get_method(f"unstructured_{importance}")
    examples = calibration_examples(tiny, TASK, ROWS, NUMBER, 0)
    evidence = compute_statistic(tiny, examples, method.importance.statistic)
    for percent, mask in computed(tiny, method.name, train).items():
        for layer in mask.shape:
            scores = score(tiny.read_float32(f"{layer}.weight"), evidence[layer])
            np.testing.assert_array_equal(mask.kept(layer), kept(scores, percent))


@pytest.mark.parametrize("importance", ["wanda", "stade"])
def test_one_pass_ranks_every_row_by_weight_times_evidence(tiny, train, importance):
    method = get_method(f"unstructured_{importance}")
    examples = calibration_examples(tiny, TASK, ROWS, NUMBER, 0)
    evidence = compute_statistic(tiny, examples, method.importance.statistic)
    for percent, mask in computed(tiny, method.name, train, sequential=False).items():
        for layer in mask.shape:
            scores = np.abs(tiny.read_float32(f"{layer}.weight")) * evidence[layer]
            np.testing.assert_array_equal(mask.kept(layer), np.stack([kept(row, percent) for row in scores]))


def test_one_pass_ria_ranks_a_whole_layer_by_the_published_score(tiny, train):
    norms = compute_statistic(tiny, calibration_examples(tiny, TASK, ROWS, NUMBER, 0), INPUT_NORMS)
    for percent, mask in computed(tiny, "unstructured_ria", train, sequential=False).items():
        for layer in mask.shape:
            weights = tiny.read_float32(f"{layer}.weight")
            column_sums = np.abs(weights).sum(axis=0, dtype=np.float64).astype(np.float32)
            scores = RIA.score(weights, norms[layer], column_sums)
            np.testing.assert_array_equal(mask.kept(layer), kept(scores, percent))


@pytest.mark.parametrize("method", ["unstructured_wanda", "semistructured_wanda", "unstructured_stade"])
def test_a_sequential_importance_prunes_as_it_goes(tiny, train, method):
    percents = [0, 50]
    going, dense = (computed(tiny, method, train, percents, sequential=flag) for flag in (True, False))
    assert all(going[0].kept(layer).all() for layer in going[0].shape)
    assert (going[50].meta["sequential"], dense[50].meta["sequential"]) == (True, False)
    differing = {layer for layer in going[50].shape if (going[50].kept(layer) != dense[50].kept(layer)).any()}
    first = [layer for layer in going[50].shape if layer.startswith("model.layers.0.")]
    assert not differing & set(first)  # its own inputs are those of the dense model
    assert differing
    for layer, (rows, cols) in going[50].shape.items():
        groups = going[50].kept(layer).reshape(rows, -1, 4 if method.startswith("semi") else cols)
        assert (groups.sum(axis=2) == groups.shape[2] // 2).all()


def test_sequential_wanda_at_zero_alone_keeps_all(tiny_llama, train):
    mask = computed(tiny_llama, "unstructured_wanda", train, [0])[0]
    assert all(mask.kept(layer).all() for layer in mask.shape)


def test_meta_says_what_was_looked_at(tiny_llama, train):
    meta = computed(tiny_llama, "structured_taylor", train)[50].meta
    assert (meta["task"], meta["calibration_examples"], meta["calibration_seed"]) == (TASK.name, NUMBER, 0)
    assert meta["accumulated"] == "mean over examples of |w dL/dw|, L the mean answer loss of one example"
    assert len(meta["train_sha256"]) == 64


@pytest.mark.parametrize("method", ["unstructured_taylor", "unstructured", "random"])
def test_a_calibration_for_another_importance_is_refused(tiny_llama, train, method):
    calibration = calibrate(get_method("unstructured_gradient"), TASK.name, train, Masks(calibration_examples=NUMBER))
    with pytest.raises(InputError, match=f"{method}: calibrated for another importance"):
        compute_masks(tiny_llama, method, [50], calibration)
    if method.endswith("taylor"):
        with pytest.raises(InputError, match="calibrate for taylor"):
            compute_masks(tiny_llama, method, [50])


# 2 decoder layers of 10.5 million weights each, 8 MB in the largest matrix.
WIDE = {
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
# What is needed beside the weights and the scores: a gradient, activations, the blocks of a layer, and the libraries' buffers.
WORK = 60_000_000
# Arguments: a tiny model, a wide one, and a folder. First the tiny model loads and compiles everything.
MEASURE = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.importances.gradient import GRADIENT
from sparseft.importances.taylor import TAYLOR
from sparseft.language_model.batches import Example
from sparseft.language_model.hardware import limit_threads, limited_memory, private_memory
from sparseft.pruning.calibration import compute_statistic
from sparseft.pruning.mask_generator import PassFiles, compute_masks
from sparseft.study.config import Masks

def sums_of(checkpoint):
    return compute_statistic(checkpoint, [Example(list(range(32)), 16)] * 2, TAYLOR.statistic)

def write_masks(checkpoint, importance, sums):
    calibration = SimpleNamespace(importance=importance, meta={{}}, evidence=lambda *_: sums)
    places = PassFiles([Path(sys.argv[3], "mask.pt")], Path(sys.argv[3], "report.json"))
    compute_masks(checkpoint, "unstructured_" + importance.name, [50], places, Masks(), calibration=calibration)

limit_threads(1)
tiny, wide = Checkpoint(Path(sys.argv[1])), Checkpoint(Path(sys.argv[2]))
sums = sums_of(tiny)
for importance in (GRADIENT, TAYLOR):
    write_masks(tiny, importance, sums)
model = wide.files[0].stat().st_size
with limited_memory(private_memory() + 2 * model + {WORK}):
    sums = sums_of(wide)
print(sum(values.nbytes for values in sums.values()), model)
for importance in (GRADIENT, TAYLOR):
    with limited_memory(private_memory() + {WORK}):
        write_masks(wide, importance, sums)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits private memory")
def test_only_one_copy_of_the_scores_is_in_memory(tmp_path):
    models = [
        save_tiny("llama", tmp_path / name, torch.float32, changes) for name, changes in (("tiny", {}), ("wide", WIDE))
    ]
    command = [sys.executable, "-c", MEASURE, *map(str, models), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sums, model = map(int, done.stdout.split())
    # The limits are too low for another copy of the scores.
    assert 1.3 * WORK < sums < model
