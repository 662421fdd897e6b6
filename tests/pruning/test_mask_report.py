"""The report of the masks: counts beside the masks themselves, quantiles beside numpy's, zeros apart."""

import json

import numpy as np
import pytest
from sparseft.checkpoints.checkpoint import to_float32
from sparseft.masks import mask_kernels as kernels
from sparseft.masks.mask_file import read_mask
from sparseft.pruning.mask_generator import PassFiles, compute_masks
from sparseft.pruning.mask_report import QUANTILES, ScoreDistribution
from sparseft.study.config import Masks
from sparseft.study.grid import MASK_PLOTS


def histogram_of(bits: np.ndarray) -> np.ndarray:
    counts = np.zeros(kernels.BINS, np.int32)
    kernels.count_high(bits, counts)
    return counts


def test_a_case_by_hand():
    scores = ScoreDistribution.of_values(np.array([0.0, 40.0, 50.0, 60.0, 0.75]))
    assert scores.octaves == {-1: 1, 5: 3}  # 0.75 in [1/2, 1); 40, 50 and 60 in [32, 64)
    assert scores.zeros == 1
    assert scores.quantiles[0.5] == 40.0


def test_scores_that_are_all_zero_have_no_octave():
    scores = ScoreDistribution.of_histogram(histogram_of(np.zeros(10, np.uint32)), "F32")
    assert (scores.octaves, scores.zeros, set(scores.quantiles.values())) == ({}, 10, {0.0})


@pytest.mark.parametrize(("dtype", "word", "error"), [("BF16", np.uint16, 0), ("F16", np.uint16, 0), ("F32", np.uint32, 1 / 256)])  # fmt: skip
def test_quantiles_are_numpy_s(dtype, word, error):
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    bits = values.view(np.uint32) if word == np.uint32 else (
        values.astype(np.float16).view(np.uint16) if dtype == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)
    )  # fmt: skip
    sizes = np.abs(to_float32(bits, dtype))
    scores = ScoreDistribution.of_histogram(histogram_of(bits), dtype)
    expected = np.quantile(sizes, QUANTILES, method="inverted_cdf")
    found = np.array(list(scores.quantiles.values()))
    assert (found <= expected).all()
    assert (expected - found <= error * expected).all()
    assert sum(scores.octaves.values()) + scores.zeros == 5000


@pytest.mark.long
@pytest.mark.parametrize("method", ["unstructured", "structured", "random", "semistructured"])
def test_rows_are_the_masks_counts_in_the_model_s_order(tmp_path, tiny, method):
    path = tmp_path / "m.pt"
    report = compute_masks(tiny, method, [50], PassFiles([path], tmp_path / "report.json", plot_name=method), Masks())
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    mask = read_mask(path)
    rows = report["sparsities"][0]["layers"]
    assert [row["layer"] for row in rows] == [row["layer"] for row in report["scores"]] == list(mask.shape)
    assert {row["layer"]: row["kept"] for row in rows} == {name: int(mask.kept(name).sum()) for name in mask.shape}
    assert report["sparsities"][0]["reached"] == mask.meta["reached"]
    assert {file.name for file in (tmp_path / "plots").glob("*.png")} == {f"{plot}_{method}.png" for plot in MASK_PLOTS}


def test_a_layer_that_keeps_less_than_one_percent_is_named(tmp_path, tiny_llama):
    paths = [tmp_path / "40.pt", tmp_path / "80.pt"]
    report = compute_masks(tiny_llama, "structured", [40, 80], PassFiles(paths, tmp_path / "report.json"), Masks())
    less, more = report["sparsities"]
    assert less["layers_below_1_percent_kept"] == []  # one key-value head of two
    starved = more["layers_below_1_percent_kept"]  # round(0.8 x 2) = 2 heads
    assert len(starved) == 8
    assert all("self_attn" in layer for layer in starved)
