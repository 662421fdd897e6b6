"""Importance: a score for every prunable weight; the lowest scores are pruned first.

magnitude  |w|, by the bits without the sign, which order like it (Han et al. 2015, arXiv 1506.02626, section 3)
random     a seeded permutation, the same on every machine; the baseline that any importance has to beat
"""

import hashlib

import numpy as np


def random_order(layer: str, count: int, seed: int) -> np.ndarray:
    """A permutation of range(count), int64, that depends on the seed and the layer's name alone."""
    key = hashlib.sha256(f"{seed}/{layer}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).permutation(count)
