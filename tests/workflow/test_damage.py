"""Every kind of damage to every artefact is found by its reader before it is used, and named with what rebuilds it."""

import shutil
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
    "training state": ("train.py",),
    "reconstruction state": ("reconstruct.py",),
}  # fmt: skip
STATES = ("training state", "reconstruction state")
# Every reader meets one flipped bit. The first reader of each file meets every kind of damage.
ARTEFACTS = [
    (name, script, kind)
    for name, scripts in READERS.items()
    for script in scripts
    for kind in DAMAGES
    if name not in STATES and (script == scripts[0] or kind == "one bit flipped")
]


def flip_a_bit(content: bytes) -> bytes:
    """Return a content with another bit in its middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def folder_of(box: Path, name: str, run: str) -> Path:
    """The folder of a run, or that of the reconstruction of its cell."""
    return box / ("reconstructed" if name == "reconstruction state" else "results/runs") / run


def artefact(box: Path, name: str, run: str) -> Path:
    """The file of a run that is damaged, or that takes its place."""
    folder = folder_of(box, name, run)
    return {
        "mask": mask_of(box, run),
        "adapter": folder / "adapter/adapter_model.safetensors",
        "merged model": folder / "model_dir/model.safetensors",
        "training state": folder / "state.pt",
        "reconstruction state": folder / "state.pt",
        # A file of another run has no other selection rows, because all runs of a task share them.
        "selection rows": box / f"data/{'selection' if run == RUN else 'validation'}.jsonl",
    }[name]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, finished_runs) -> Path:
    """Two finished runs, and the state in which a kill left each of them."""
    box = Path(shutil.copytree(finished_runs, tmp_path_factory.mktemp("whole") / "box"))
    for run in RUNS:
        succeed("reconstruct.py", **flags(box, run, "reconstruct.py", box / "reconstructed" / run))
        for name in STATES:
            _interrupt(box, name, run)
    return box


def _interrupt(box: Path, name: str, run: str) -> None:
    """Leave state.pt as a kill after two of four steps, or after one of two decoder layers, does."""

    def stop(saved: SavedState, content: dict) -> None:
        write(saved, content)
        if script == "reconstruct.py" or len(content["progress"]["curve"]) == 2:
            raise KeyboardInterrupt

    script = "train.py" if name == "training state" else "reconstruct.py"
    write, folder = SavedState.write, box / "interrupted" / run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SavedState, "write", stop)
        assert call_script(script, **flags(box, run, script, folder))[0] == 130
    (folder / "state.pt").rename(artefact(box, name, run))


@pytest.fixture
def box(tmp_path, whole) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "box"))


def damage(box: Path, name: str, kind: str) -> Path:
    path = artefact(box, name, RUN)
    content, other = path.read_bytes(), artefact(box, name, OTHER).read_bytes()
    path.write_bytes(DAMAGES[kind](content, other))
    assert path.read_bytes() != content
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "script", "kind"), ARTEFACTS)
def test_a_damaged_artefact_is_refused_and_every_file_left_as_it_was(box, name, kind, script):
    path = damage(box, name, kind)
    output = refused(box, script, **flags(box, RUN, script, box / "out"))
    named = path if name == "mask" or name == "merged model" else path.parent
    assert str(named) in output
    assert "snakemake" in output or "run's own mask" in output, "no command that rebuilds it"


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_state_is_said_to_be_and_the_training_begins_again(box, whole, name, kind):
    path, (script,) = damage(box, name, kind), READERS[name]
    output = succeed(script, **flags(box, RUN, script, path.parent))
    reason = "of other code, inputs or settings" if kind == "another run's file" else "damaged"
    assert f"{path} is {reason}: the training starts from its beginning" in output
    folder, expected = (folder_of(place, name, RUN) / "adapter" for place in (box, whole))
    assert tree(folder) == tree(expected)
