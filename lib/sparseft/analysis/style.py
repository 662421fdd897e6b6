"""Share what all figures have in common: colours, sizes, titles, legends, and how they are written.

The same figure gives the same bytes.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from pathlib import Path
from textwrap import fill

import matplotlib

# Seaborn draws through pyplot, which would otherwise open a display.
matplotlib.use("Agg")

import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseft.storage.atomic import atomic_file
from sparseft.storage.locks import end_with_parent

# It stands in the metadata of every figure, in the first bytes of the file, so that no other program's file is removed.
MARK = "SparseFT analysis"
HEAD_BYTES = 4096
# Inches. In a paper's column of 3.3 inches, the letters of 9.5 to 11 points are 6 to 7 points high.
WIDTH = 5.2
# Characters in a line of a title of this width.
TITLE = 50
SPEED = "training speed (samples/s)"
SETTINGS = {
    **seaborn.axes_style("whitegrid"),
    **seaborn.plotting_context("notebook", font_scale=0.95),
    "grid.color": "0.88",
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Without this, every drawing looks for ticks above the panel, which takes a fifth of its time.
    "axes.titley": 1.0,
    # Without this, the ids in an SVG differ from run to run.
    "svg.hashsalt": "sparseft",
    "savefig.dpi": 150,
    # The name of a device may contain a dollar sign.
    "text.parse_math": False,
}
_COLOURS = [seaborn.color_palette("colorblind")[place] for place in (0, 3, 2, 7, 1, 4, 5, 8)]
# Seven markers beside eight colours, so that 56 names have looks of their own.
_MARKERS = "os^Dv<X"


def styles(names: Iterable[str]) -> dict[str, dict[str, object]]:
    """Return the colour and the marker of each name. Readers who cannot tell the colours apart have the markers."""
    looks = zip(names, cycle(_COLOURS), cycle(_MARKERS), strict=False)
    return {name: {"color": colour, "marker": marker} for name, colour, marker in looks}


def add_title(figure: Figure, lines: Sequence[str]) -> None:
    """Put a title above the panels; long lines are wrapped."""
    characters = int(TITLE * figure.get_figwidth() / WIDTH)
    figure.suptitle("\n".join(fill(line, characters) for line in lines), fontsize="medium", fontweight="bold")


def add_legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """Put one legend for all panels below them."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = 2 if max(map(len, handles), default=0) < TITLE / 2 else 1
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")


def write_all(drawings: Mapping[str, Callable[[], Figure]], folder: Path, processes: int) -> None:
    """Write each figure as PNG and SVG into a folder.

    Each figure is built in the process that draws it. A figure that was sent to another process would not always be drawn
    the same: matplotlib keeps its transforms' parents by their address, which another object can have in that process."""
    folder.mkdir(exist_ok=True)
    with ProcessPoolExecutor(processes, initializer=end_with_parent) as pool:
        for written in [pool.submit(_save, build, folder / name) for name, build in drawings.items()]:
            written.result()


def remove_leftovers(folder: Path, written: Collection[str]) -> None:
    """Remove the figures in `folder` that have the mark and are not among the names `written`.

    An earlier analysis left them, and they would contradict the new tables."""
    figures = [path for path in folder.glob("*.*") if path.is_file() and path.suffix in (".png", ".svg")]
    for path in figures:
        if path.name not in written and MARK.encode() in path.read_bytes()[:HEAD_BYTES]:
            path.unlink()


def _save(build: Callable[[], Figure], path: Path) -> None:
    """Build a figure and write it to `path` with the endings .png and .svg, without the date."""
    with matplotlib.rc_context(SETTINGS):
        figure = build()
        for kind, metadata in (("png", {"Software": MARK}), ("svg", {"Date": None, "Creator": MARK})):
            with atomic_file(path.with_name(f"{path.name}.{kind}")) as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)
            # The first drawing has laid out the panels, and a second layout would give the same.
            figure.set_layout_engine("none")
