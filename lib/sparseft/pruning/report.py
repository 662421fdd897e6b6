"""What the masks of a method prune, layer by layer, asked and reached; as JSON and as histograms."""

from pathlib import Path

import numpy as np

from sparseft.files import atomic_file
from sparseft.pruning.mask_ops import Mask


def mask_report(masks: dict[int, Mask]) -> dict:
    """report_{method}.json: per sparsity (percent asked) the fraction reached, and a row a layer."""
    first = next(iter(masks.values()))
    shared = {key: value for key, value in first.meta.items() if key not in ("sparsity", "reached")}
    return {"format_version": 1, **shared, "sparsities": [_sparsity(percent, mask) for percent, mask in masks.items()]}


def plot_report(report: dict, path: Path) -> None:
    """Histograms of the layers' sparsities, a panel a sparsity asked for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = report["sparsities"]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(6.4, 1 + 1.1 * len(panels)), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        axis.hist([100 * row["reached"] for row in panel["layers"]], bins=np.arange(-1, 102, 2), color="#0173b2")
        axis.axvline(panel["asked_percent"], color="#de8f05", linewidth=1)
        axis.set(ylabel="layers", title=f"asked {panel['asked_percent']} %, reached {100 * panel['reached']:.2f} %")
        axis.title.set_size("small")
    axes[-1, 0].set(xlabel="sparsity of a layer (%)", xlim=(-2, 102))
    figure.suptitle(f"{report['method']}: sparsity by layer")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _sparsity(percent: int, mask: Mask) -> dict:
    layers = [_layer(layer, mask) for layer in mask.shape]
    return {"asked_percent": percent, "reached": mask.meta["reached"], "layers": layers}


def _layer(layer: str, mask: Mask) -> dict:
    rows, cols = mask.shape[layer]
    kept = int(np.bitwise_count(mask.bits[layer]).sum())
    return {"layer": layer, "weights": rows * cols, "kept": kept, "reached": 1 - kept / (rows * cols)}
