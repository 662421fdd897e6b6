"""Check the ways to rank that a pattern's `select` may call, and that each pattern goes its own way."""

from pathlib import Path

import numpy as np
from sparseft.architectures.architecture import Part
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.masks.mask_file import Mask, mask_writer, read_mask
from sparseft.patterns import PATTERNS, Pattern
from sparseft.pruning.scores import magnitude_source
from sparseft.pruning.selection import Ranking, Selection
from sparseft.study.mask_settings import Masks

COLUMNS = Pattern(
    "columns",
    select=lambda ranking: ranking.by_unit([[Part(layer, axis=1, width=1, unit="")] for layer in ranking.layers]),
)


def selected(checkpoint: Checkpoint, pattern: Pattern, folder: Path) -> Mask:
    """Return the mask that a pattern selects by magnitude at 50 %."""
    shape = prunable_shapes(checkpoint)
    dtypes = {layer: checkpoint.tensors[f"{layer}.weight"].dtype for layer in shape}
    with mask_writer([folder / "mask.pt"], [{"sparsity": 0.5, "pattern": "structured"}], shape) as writer:
        selection = Selection(magnitude_source(checkpoint), shape, dtypes, [50], writer.write)
        scores = pattern.select(Ranking(selection, checkpoint, "layer", Masks(), threads=1))
    assert scores.keys() == shape.keys()
    return read_mask(folder / "mask.pt")


def test_units_of_one_layer_are_ranked_by_the_sums_of_their_scores(tiny, tmp_path):
    mask = selected(tiny, COLUMNS, tmp_path)
    for layer, (rows, cols) in mask.shape.items():
        sums = np.abs(tiny.read_float32(f"{layer}.weight")).sum(axis=0, dtype=np.float64)
        kept = np.ones(cols, bool)
        kept[np.argsort(sums, kind="stable")[: round(cols / 2)]] = False
        np.testing.assert_array_equal(mask.kept(layer), np.tile(kept, (rows, 1)))


def test_no_two_patterns_have_the_same_mask(tiny_llama, tmp_path):
    masks = {}
    for pattern in (*PATTERNS, COLUMNS):
        # The scores are the same for all. `random` differs from `unstructured` in its scores only.
        bits = selected(tiny_llama, pattern, tmp_path).bits
        masks.setdefault(b"".join(array.tobytes() for array in bits.values()), []).append(pattern.name)
    assert sorted(map(sorted, masks.values())) == [
        ["columns"],
        ["random", "unstructured"],
        ["semistructured"],
        ["structured"],
    ]
