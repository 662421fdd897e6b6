"""Every kind of damage to every artefact is found by its reader before it is used, and named with what rebuilds it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from box import RUNS, flags, mask_of
from project import call_script, refused, succeed, tree
from sparseft.training.progress import SavedState

RUN, OTHER = RUNS
DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "cut in half": lambda content, other: content[: len(content) // 2],
    "one bit flipped": lambda content, other: flip_a_bit(content),
    "another run's file": lambda content, other: other,
}
# what is damaged -> the scripts that read it; all of them must refuse it
READERS = {
    "mask": ("train.py", "reconstruct.py", "merge.py", "evaluate.py --adapter", "validate_sparsity.py", "export_run.py",
             "export_modelzoo.py"),
    "adapter": ("merge.py", "evaluate.py --adapter"),
    "merged model": ("validate_sparsity.py", "evaluate.py", "evaluate.py --split selection", "export_run.py"),
    "selection rows": ("evaluate.py --split selection",),
}  # fmt: skip
# Every reader meets one flipped bit. The first reader of each file meets every kind of damage.
CASES = [
    (name, script, kind)
    for name, scripts in READERS.items()
    for script in scripts
    for kind in DAMAGES
    if script == scripts[0] or kind == "one bit flipped"
]


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def artefact(box: Path, name: str, run: str) -> Path:
    """The file of a run that is damaged, or that takes its place."""
    folder = box / "results/runs" / run
    return {
        "mask": mask_of(box, run),
        "adapter": folder / "adapter/adapter_model.safetensors",
        "merged model": folder / "model_dir/model.safetensors",
        "state": folder / "state.pt",
        # A file of another run has no other selection rows, because all runs of a task share them.
        "selection rows": box / f"data/{'selection' if run == RUN else 'validation'}.jsonl",
    }[name]


def damage(box: Path, name: str, kind: str) -> Path:
    path = artefact(box, name, RUN)
    content, other = path.read_bytes(), artefact(box, name, OTHER).read_bytes()
    path.write_bytes(DAMAGES[kind](content, other))
    assert path.read_bytes() != content
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "script", "kind"), CASES)
def test_a_damaged_artefact_is_refused_and_every_file_left_as_it_was(box, name, kind, script):
    path = damage(box, name, kind)
    output = refused(box, script, **flags(box, RUN, script, box / "out"))
    named = path if name == "mask" or name == "merged model" else path.parent
    assert str(named) in output
    assert "snakemake" in output or "run's own mask" in output, "no command that rebuilds it"


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_state_is_said_to_be_and_the_training_begins_again(box, monkeypatch, kind):
    write = SavedState.write

    def stop(saved: SavedState, content: dict) -> None:
        write(saved, content)
        # As a kill after two of four steps.
        if len(content["progress"]["curve"]) == 2:
            raise KeyboardInterrupt

    expected = tree(box / "results/runs" / RUN / "adapter")
    monkeypatch.setattr(SavedState, "write", stop)
    for run in RUNS:
        folder = box / "results/runs" / run
        assert call_script("train.py", **flags(box, run, "train.py", folder))[0] == 130
    monkeypatch.setattr(SavedState, "write", write)
    path = damage(box, "state", kind)
    output = succeed("train.py", **flags(box, RUN, "train.py", path.parent))
    reason = "of other code, inputs or settings" if kind == "another run's file" else "damaged"
    assert f"{path} is {reason}: the training starts from its beginning" in output
    assert tree(path.parent / "adapter") == expected
