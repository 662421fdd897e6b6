"""The report of the masks: counts beside the masks themselves."""

import json

import pytest
from sparseft.masks.mask_file import read_mask
from sparseft.pruning.mask_generator import compute_masks
from sparseft.study.grid import PassFiles
from sparseft.study.mask_settings import Masks

from masks import pass_of


@pytest.mark.long
def test_rows_are_the_masks_counts_in_the_model_s_order(tmp_path, tiny_llama):
    paths = [tmp_path / "40.pt", tmp_path / "70.pt"]
    files = PassFiles(paths, tmp_path / "report.json", tmp_path / "plots/plot.png")
    report = compute_masks(pass_of(tiny_llama, "structured", [40, 70], files, Masks(head_share=1)))
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert files.plot.read_bytes().startswith(b"\x89PNG")
    for path, part in zip(paths, report["sparsities"], strict=True):
        mask = read_mask(path)
        rows = [(row["layer"], row["kept"]) for row in part["layers"]]
        assert rows == [(name, int(mask.kept(name).sum())) for name in mask.shape]
        assert part["reached"] == mask.meta["reached"]
