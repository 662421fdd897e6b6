"""Send an exported run to the Hugging Face hub. Without --confirm, only say what would be sent.

    push_to_hub.py --export_dir RUN_FOLDER/export --repo_id ORG/NAME
    push_to_hub.py --export_dir RUN_FOLDER/export --repo_id ORG/NAME --confirm

A new repository is private. Log in first with `hf auth login`, or set HF_TOKEN. README.md is yours to edit: it is sent
as it is."""

from pathlib import Path

from sparseft.checkpoints.checkpoint import README, Checkpoint
from sparseft.command import run
from sparseft.errors import InputError, one_line
from sparseft.export.model_card import NAME, attribution
from sparseft.records.manifests import ExportManifest
from sparseft.records.record_file import read_record_file
from sparseft.storage.hashes import sha256


def main(*, export_dir: Path, repo_id: str, confirm: bool = False) -> None:
    """Check the folder, say what is sent, and send it if that is confirmed.

    Args:
        export_dir: the exported folder
        repo_id: ORG/NAME on the hub
        confirm: send it
    """
    # Imported after sparseft, because it may load torch.
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    manifest = read_record_file(export_dir / "manifest.json", ExportManifest)
    owner, _, name = repo_id.partition("/")
    try:
        validate_repo_id(f"{owner}/{name}")
    except HFValidationError as error:
        raise InputError(f"--repo_id {repo_id!r}: {one_line(error)}", "give ORG/NAME") from None
    if attribution(manifest.licence) and not name.startswith(NAME):
        what = f"--repo_id {repo_id}: the licence of its dense model wants a name that begins with {NAME}"
        raise InputError(what, f"give {owner}/{NAME}-{name}")
    checkpoint = Checkpoint(export_dir)
    checkpoint.check_manifest(checkpoint.hashes())
    for name, entry in manifest.others.items():
        if not (export_dir / name).is_file() or sha256(export_dir / name) != entry.sha256:
            raise InputError(
                f"{export_dir / name}: it is not the file that manifest.json records",
                "put back the exported file, or delete the folder and export the run again",
            )
    files = [*manifest.files, *manifest.others, README, "manifest.json"]
    sizes = {name: (export_dir / name).stat().st_size for name in files}
    for name, size in sizes.items():
        print(f"{size:>14,} bytes  {name}")
    print(
        f"{sum(sizes.values()):>14,} bytes  to {repo_id}: {'sending' if confirm else 'nothing was sent; add --confirm'}"
    )
    if not confirm:
        return
    try:
        api = HfApi()
        api.create_repo(repo_id, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=export_dir, allow_patterns=files)
    # The client of the hub raises a dozen kinds of errors.
    except Exception as error:
        what = f"hub:{repo_id}: {type(error).__name__}: {one_line(error)}"
        raise InputError(what, "check name, access and network, and run `hf auth login`") from None


if __name__ == "__main__":
    run(main)
