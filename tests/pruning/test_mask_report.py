"""The report of the masks: counts beside the masks themselves, quantiles beside numpy's, zeros apart."""

import json

import numpy as np
import pytest
from sparseft.masks.mask_file import read_mask
from sparseft.methods import get_method
from sparseft.pruning.mask_generator import compute_masks
from sparseft.pruning.mask_report import mask_report
from sparseft.selection.distribution import (
    BINS,
    NO_SCORES,
    QUANTILES,
    Distribution,
    distribution_of_histogram,
    distribution_of_values,
)
from sparseft.selection.kernels import count_high
from sparseft.storage.bits import to_float32
from sparseft.study.grid import MASK_PLOTS, PassFiles
from sparseft.study.mask_settings import Masks


def distribution_of(bits: np.ndarray, dtype: str) -> Distribution:
    counts = np.zeros(BINS, np.int32)
    count_high(bits, counts)
    return distribution_of_histogram(counts, dtype)


def test_a_case_by_hand():
    scores = distribution_of_values(*np.unique([0.0, 40.0, 50.0, 60.0, 0.75], return_counts=True))
    assert (scores["zeros"], scores["quantiles"][0.5]) == (1, 40.0)
    zeros = distribution_of(np.zeros(10, np.uint32), "F32")
    assert zeros == {"zeros": 10, "quantiles": dict.fromkeys(QUANTILES, 0.0)}


@pytest.mark.parametrize(("dtype", "error"), [("BF16", 0), ("F16", 0), ("F32", 1 / 256)])
def test_quantiles_are_numpy_s(dtype, error):
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    bits = {"BF16": (values.view(np.uint32) >> 16).astype(np.uint16), "F16": values.astype(np.float16).view(np.uint16)}
    bits = bits.get(dtype, values.view(np.uint32))
    scores = distribution_of(bits, dtype)
    expected = np.quantile(np.abs(to_float32(bits, dtype)), QUANTILES, method="inverted_cdf")
    found = np.array(list(scores["quantiles"].values()))
    assert (found <= expected).all()
    assert (expected - found <= error * expected).all()


@pytest.mark.long
def test_rows_are_the_masks_counts_in_the_model_s_order(tmp_path, tiny_llama):
    paths = [tmp_path / "40.pt", tmp_path / "70.pt"]
    files = PassFiles(paths, tmp_path / "report.json", plot_name="plot")
    report = compute_masks(tiny_llama, get_method("structured"), [40, 70], files, Masks(head_share=1))
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    for path, part in zip(paths, report["sparsities"], strict=True):
        mask = read_mask(path)
        assert (
            [row["layer"] for row in part["layers"]] == [row["layer"] for row in report["scores"]] == list(mask.shape)
        )
        assert {row["layer"]: row["kept"] for row in part["layers"]} == {
            name: int(mask.kept(name).sum()) for name in mask.shape
        }
        assert part["reached"] == mask.meta["reached"]
    assert {file.name for file in (tmp_path / "plots").glob("*.png")} == {f"{plot}_plot.png" for plot in MASK_PLOTS}


def test_the_report_names_the_layers_that_keep_less_than_a_hundredth():
    kept = {"a": np.array([2, 0]), "b": np.array([150, 100])}
    shape, scores = {"a": (10, 20), "b": (10, 20)}, dict.fromkeys("ab", NO_SCORES)
    parts = mask_report({}, [50, 75], kept, shape, scores)["sparsities"]
    assert [part["layers_below_1_percent_kept"] for part in parts] == [[], ["a"]]
