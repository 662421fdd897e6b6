"""Write a checkpoint as a GGUF file with llama.cpp's own converter and quantiser, check that it is this checkpoint, and
read what its blocks hold."""

import math
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGUFReader, ReaderTensor, get_tensor_name_map
from gguf.quants import dequantize

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError, one_line
from sparseft.export.engine_call import engine_version, run_program
from sparseft.export.settings import ADVICE, LLAMA_CPP, QUANTIZED, Export

# The name of the GGUF file in an exported folder.
GGUF = "model.gguf"
# The number format of a checkpoint -> that of a GGUF file with the same values.
_SAME = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
# What llama.cpp writes in its place where a row has no whole blocks of 256 weights. These have blocks of 32. Where a
# row has none of those either, it leaves 16 bits.
_INSTEAD = {"q6_k": "q8_0", "q5_k_m": "q5_1 and q8_0", "q4_k_m": "q5_0 and q8_0"}
_SMALL_BLOCK = 32
# The formats of most weights of a file's matrices, where they are not only the one that was asked for.
_FORMATS = {"q8_0": "q8_0 f16", "q6_k": "q6_k q8_0", "q5_k_m": "q5_k q6_k q5_1 q8_0", "q4_k_m": "q4_k q6_k q5_0 q8_0"}
_FORMATS |= {"q4_0": "q4_0 q6_k q8_0"}
# What the converter adds to a LLaMA 3: the factors of its rotary embedding.
_ADDED = "rope_freqs.weight"
# Rows that are decoded at a time.
_SLAB = 4096


def write_gguf(settings: Export, folder: Path, output: Path, name: str) -> None:
    """Write the GGUF file of a checkpoint folder. If it is quantised, say on stderr which formats its blocks have, and
    how many zeros are still zeros.

    Raises InputError if the converter or the quantiser fails, or if the matrices have rows without whole blocks."""
    if settings.gguf not in QUANTIZED:
        _convert(settings, folder, output, name, str(settings.gguf))
        return
    checkpoint = Checkpoint(folder)
    check_rows(checkpoint, settings.gguf)
    ask_quantizer = partial(engine_version, LLAMA_CPP, settings.pythons[LLAMA_CPP], settings=settings)
    # Whether the quantiser is there is known before the conversion, which takes longer.
    ask_quantizer({})
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".gguf") as scratch:
        exact = Path(scratch, GGUF)
        _convert(settings, folder, exact, name, _SAME[str(checkpoint.config["dtype"])])
        ask_quantizer({"model": str(exact), "quantized": str(output), "format": settings.gguf, "threads": 1})
        check_gguf(output, checkpoint, settings.gguf)
        kept = kept_zeros(exact, output)
    formats = ", ".join(f"{100 * share:.1f} % {kind}" for kind, share in format_shares(output).items())
    zeros = "" if kept is None else f"; {100 * kept:.2f} % of the zeros of its matrices are still zeros"
    print(f"{output.name}: {settings.gguf}: of the weights, {formats}{zeros}", file=sys.stderr)


def _convert(settings: Export, folder: Path, output: Path, name: str, kind: str) -> None:
    """Write the GGUF file of a checkpoint folder with llama.cpp's own converter."""
    command = [*shlex.split(settings.converter or ""), str(folder), "--model-name", name]
    command += ["--outfile", str(output), "--outtype", kind]
    advice = "name a Python and a converter that can read this model"
    read = partial(check_gguf, output, Checkpoint(folder), kind)
    run_program(command, read, f"export.converter: {settings.converter}", advice, settings)


def check_gguf(file: Path, checkpoint: Checkpoint, kind: str) -> None:
    """Raise InputError if a file that another program wrote is not this checkpoint in a number format: if it is a link,
    has tensors of other names or shapes, or has most of its weights in another format."""
    try:
        if file.is_symlink() or not file.is_file():
            raise ValueError("it is a link, or no file")
        reader = GGUFReader(file)
        code = {name: code for code, name in MODEL_ARCH_NAMES.items()}[reader.fields["general.architecture"].contents()]
        name_of = get_tensor_name_map(code, checkpoint.config["num_hidden_layers"]).get_name
        # Tensor and length of its rows -> number of its weights. The experts of a decoder layer are one tensor.
        expected: Counter = Counter()
        for tensor in checkpoint.tensors.values():
            name = name_of(re.sub(r"\.experts\.\d+", ".experts", tensor.name), (".weight", ".bias"))
            expected[name, tensor.shape[-1]] += math.prod(tensor.shape)
        found = {(one.name, one.shape[0]): one.n_elements for one in reader.tensors if one.name != _ADDED}
        if expected != found or next(iter(format_shares(file))) not in _FORMATS.get(kind, kind).split():
            raise ValueError("its tensors have other names, shapes or formats")
    # A file of a stranger raises a dozen kinds of errors.
    except Exception as error:
        raise InputError(f"{file.name}: not the model in {kind}: {one_line(error)}", ADVICE) from None


def check_rows(checkpoint: Checkpoint, kind: str) -> None:
    """Raise InputError if llama.cpp would leave a matrix in 16 bits, because its rows have no whole blocks. Say on
    stderr if it would write some in a format of smaller blocks."""
    block = QUANTIZED[kind]
    weights: Counter[int] = Counter()
    for tensor in checkpoint.tensors.values():
        if len(tensor.shape) > 1:
            weights[tensor.shape[-1]] += math.prod(tensor.shape)
            if tensor.shape[-1] % _SMALL_BLOCK:
                what = f"export.gguf: {kind}: the rows of {tensor.name} have {tensor.shape[-1]} weights, no multiple of"
                raise InputError(f"{what} {_SMALL_BLOCK}", "ask for f16 or bf16, which have no blocks")
    if odd := sorted(size for size in weights if size % block):
        share = sum(weights[size] for size in odd) / weights.total()
        print(
            f"note: export.gguf: {kind}: {100 * share:.0f} % of the weights are in rows of"
            f" {', '.join(map(str, odd))}, no multiple of {block}, so llama.cpp writes them as"
            f" {_INSTEAD[kind]}; q4_0 and q8_0 have smaller blocks",
            file=sys.stderr,
        )


def _matrices(file: Path) -> Iterator[ReaderTensor]:
    """Yield the tensors of a GGUF file that have rows."""
    return (tensor for tensor in GGUFReader(file).tensors if len(tensor.shape) > 1)


def format_shares(file: Path) -> dict[str, float]:
    """Return the share of the weights of a file's matrices by their number format, the largest first."""
    counts: Counter[str] = Counter()
    for tensor in _matrices(file):
        counts[tensor.tensor_type.name.lower()] += int(tensor.n_elements)
    return {kind: count / counts.total() for kind, count in counts.most_common()}


def kept_zeros(exact: Path, file: Path) -> float | None:
    """Return the share of the zeros of a GGUF file's matrices that are zeros in those of another; None without
    zeros."""
    zeros = kept = 0
    others = {tensor.name: tensor for tensor in _matrices(file)}
    for tensor in _matrices(exact):
        other = others[tensor.name]
        for row in range(0, len(tensor.data), _SLAB):
            ours, theirs = (dequantize(one.data[row : row + _SLAB], one.tensor_type) == 0 for one in (tensor, other))
            zeros += int(np.count_nonzero(ours))
            kept += int(np.count_nonzero(ours & theirs))
    return kept / zeros if zeros else None
