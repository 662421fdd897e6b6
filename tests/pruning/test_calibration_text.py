"""The windows of a text: where they come from, how the seed chooses them, and the texts that are refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from project import call_script, succeed
from sparseft.errors import InputError
from sparseft.language_model.batches import Example
from sparseft.masks.mask_file import Mask, check_run, read_mask
from sparseft.methods import get_method
from sparseft.pruning.calibration import ExampleCalibration, calibrate_on_text, choose_windows, text_examples
from sparseft.storage.hashes import sha256
from sparseft.study.grid import Cell
from sparseft.study.sources import CalibrationText
from transformers import AutoTokenizer

from masks import compute_masks

PLACE = Path("text.jsonl")


def settings(**values: object) -> CalibrationText:
    return CalibrationText(**{"text": "text.jsonl", "examples": 4, "length": 10, "seed": 0, **values})


def letters(text: str) -> list[int]:
    """Return one token per character."""
    return [ord(letter) for letter in text]


def document(first: int, length: int) -> str:
    """Return `length` consecutive characters, so that a window of it shows where it starts."""
    return "".join(chr(first + number) for number in range(length))


def test_long_documents_give_one_random_window_each():
    documents = [document(1000 * number + 1000, length) for number, length in enumerate((11, 9, 40, 10, 200, 11, 30))]
    windows = choose_windows(documents, letters, settings(), PLACE)
    assert len({window[0] // 1000 for window in windows}) == 4
    for window in windows:
        home = documents[window[0] // 1000 - 1]
        assert len(home) > 10
        assert "".join(map(chr, window)) in home
        assert len(window) == 10
    drawn = [choose_windows(documents, letters, settings(seed=seed), PLACE) for seed in range(200)]
    starts = {window[0] for windows in drawn for window in windows}
    assert {1000, 1001, 3000, 3030, 6000, 6001} <= starts  # the first and the last place of a document
    assert not starts & {2000, 4000}  # documents that are not longer than a window


def test_short_documents_are_joined_by_blank_lines():
    documents = ["abc", "", "defghij", "k" * 30]
    windows = choose_windows(documents, letters, settings(), PLACE)
    whole = "abc\n\n\n\ndefghij\n\n" + "k" * 30
    assert all("".join(map(chr, window)) in whole for window in windows)
    starts = {
        "".join(map(chr, choose_windows(documents, letters, settings(seed=seed), PLACE)[0])) for seed in range(200)
    }
    assert {whole[:10], whole[4:14], whole[-10:]} <= starts


@pytest.mark.parametrize(("documents", "tokens"), [(["a" * 39], 39), (["a" * 10, "b" * 10], 22), ([""], 0)])
def test_a_text_with_fewer_tokens_than_its_windows_is_refused(documents, tokens):
    with pytest.raises(
        InputError, match=f"^text.jsonl: {tokens} tokens are fewer than 4 windows of 10 tokens; give more"
    ):
        choose_windows(documents, letters, settings(), PLACE)


def test_a_window_is_an_example_whose_loss_leaves_out_the_first_token(tiny_llama):
    documents = ["The cat sat on the mat. " * 20] * 6
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama.folder)
    examples = text_examples(tiny_llama, documents, settings(), PLACE)
    assert examples == [Example(ids, 1) for ids in choose_windows(documents, tokenizer.encode, settings(), PLACE)]


def test_a_window_longer_than_the_context_is_refused(tiny_llama):
    with pytest.raises(InputError, match=r"text.jsonl: windows of 513 tokens, .* 512; .*--calibration_length"):
        text_examples(tiny_llama, ["a" * 10_000], settings(length=513), PLACE)
    assert len(text_examples(tiny_llama, ["a" * 10_000], settings(length=512), PLACE)) == 4


@pytest.fixture
def text(tmp_path) -> Path:
    """Return a text of 30 documents."""
    path = tmp_path / "text.jsonl"
    documents = [f"Document {number} is about the number {number * number}. " * 3 for number in range(30)]
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return path


@pytest.mark.parametrize(
    "base", ["unstructured_gradient", "structured_taylor", "unstructured_wanda", "semistructured_ria"]
)
def test_masks_are_those_of_the_windows_as_examples(tiny_llama, text, base):
    method = get_method(f"{base}_on_c4")
    calibration = calibrate_on_text(method, text, settings())
    masks = compute_masks(tiny_llama, method.name, [50], calibration, calibration={"c4": settings()})
    examples = text_examples(tiny_llama, [json.loads(line)["text"] for line in text.open()], settings(), text)

    given = ExampleCalibration(method.importance, lambda checkpoint: examples, {})
    expected = compute_masks(tiny_llama, base, [50], given)[50]
    for layer in expected.shape:
        np.testing.assert_array_equal(masks[50].kept(layer), expected.kept(layer))


def computed(folder: Path, model: Path, text: Path, **flags: object) -> Mask:
    """Return the mask that the script computes at 50 %."""
    method = "unstructured_wanda_on_c4"
    given = {"calibration_examples": 4, "calibration_length": 10} | flags
    succeed("compute_masks.py", model_path=model, output_dir=folder, sparsity=0.5, method=method, text=text, **given)
    return read_mask(folder / f"masks_sparsity50_{method}.pt")


def test_the_mask_says_which_text_it_looked_at_and_belongs_to_every_task(tmp_path, tiny_models, text):
    mask = computed(tmp_path / "out", tiny_models["llama"], text, calibration_seed=3)
    chosen = {"calibration": "c4", "text_sha256": sha256(text), "text_source": None, "calibration_examples": 4,
              "calibration_length": 10, "calibration_seed": 3, "method": "unstructured_wanda_on_c4"}  # fmt: skip
    assert mask.meta | chosen == mask.meta
    assert "task" not in mask.meta
    assert "train_sha256" not in mask.meta
    for task in ("boolq", "gsm8k"):
        check_run(mask, "mask.pt", Cell("llama", task, "unstructured_wanda_on_c4", 50, "sparse_to_sparse"))
    with pytest.raises(InputError, match="a mask of unstructured_wanda_on_c4 "):
        check_run(mask, "mask.pt", Cell("llama", "boolq", "unstructured_wanda", 50, "sparse_to_sparse"))


def test_a_prepared_text_gives_the_masks_of_its_source_and_says_where_it_comes_from(tmp_path, tiny_models, text):
    succeed("prepare_text.py", text=text, output=tmp_path / "data/c4.jsonl")
    prepared = computed(tmp_path / "a", tiny_models["llama"], tmp_path / "data/c4.jsonl")
    given = computed(tmp_path / "b", tiny_models["llama"], text)
    assert prepared.meta["text_source"] == {"local": sha256(text)}
    assert all((prepared.bits[layer] == given.bits[layer]).all() for layer in given.bits)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"method": "unstructured_wanda_on_c4"}, "a method looks at the text c4; give its file with --text"),
        ({"method": "random", "text": "t.jsonl"}, "--text t.jsonl: no method looks at a text; "),
        ({"method": ["unstructured_wanda_on_c4", "unstructured_ria_on_pile"], "text": "t.jsonl"},
         "--method: the methods look at the texts c4 and pile; "),
        ({"method": "unstructured_wanda_on_c4", "text": "t.json"}, "masks: calibration.c4.text: .*not 't.json'"),
        ({"method": "unstructured_wanda_on_c4", "text": "t.jsonl"}, "t.jsonl: no such file; "),
        ({"method": "unstructured_wanda_on_c4", "text": "t.jsonl", "calibration_length": 1},
         "masks: calibration.c4.length: .*equal to 2"),
        ({"method": "unstructured_sparsegpt", "task": "boolq", "data_dir": "d"}, "unstructured_sparsegpt updates weights; give --pr"),
        ({"method": "unstructured_wanda", "scope": "column"}, "--scope: Input should be .layer., .row. or .global., not .column."),
        ({"method": "semistructured", "scope": "row"}, "--scope row: semistructured ranks by group; leave --scope out"),
        ({"method": "structured", "importance": "wanda"}, "method 'structured_wanda' is unknown"),
        ({"method": "random", "threads": 0}, ".*for --threads. Must be >= 1; compute_masks.py --help"),
        ({"method": "imported_wanda"}, "--method imported_wanda: its masks are those of another tool; use import_pruned.py"),
        ({"method": "unstructured_on_c4", "text": "t.jsonl"}, "method 'unstructured_on_c4': unstructured looks at no "),
        ({"method": "unstructured_wanda"}, "unstructured_wanda looks at a task's .*, or unstructured_wanda_on_NAME and --text"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit_the_methods_are_refused_in_one_line(tmp_path, tiny_models, monkeypatch, flags, fault):
    monkeypatch.chdir(tmp_path)
    code, said = call_script(
        "compute_masks.py", model_path=tiny_models["llama"], output_dir="out", sparsity=0.5, **flags
    )
    assert (code, said.count("\n")) == (2, 1)
    assert re.match(f"error: {fault}", said), said
    assert not list((tmp_path / "out").glob("*"))
