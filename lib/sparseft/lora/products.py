"""Choose how a CPU multiplies the large matrices of a masked layer's backward pass.

    dX = dY W'      (T, in), with T tokens
    G  = dY^T X     (out, in)

On a CPU, torch has two ways to multiply. torch.mm uses a BLAS such as MKL for fp32, and oneDNN for bf16 and fp16 if the
processor supports them. The operator `mkldnn._linear_pointwise`, which torch made for its compiler, uses oneDNN for fp32 too.
Which way is faster depends on the processor. So does whether it pays to copy dY^T, whose rows are not contiguous in memory.

TABLE has the ways that are faster than plain torch.mm. The choice depends only on the processor's vendor and features, and
never on a timing. So a machine always makes the same choice, and computes the same bits. benchmarks/products.py measures the
table again.

The forward pass is always F.linear. The merged model computes it so, and both must give the same bits.
"""

from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Way:
    """Multiply matrices of one dtype in one of the ways that torch has."""

    # Use oneDNN's operator instead of torch.mm.
    onednn: bool = False
    # Copy a transposed matrix before it is multiplied.
    copy: bool = False

    def multiply(self, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """Return left (n, k) @ right (k, m). torch.mm writes it to `out` (n, m); oneDNN does not use `out`."""
        # oneDNN's operator refuses an empty matrix. The batch of an expert may be one.
        if self.onednn and left.numel():
            return torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")
        return torch.mm(left, right, out=out)

    def transpose(self, matrix: Tensor) -> Tensor:
        """Return the transposed matrix, as a copy or as a view."""
        return matrix.T.contiguous() if self.copy else matrix.T


# The way of every processor and dtype that TABLE does not have.
PLAIN = Way()


@dataclass(frozen=True)
class Processor:
    """Say how a group of processors multiplies."""

    # vendor_id in /proc/cpuinfo.
    vendor: str
    # One of the flags in /proc/cpuinfo; "" for all processors of the vendor.
    feature: str
    ways: dict[torch.dtype, Way]


# The first row that fits a processor counts.
TABLE = (
    # Measured on two AMD EPYCs (Zen 4, AVX-512), and assumed for all of AMD's: in fp32 oneDNN takes half of MKL's time on one,
    # and 0.95 of it on the other.
    Processor("AuthenticAMD", "", {torch.float32: Way(onednn=True)}),
    # Measured on an Intel Xeon with AVX-512 and AMX: MKL takes 0.8 to 0.9 of oneDNN's time in fp32. In bf16, the product of a
    # transposed matrix takes up to 1.6 times as long as copying the matrix and multiplying the copy.
    Processor("GenuineIntel", "amx_tile", {torch.bfloat16: Way(copy=True)}),
)


def way_of(matrix: Tensor) -> Way:
    """Return how matrices of this dtype are multiplied on this matrix's device."""
    return _ways_here().get(matrix.dtype, PLAIN) if matrix.device.type == "cpu" else PLAIN


def row_of(vendor: str, features: Set[str]) -> Processor | None:
    """Return the row of TABLE for a processor; None if it has no row."""
    rows = (row for row in TABLE if row.vendor == vendor and (not row.feature or row.feature in features))
    return next(rows, None)


def processor() -> tuple[str, frozenset[str]]:
    """Return the vendor and the features of this machine's processor, as /proc/cpuinfo names them.

    Both are empty on other systems than Linux."""
    if not CPUINFO.exists():
        return "", frozenset()
    first_core = CPUINFO.read_text().partition("\n\n")[0]
    pairs = (line.partition(":") for line in first_core.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    return fields.get("vendor_id", ""), frozenset(fields.get("flags", "").split())


@cache
def _ways_here() -> dict[torch.dtype, Way]:
    """Return the ways of this machine's processor, by dtype. A dtype without one is multiplied in the plain way."""
    row = row_of(*processor())
    return row.ways if row and torch.backends.mkldnn.is_available() else {}
