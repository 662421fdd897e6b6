"""Every kind of damage to every artefact is found by its reader before it is used, and named with what rebuilds it."""

from pathlib import Path

import pytest
from box import RUNS, flags, mask_of
from project import DAMAGES, refused

RUN, OTHER = RUNS
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


def artefact(box: Path, name: str, run: str) -> Path:
    """The file of a run that is damaged, or that takes its place."""
    folder = box / "results/runs" / run
    return {
        "mask": mask_of(box, run),
        "adapter": folder / "adapter/adapter_model.safetensors",
        "merged model": folder / "model_dir/model.safetensors",
        # A file of another run has no other selection rows, because all runs of a task share them.
        "selection rows": box / f"data/{'selection' if run == RUN else 'validation'}.jsonl",
    }[name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "script", "kind"), CASES)
def test_a_damaged_artefact_is_refused_and_every_file_left_as_it_was(box, name, kind, script):
    path = artefact(box, name, RUN)
    content = path.read_bytes()
    path.write_bytes(DAMAGES[kind](content, artefact(box, name, OTHER).read_bytes()))
    assert path.read_bytes() != content
    output = refused(box, script, **flags(box, RUN, script, box / "out"))
    named = path if name == "mask" or name == "merged model" else path.parent
    assert str(named) in output
    assert "snakemake" in output or "run's own mask" in output, "no command that rebuilds it"
