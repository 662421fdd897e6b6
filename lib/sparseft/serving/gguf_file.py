"""Write a checkpoint as a GGUF file with llama.cpp's own converter and quantiser, check that it is this checkpoint, and
read what its blocks hold."""

import math
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGUFReader, ReaderTensor, get_tensor_name_map
from gguf.quants import dequantize

from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.serving.engine_call import call_engine, read_version, run_program
from sparseft.serving.settings import LLAMA_CPP, QUANTIZED, Export

# The name of the GGUF file in an exported folder.
GGUF = "model.gguf"
# The number format of a checkpoint -> that of a GGUF file with the same values.
_SAME = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
# The formats that most weights of a file's matrices may have, where it is not only the one that was asked for.
# llama.cpp writes another one for rows without whole blocks.
_FORMATS = {"q8_0": "q8_0 f16", "q6_k": "q6_k q8_0", "q5_k_m": "q5_k q6_k q5_1 q8_0", "q4_k_m": "q4_k q6_k q5_0 q8_0"}
_FORMATS |= {"q4_0": "q4_0 q6_k q8_0"}
# What the converter adds to a LLaMA 3: the factors of its rotary embedding.
_ADDED = "rope_freqs.weight"
# Rows that are decoded at a time.
_SLAB = 4096


def write_gguf(settings: Export, folder: Path, output: Path, name: str) -> None:
    """Write the GGUF file of a checkpoint folder. If it is quantised, say on stderr which formats its blocks have, and
    how many zeros are still zeros.

    Raises InputError if the converter or the quantiser fails, or writes something else."""
    kind = str(settings.gguf)
    if kind not in QUANTIZED:
        _convert(settings, folder, output, name, kind)
        return
    checkpoint = Checkpoint(folder)
    ask_quantizer = partial(call_engine, LLAMA_CPP, settings.pythons[LLAMA_CPP], settings=settings)
    # Whether the quantiser is there is known before the conversion, which takes longer.
    ask_quantizer({}, read=read_version)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".gguf") as scratch:
        exact = Path(scratch, GGUF)
        _convert(settings, folder, exact, name, _SAME[str(checkpoint.config["dtype"])])
        request = {"model": str(exact), "quantized": str(output), "format": kind, "threads": 1}
        ask_quantizer(request, read=lambda _: check_gguf(output, checkpoint, kind))
        kept = kept_zeros(exact, output)
    formats = ", ".join(f"{100 * share:.1f} % {name}" for name, share in format_shares(output).items())
    zeros = "" if kept is None else f"; {100 * kept:.2f} % of the zeros of its matrices are still zeros"
    print(f"{output.name}: {kind}: of the weights, {formats}{zeros}", file=sys.stderr)


@contextmanager
def temporary_gguf(settings: Export, folder: Path, name: str) -> Iterator[Path]:
    """Yield the GGUF file of a checkpoint folder, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="served") as scratch:
        file = Path(scratch, f"{name or 'model'}.gguf")
        write_gguf(settings, folder, file, name)
        yield file


def _convert(settings: Export, folder: Path, output: Path, name: str, kind: str) -> None:
    """Write the GGUF file of a checkpoint folder with llama.cpp's own converter."""
    command = [*shlex.split(settings.converter or ""), str(folder), "--model-name", name]
    command += ["--outfile", str(output), "--outtype", kind]
    advice = "name a Python and a converter that can read this model"
    read = partial(check_gguf, output, Checkpoint(folder), kind)
    run_program(command, read, f"export.converter: {settings.converter}", advice, settings)


def check_gguf(file: Path, checkpoint: Checkpoint, kind: str) -> None:
    """Raise ValueError if a file that another program wrote is not this checkpoint in a number format: if it is a link,
    has tensors of other names or shapes, or has most of its weights in another format. A damaged file raises any
    error."""
    if file.is_symlink():
        raise ValueError(f"{file.name}: it is a link")
    reader = GGUFReader(file)
    code = {name: code for code, name in MODEL_ARCH_NAMES.items()}[reader.fields["general.architecture"].contents()]
    name_of = get_tensor_name_map(code, checkpoint.config["num_hidden_layers"]).get_name
    # Tensor and length of its rows -> number of its weights. The experts of a decoder layer are one tensor.
    expected: Counter = Counter()
    for tensor in checkpoint.tensors.values():
        name = name_of(re.sub(r"\.experts\.\d+", ".experts", tensor.name), (".weight", ".bias"))
        expected[name, tensor.shape[-1]] += math.prod(tensor.shape)
    written = {(tensor.name, tensor.shape[0]): tensor.n_elements for tensor in reader.tensors if tensor.name != _ADDED}
    if expected != written or next(iter(format_shares(file))) not in _FORMATS.get(kind, kind).split():
        raise ValueError(f"{file.name}: not the model in {kind}: its tensors have other names, shapes or formats")


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
            ours, theirs = (dequantize(each.data[row : row + _SLAB], each.tensor_type) == 0 for each in (tensor, other))
            zeros += int(np.count_nonzero(ours))
            kept += int(np.count_nonzero(ours & theirs))
    return kept / zeros if zeros else None
