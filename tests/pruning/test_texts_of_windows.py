"""Calibration reads the windows that a model has sampled, and those of a mixture, as they are."""

import json
import re
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest
from project import laid_over, refused, succeed
from sparseft.axes.grid import Cell
from sparseft.axes.methods import get_method
from sparseft.axes.tasks import BY_NAME
from sparseft.common.errors import InputError
from sparseft.data.rows import write_rows
from sparseft.data.settings import CalibrationText
from sparseft.data.texts import read_documents
from sparseft.models.language_model.batches import Example
from sparseft.pruning.calibration_examples import calibrate_on_text, calibration_examples, text_examples
from sparseft.pruning.masks.mask_file import check_run, read_mask
from sparseft.stages.mix_texts import settings
from sparseft.storage.hashes import sha256

from masks import compute_masks, looking_at

TASK = BY_NAME["hellaswag_mini"]


@pytest.fixture(scope="module")
def box(tmp_path_factory, tiny_models) -> Path:
    """Return a folder with a text of documents, rows of a task, a text of the tiny LLaMA, and a mixture of all."""
    box = tmp_path_factory.mktemp("box")
    write_rows(box / "web.jsonl", [{"text": f"Page {number} has {number * 17} words. " * 3} for number in range(40)])
    (box / "data").mkdir()
    write_rows(box / "data/train.jsonl", TASK.generate("train", 24, 0))
    succeed("sample_text.py", model_path=tiny_models["llama"], output=box / "texts/self.jsonl", examples=6, length=30)
    succeed("mix_texts.py", **mixture(box, tiny_models), output=box / "texts/mix.jsonl")
    return box


def mixture(box: Path, tiny_models: dict) -> dict:
    """Return the flags of a mixture of all three, without its place."""
    return {"model_path": tiny_models["llama"], "text": [box / "texts/self.jsonl", box / "web.jsonl"],
            "windows": [4, 3],
            "task": TASK.name, "data_dir": box / "data", "task_windows": 2, "length": 20, "seed": 7}  # fmt: skip


