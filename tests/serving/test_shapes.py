"""Test the shapes that stand for pruned models, and the search for the smallest share."""

from pathlib import Path

import pytest
from project import succeed
from sparseft.axes.patterns import LAYERS
from sparseft.axes.patterns.channels import channels_removed
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_model
from sparseft.pruning.compact import compact
from sparseft.serving.served import smallest
from sparseft.serving.shapes import channels_by_percent, layers_by_percent, search, shapes_of
from sparseft.serving.ship_record import Trial
from tiny_models import save_tiny


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in Checkpoint(folder).tensors.items()}


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Checkpoint:
    """Return a model with 160 channels, of which a smaller model keeps 128, 96 and so on."""
    return Checkpoint(save_tiny("llama", tmp_path_factory.mktemp("wide") / "llama", changes={"intermediate_size": 160}))


def test_a_shape_of_channels_is_that_of_a_pruned_model(wide, tmp_path):
    channels = shapes_of("channels", wide, tmp_path)
    percent = list(channels)[1]
    masked, small, shape = (tmp_path / name for name in ("masked", "small", "shape"))
    mask = tmp_path / f"masks_sparsity{percent:02d}_structured.pt"
    succeed("compute_masks.py", model_path=wide.folder, output_dir=tmp_path, method="structured",
            sparsity=percent / 100)  # fmt: skip
    succeed("merge.py", model_path=wide.folder, mask_path=mask, output_dir=masked, report=tmp_path / "merge.json")
    small.mkdir()
    compact(Checkpoint(masked), mask, small)
    shape.mkdir()
    channels[percent](shape)
    assert shapes(shape) == shapes(small) != shapes(wide.folder)


def test_each_shape_of_channels_has_its_lowest_percent(wide):
    kept = {percent: units["intermediate_size"] for percent, units in channels_by_percent(prunable_model(wide)).items()}
    assert list(kept.values()) == [128, 96, 64, 32]
    # A percent less prunes fewer than 32 channels, and leaves the shape as it was.
    removed = {
        percent: channels_removed(prunable_model(wide), [percent - 1], 0.0)["intermediate_size"][0] for percent in kept
    }
    assert [160 - number > units for number, units in zip(removed.values(), kept.values(), strict=True)] == [True] * 4


def test_a_shape_of_layers_lacks_the_first_ones(tmp_path):
    deep = Checkpoint(save_tiny("llama", tmp_path / "deep", changes={"num_hidden_layers": 8}))
    assert layers_by_percent(prunable_model(deep), LAYERS.units) == {12: 1, 25: 2, 38: 3, 50: 4, 62: 5}
    folder = tmp_path / "shape"
    folder.mkdir()
    smaller = shapes_of("layers", deep, tmp_path)[25](folder)
    assert smaller.config["num_hidden_layers"] == 6
    assert (smaller.read("model.layers.0.mlp.up_proj.weight") == deep.read("model.layers.2.mlp.up_proj.weight")).all()


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.3])
def test_the_search_ends_near_the_smallest_share_that_fulfils_the_wish(exponent):
    percents, target = list(range(1, 71)), 0.7

    def cost(percent: int) -> float:
        return 1 - (0.9 * percent / 100) ** exponent

    smallest = next(percent for percent in percents if cost(percent) <= target)
    tried = search(percents, 1.0, 0.005, target, cost)
    best = min(percent for percent, value in tried.items() if value <= target)
    assert len(tried) <= 4 and smallest <= best <= smallest + 3


def test_fewer_bits_are_tried_only_with_a_smaller_share():
    def trial(kind: str, percent: int, reached: bool = True) -> Trial:
        return Trial(candidate="channels", format=kind, percent=percent, speed=None, bytes=9, reached=reached)

    rounded = [
        trial("q4_k_m", 25),
        trial("q4_k_m", 20),
        trial("q4_k_m", 15, False),
        trial("q8_0", 30),
        trial("q8_0", 28),
    ]
    assert smallest(rounded) == {"channels": [28, 20]}
    assert smallest([*rounded, trial("q4_0", 20), trial("bf16", 20)]) == {"channels": [20]}
