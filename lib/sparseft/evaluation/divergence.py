"""Measure how far a model is from the dense one: KL(dense, model) in nats per token, on windows that the dense model
has sampled.

The mean of log p_dense - log p_model over the tokens is an unbiased estimate, because the dense model drew each token
from its own distribution, at temperature 1. Only the tokens that follow the first one of a window are drawn. The
windows are independent, so the standard error is over them. sample_text.py wrote log p_dense, so no second model is in
memory.

This holds only if the model was not fitted to these very windows, so a text is refused if it has a window of a
calibration. One of two windows may be the beginning of the other: the same seed gives both.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from operator import eq
from pathlib import Path

import numpy as np

from sparseft.axes.tasks.task import WINDOW, Row
from sparseft.common.errors import InputError
from sparseft.data.rows import read_rows
from sparseft.data.texts import MODEL, each_document, has_windows, recorded_source
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.storage.hashes import sha256

# A window of sample_text.py, with what `score_windows` returned for the dense model.
SCORED_WINDOW = replace(WINDOW, name="scored window", fields={**WINDOW.fields, "log_p": list, "top": list})


def read_dense_windows(path: Path, dense: Checkpoint, calibration: Iterable[Path]) -> tuple[list[Row], str]:
    """Return the windows in a text of sample_text.py, and its sha256.

    `calibration` has the texts to which the evaluated model was fitted.

    Raises InputError if `dense` has not sampled them at temperature 1, if they are fewer than two, which have no
    standard error, or if one is in a text of the calibration."""
    rows = read_rows(path, SCORED_WINDOW)
    digest = sha256(path)
    source = recorded_source(path, digest) or {}
    calibrated = [text for text in calibration if _has_window(text, rows)]
    faults = {
        f"it was not sampled by {dense.folder}, but by another model": source.get(MODEL) != dense.digest,
        "it was not sampled at temperature 1": source.get("sampled", {}).get("temperature") != 1,
        f"it has {len(rows)} window, which has no standard error": len(rows) < 2,
        f"the model was calibrated on windows of it ({', '.join(map(str, calibrated))})": calibrated,
    }
    for fault in filter(faults.get, faults):
        raise InputError(f"{path}: {fault}", "sample one for the divergence only (sample_text.py)")
    return rows, digest


def _has_window(text: Path, rows: list[Row]) -> bool:
    """Return whether a text has one of these windows, its beginning, or a window that begins with it."""
    if has_windows(text):
        # `map` ends with the shorter window.
        return any(all(map(eq, row["ids"], other["ids"])) for other, row in product(read_rows(text, WINDOW), rows))
    return any(row["text"] in document for document in each_document(text) for row in rows)


def divergence_of(windows: list[Row], scores: dict[str, np.ndarray]) -> dict:
    """Return the fields of evaluation.json on the divergence of a model from the dense one, which has sampled the
    windows. `scores` has what `score_windows` returned for the model."""
    log_p, top = (np.array([window[name] for window in windows]) for name in ("log_p", "top"))
    by_window = (log_p - scores["log_p"]).mean(axis=1)
    return {
        "divergence": float(by_window.mean()),
        "divergence_standard_error": float(by_window.std(ddof=1) / math.sqrt(len(by_window))),
        "same_top_tokens": float((scores["top"] == top).mean()),
        "divergences": by_window.tolist(),
    }
