"""Write a checkpoint again with other values in some of its tensors, and the manifest of a checkpoint folder."""

from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sparseft.checkpoints.checkpoint import MANIFEST_VERSION, Checkpoint, read_header
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.records.manifests import CheckpointManifest
from sparseft.records.record_file import write as write_record_file

# Takes the name of a tensor and its new bytes.
WriteTensor = Callable[[str, bytes], None]


@contextmanager
def rewritten(checkpoint: Checkpoint, names: Set[str], folder: Path) -> Iterator[WriteTensor]:
    """Copy a checkpoint to `folder` without the tensors `names`, and yield the function that writes these.

    The copy has the files, the headers and the byte layout of the checkpoint. The block must write each of `names` once, in
    any order. Raises ValueError if it leaves one out."""
    checkpoint.copy_rest(folder)
    missing = set(names)
    with ExitStack() as stack:
        targets = {file: stack.enter_context(open(folder / file.name, "wb")) for file in checkpoint.files}
        for file, target in targets.items():
            header, tensors = read_header(file)
            target.write(header)
            with open(file, "rb") as source:
                for tensor in tensors:
                    if tensor.name not in names:
                        source.seek(tensor.start)
                        target.seek(tensor.start)
                        target.write(source.read(tensor.nbytes))

        def write(name: str, content: bytes) -> None:
            tensor = checkpoint.tensors[name]
            targets[tensor.file].seek(tensor.start)
            targets[tensor.file].write(content)
            missing.remove(name)

        yield write
    if missing:
        raise ValueError(f"{len(missing)} tensors were not written (first: {min(missing)})")


def write_manifest(folder: Path, schema: type[CheckpointManifest], **origin: object) -> dict:
    """Write manifest.json beside the files of a checkpoint folder, and return its content.

    `origin` has the fields of the schema that say where the checkpoint comes from. Every weight must be finite."""
    checkpoint = Checkpoint(folder)
    shapes = prunable_shapes(checkpoint)
    hashes = checkpoint.hashes()
    sizes = {name: (folder / name).stat().st_size for name in hashes}
    manifest = schema(
        format_version=MANIFEST_VERSION,
        **origin,
        architecture=checkpoint.architecture.class_name,
        prunable_layers=len(shapes),
        prunable_weights=sum(rows * cols for rows, cols in shapes.values()),
        digest=checkpoint.digest_of(hashes),
        files={name: {"sha256": hashes[name], "bytes": sizes[name]} for name in sorted(hashes)},
    )
    write_record_file(folder / "manifest.json", manifest)
    return manifest.model_dump()