@pytest.fixture(scope="module")
def other(tmp_path_factory, tiny_models) -> Path:
    folder = tmp_path_factory.mktemp("other") / "llama"
    copytree(tiny_models["llama"], folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def windows_in(path: Path) -> list[Example]:
    return [Example(row["ids"], row["answer_start"]) for row in map(json.loads, path.open())]


def test_the_order_of_the_parts_of_a_mixture_decides_it():
    texts = {name: {"text": f"{name}.jsonl"} for name in ("a", "b")}
    given = []
    for parts in (["a", "b"], ["b", "a"]):
        config = laid_over({"masks": {"calibration": texts | {"mix": {"text": parts, "examples": 8}}}})
        given.append(settings(config, SimpleNamespace(text="mix", model="smollm2", task="")))
    assert given[0]["text"] == given[1]["text"][::-1] == ["data/calibration_a.jsonl", "data/calibration_b.jsonl"]


def test_a_mixture_has_the_shares_of_its_parts(box, tiny_llama):
    found = windows_in(box / "texts/mix.jsonl")
    documents = CalibrationText(text="web.jsonl", examples=3, length=20, seed=7)
    rows = [json.loads(line) for line in (box / "data/train.jsonl").open()]
    expected = windows_in(box / "texts/self.jsonl")[:4]
    expected += text_examples(tiny_llama, read_documents(box / "web.jsonl")[0], documents, box / "web.jsonl")
    expected += calibration_examples(tiny_llama, TASK, rows, 2, 7)
    assert found == expected
    source = json.loads((box / "texts/mix.jsonl.json").read_text())["source"]
    parts = [(sha256(box / "texts/self.jsonl"), 4), (sha256(box / "web.jsonl"), 3)]
    assert [(part["text_sha256"], part["windows"]) for part in source["parts"]] == parts
    assert (source["model"], source["task"], source["task_windows"]) == (tiny_llama.digest, TASK.name, 2)
    assert source["train_sha256"] == sha256(box / "data/train.jsonl")


@pytest.mark.parametrize(("shares", "windows"), [([], [21, 22, 21]), ([0.6, 0.3, 0.1], [38, 20, 6])])
def test_the_windows_of_the_parts_are_all_windows(shares, windows):
    text = CalibrationText(text=["self", "task", "web"], shares=shares)
    assert list(text.windows_of_parts().items()) == list(zip(("self", "task", "web"), windows, strict=True))
    assert sum(windows) == text.examples == 64


@pytest.mark.parametrize("name", ["texts/self", "texts/mix", "web"])
@pytest.mark.parametrize("base", ["unstructured_taylor", "semistructured_ria"])
def test_masks_are_those_of_the_very_windows(box, tiny_llama, base, name):
    file, key = box / f"{name}.jsonl", name.removeprefix("texts/")
    method = get_method(f"{base}_on_{key}")
    text = CalibrationText(text="self", examples=5, length=20)
    masks = compute_masks(tiny_llama, method.name, [50], calibrate_on_text(method, file, text), calibration={key: text})
    is_web = name == "web"
    first = text_examples(tiny_llama, read_documents(file)[0], text, file) if is_web else windows_in(file)[:5]
    expected = compute_masks(tiny_llama, base, [50], looking_at(first))[50]
    assert all((masks[50].bits[layer] == expected.bits[layer]).all() for layer in expected.shape)


CHOSEN = {"calibration_length": 10, "calibration_seed": 3, "calibration_choice": "get_c4"}


@pytest.mark.parametrize(
    ("name", "number", "key", "chosen", "task"),
    [("texts/self", 6, "self", {}, None), ("texts/mix", 9, "taskmix", {}, TASK.name), ("web", 4, "c4", CHOSEN, None)],
)
def test_the_mask_says_whose_text_and_task_it_looked_at(box, tmp_path, tiny_models, name, number, key, chosen, task):
    method, text = f"unstructured_wanda_on_{key}", box / f"{name}.jsonl"
    chosen = chosen | {"calibration_examples": number}
    flags = {"model_path": tiny_models["llama"], "output_dir": tmp_path, "sparsity": 0.5}
    succeed("compute_masks.py", **flags, method=method, text=text, **chosen)
    mask = read_mask(tmp_path / f"masks_sparsity50_{method}.pt")
    beside = Path(f"{text}.json")
    source = json.loads(beside.read_text())["source"] if beside.exists() else None
    meta = chosen | {"text_sha256": sha256(text), "text_source": source, "calibration": key, "method": method}
    assert mask.meta | meta == mask.meta
    assert mask.meta.keys() & CHOSEN.keys() == chosen.keys() & CHOSEN.keys()
    assert mask.meta.get("task") == task
    check_run(mask, "mask.pt", Cell("llama", TASK.name, method, 50, "sparse_to_sparse"))
    others = [(TASK.name, "unstructured_wanda"), *([("boolq", method)] if task else [])]
    for cell in (Cell("llama", *other, 50, "sparse_to_sparse") for other in others):
        with pytest.raises(InputError, match=f"a mask of {method} .*not of {cell.id}"):
            check_run(mask, "mask.pt", cell)


# The script, what is changed in its flags, and what it says. `other` stands for the model with other token ids.
REFUSED = [
    ("compute_masks.py", {}, "self.jsonl: it has 6 windows, and 128 are asked for; .*at most 6"),
    ("compute_masks.py", {"model_path": "other"}, "self.jsonl: it was not sampled by .*llama"),
    ("compute_masks.py", {"calibration_examples": 6, "calibration_seed": 1}, "its windows are fixed, .*leave"),
    ("compute_masks.py", {"method": ["unstructured_wanda_on_c4", "unstructured_ria_on_pile"]},
     "^error: --method: the methods look at the texts c4 and pile; "),
    ("compute_masks.py", {"method": "imported_wanda", "text": None},
     "^error: --method imported_wanda: its masks are those of another tool; "),
    ("mix_texts.py", {"task_windows": 25}, "examples of the mixture 25: hellaswag_mini has only 24 training rows"),
    ("mix_texts.py", {"length": 10_000}, "web.jsonl: windows of 10000 tokens, but the model takes 512"),
    ("mix_texts.py", {"model_path": "other"}, "self.jsonl: its windows are token ids of another tokenizer"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "changes", "fault"), REFUSED)
def test_windows_that_do_not_fit_are_refused_in_one_line(box, tiny_models, other, monkeypatch, script, changes, fault):
    monkeypatch.chdir(box)
    flags = {
        "compute_masks.py": {"model_path": tiny_models["llama"], "text": "texts/self.jsonl", "output_dir": "out",
                             "sparsity": 0.5, "method": "unstructured_wanda_on_self"},
        "mix_texts.py": mixture(box, tiny_models) | {"output": "texts/other.jsonl"},
    }[script]  # fmt: skip
    flags |= changes | ({"model_path": other} if "model_path" in changes else {})
    said = refused(box, script, **{flag: value for flag, value in flags.items() if value})
    assert re.search(fault, said), said
