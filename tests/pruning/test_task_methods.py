"""Masks by gradient, Taylor and wanda, from the scores' own definition to the bits that are written."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.importances.ria import RIA
from sparseft.importances.wanda import INPUT_NORMS
from sparseft.methods import get_method
from sparseft.pruning.calibration import calibrate, calibration_examples, compute_statistic
from sparseft.study.mask_settings import Masks
from sparseft.tasks import BY_NAME

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


def test_meta_says_what_was_looked_at(tiny_llama, train):
    meta = computed(tiny_llama, "structured_taylor", train)[50].meta
    assert (meta["task"], meta["calibration_examples"], meta["calibration_seed"]) == (TASK.name, NUMBER, 0)
    assert meta["accumulated"] == "mean over examples of |w dL/dw|, L the mean answer loss of one example"
    assert len(meta["train_sha256"]) == 64
