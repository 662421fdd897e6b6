"""Say where the files of a pass over a model lie. One pass makes the masks of all sparsities of a method."""

from dataclasses import dataclass
from pathlib import Path

from sparseft.study.grid import MASK_NAME, MASK_PLOT, MASK_PLOTS, MASK_REPORT, PRUNED_NAME


@dataclass(frozen=True)
class PassFiles:
    """Hold the paths of a pass: a mask per sparsity, the report, and the pruned base of a method that updates weights.

    With a `plot_name`, plots are written beside the report."""

    masks: list[Path]
    report: Path
    plot_name: str | None = None
    base: Path | None = None

    def outputs(self) -> dict[str, Path | list[Path]]:
        """Return the outputs of a rule. A manifest is written last, so it stands for the whole base."""
        folder = self.report.parent
        plots = [folder / MASK_PLOT.format(plot=plot, name=self.plot_name) for plot in MASK_PLOTS]
        base = {"base": self.base / "manifest.json"} if self.base else {}
        return {"masks": self.masks, "report": self.report, "plots": plots, **base}


def pass_files(
    folder: Path | str,
    method: str,
    sparsities: list[str],
    pruned: Path | str | None = None,
    *,
    ending: str = "pt",
    has_plots: bool = True,
    is_added: bool = False,
) -> PassFiles:
    """Return the paths of a pass whose masks are in `folder`, and whose base, if it has one, is in the folder `pruned`.

    `sparsities` are in percent, as two digits each. A pass that has a base or is added to another one has one sparsity, which is
    in the names of its report and its plots."""
    names = [{"sparsity": sparsity, "method": method} for sparsity in sparsities]
    name = f"{method}_sparsity{sparsities[0]}" if pruned or is_added else method
    return PassFiles(
        masks=[Path(folder, f"{MASK_NAME.format(**parts)}.{ending}") for parts in names],
        report=Path(folder, MASK_REPORT.format(name=name)),
        plot_name=name if has_plots else None,
        base=Path(pruned, PRUNED_NAME.format(**names[0])) if pruned else None,
    )
