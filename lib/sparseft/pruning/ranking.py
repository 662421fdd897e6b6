"""Rank the scores of a model's layers in one of several ways, and write their masks. A pattern chooses the way."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from sparseft.architectures.architecture import Part
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import coupled_parts
from sparseft.errors import InputError
from sparseft.masks.mask_file import pack
from sparseft.pruning.mask_report import NO_SCORES, ScoreDistribution
from sparseft.pruning.scores import row_blocks
from sparseft.pruning.selection import Selection, select_groups, select_rows, select_together
from sparseft.pruning.structured import select_units
from sparseft.study.mask_settings import Masks

Scores = dict[str, ScoreDistribution]


@dataclass(frozen=True)
class Ranking:
    """Rank the scores of all layers of `selection`. Each way writes all masks and returns the distribution of scores by layer.

    scope: what the settings rank together: layer, row, group or global"""

    selection: Selection
    checkpoint: Checkpoint
    scope: str
    settings: Masks
    threads: int

    @property
    def layers(self) -> list[str]:
        """Return the names of the layers."""
        return list(self.selection.shape)

    def by_layer(self) -> Scores:
        """Rank the weights of each layer."""
        return self._in_threads(lambda layer: {layer: select_together(self.selection, [layer])[0]}, self.layers)

    def by_row(self) -> Scores:
        """Rank the weights of each row."""
        return self._in_threads(lambda layer: {layer: select_rows(self.selection, layer)}, self.layers)

    def by_group(self, size: int) -> Scores:
        """Rank every `size` consecutive weights of a row."""
        return self._in_threads(lambda layer: {layer: select_groups(self.selection, layer, size)}, self.layers)

    def by_unit(self, groups: list[list[Part]]) -> Scores:
        """Rank the units of each group of layers by the sums of their scores. The layers of a group lose the same units."""
        return self._in_threads(lambda parts: select_units(self.selection, parts), groups)

    def coupled_parts(self) -> list[list[Part]]:
        """Return the groups of layers whose channels are coupled. Each layer of the model is in one of them."""
        return coupled_parts(self.checkpoint)

    def together(self) -> Scores:
        """Rank the weights of all layers together. Raises InputError if the dtypes of their scores differ."""
        dtypes = sorted(set(map(str, self.selection.dtypes.values())))
        if len(dtypes) > 1:
            raise InputError(
                f"{self.checkpoint.folder}: layers are in {' and '.join(dtypes)}, so they cannot be ranked together",
                "set masks.scope to layer or row",
            )
        return dict(zip(self.layers, select_together(self.selection, self.layers), strict=True))

    def keep_all(self) -> Scores:
        """Keep every weight, without a look at the scores."""
        for layer, (rows, cols) in self.selection.shape.items():
            row = pack(np.ones((1, cols), bool))
            offset = 0
            for block in row_blocks(rows, cols):
                packed = np.tile(row, (len(self.selection.percents), len(block)))
                self.selection.emit(layer, offset, packed)
                offset += packed.shape[1]
        return dict.fromkeys(self.layers, NO_SCORES)

    def _in_threads(self, select: Callable[..., Scores], items: Sequence) -> Scores:
        """Return the results of `select` for all items, in order. One layer is read while another is counted."""
        if len(items) == 1:
            return select(items[0])
        scores: Scores = {}
        with ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(select, item) for item in items]
            try:
                for future in tqdm(futures, desc="masks", disable=None):
                    scores |= future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return scores
