"""The memo: it names what is wrong first, and of a sound study nothing."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.memo import write_memo
from sparseft.analysis.records import read_runs
from sparseft.masks.mask_file import Mask, pack
from sparseft.storage.adapter_files import adapter_digest
from sparseft.storage.hashes import sha256
from sparseft.storage.record import read_record, write_record
from sparseft.study.grid import Run
from sparseft.tasks.scoring import choice_metrics

from masks import write_mask

TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
UNTUNED = "m-t-dense-sparsity00-no_finetune-seed0"


def memo(tmp_path: Path) -> str:
    """Return the memo of the runs that were written."""
    records, gaps = read_runs(tmp_path / "runs")
    write_memo(tmp_path / "memo.md", judge_runs(records), gaps)
    return (tmp_path / "memo.md").read_text()


def first_line(text: str) -> str:
    """Return the first line under the title."""
    return text.splitlines()[2]


TRAINED, PRUNED_ONLY = (run_id.replace("-t-", "-hellaswag_mini-") for run_id in (TUNED, UNTUNED))


def study_on_disk(write_run, tmp_path: Path) -> Path:
    """Write a trained and an untrained run with their masks, adapter and validation rows; return the folder of the runs."""
    study = tmp_path / "study"
    runs = study / "results/runs"
    adapter = runs / TRAINED / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(bytes(1000))
    (adapter / "adapter_config.json").write_text("{}")
    rows = study / "data/hellaswag_mini/validation.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text("".join(json.dumps(row(number)) + "\n" for number in range(200)))
    for run_id in (TRAINED, PRUNED_ONLY):
        mask = write_mask_of(study, Run.parse(run_id))

        def name_them(files: dict, mask: str = sha256(mask), trained: bool = run_id == TRAINED) -> None:
            for piece in files.keys() - {"evaluation"}:
                files[piece]["inputs"]["mask"] = mask
            files["evaluation"]["inputs"]["data"] = sha256(rows)
            if trained:
                files["train"]["outputs"]["adapter"] = adapter_digest(adapter)
                files["train"]["inputs"]["validation"] = files["before_merge"]["inputs"]["data"] = sha256(rows)
                for piece in ("before_merge", "merge"):
                    files[piece]["inputs"]["adapter"] = adapter_digest(adapter)

        shutil.copytree(write_run(run_id, 0.5, change=name_them), runs / run_id, dirs_exist_ok=True)
    return runs


def write_mask_of(study: Path, run: Run) -> Path:
    """Write the mask of a run of the fixture: two layers of 10 rows and 100 columns, of which each row loses the first ones."""
    path = study / f"masks/m/masks_sparsity{run.sparsity:02d}_{run.method}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    bits = pack(np.tile(np.arange(100) >= run.sparsity, (10, 1)))
    layers = [f"model.layers.0.self_attn.{name}_proj" for name in "qk"]
    meta = {"method": run.method, "sparsity": run.sparsity / 100, "scope": "layer"}
    write_mask(path, Mask(meta, dict.fromkeys(layers, bits), dict.fromkeys(layers, (10, 100))))
    return path


def row(number: int) -> dict:
    """Return a row of HellaSwag with the label and the endings' lengths of the fixture's runs."""
    context = {"activity_label": "Shopping", "ctx_a": f"Anna buys {number}.", "ctx_b": "she", "ctx": ""}
    return context | {"endings": ["aaaa0", "aaaa1", "aaaa2", "aaaa3"], "label": number % 4}


def test_sound_runs_have_six_links_and_no_fault(write_run, tmp_path):
    runs = study_on_disk(write_run, tmp_path)
    records, gaps = read_runs(runs)
    judged = judge_runs(records)
    write_memo(tmp_path / "memo.md", judged, gaps)
    text = (tmp_path / "memo.md").read_text()
    assert [(run.faults, run.unchecked) for run in judged] == [([], [])] * 2
    assert {len(run.chain) for run in judged} == {6}
    assert "with a fault\n" not in text
    assert text.count("| sound | 2 / 2 | 2,000 | 0 |") == 2
    assert text.count("| 6 of 6 |") == 2
    assert first_line(text).startswith("**Everything that was checked in the study holds.**")
    assert "2 runs checked, 0 with a fault, 0 not fully checked, 0 missing" in first_line(text)


def test_a_study_whose_results_are_a_link_to_another_disk_is_checked_all_the_same(write_run, tmp_path):
    runs = study_on_disk(write_run, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    runs.parent.rename(elsewhere)
    (tmp_path / "study/results").symlink_to(elsewhere)
    assert [run.verdict for run in judge_runs(read_runs(runs)[0])] == ["sound", "sound"]


@pytest.mark.parametrize(("gone", "words"), [
    ("masks/m/masks_sparsity50_unstructured.pt", "the mask's file is not there, its hash was not compared"),
    (f"results/runs/{TRAINED}/adapter/adapter_config.json", "the adapter's files are not there, their hash was not compared"),
])  # fmt: skip
def test_a_check_that_could_not_be_made_is_said_and_is_no_pass(write_run, tmp_path, gone, words):
    runs = study_on_disk(write_run, tmp_path)
    (tmp_path / "study" / gone).unlink()
    judged = judge_runs(read_runs(runs)[0])
    verdicts = {run.record.run.id: (run.verdict, run.unchecked) for run in judged}
    assert verdicts[PRUNED_ONLY] == ("sound", [])
    assert verdicts[TRAINED] == ("NOT FULLY CHECKED", [words])
    write_memo(tmp_path / "memo.md", judged, [])
    text = (tmp_path / "memo.md").read_text()
    assert f"| {TRAINED} | NOT FULLY CHECKED |" in text
    assert f"| {words} | 1 | {TRAINED} |" in text
    assert re.search(r"\b2 runs checked, 0 with a fault, 1 not fully checked", first_line(text))
    assert "Everything" in first_line(text)
    assert "but not everything was checked" in first_line(text)


def test_right_answers_that_are_not_those_of_the_data_are_a_fault(write_run, tmp_path):
    runs = study_on_disk(write_run, tmp_path)
    path = runs / PRUNED_ONLY / "evaluation.json"
    record = read_record(path)
    record["labels"] = record["predictions"]  # every answer is right now, and all else is made to fit
    record["outcomes"] = [1.0] * 200
    record["metrics"] = choice_metrics(record["labels"], record["log_likelihoods"], record["choice_lengths"], ())
    record["value"], record["standard_error"] = 1.0, 0.0
    record["losses"] = [-max(logs) for logs in record["log_likelihoods"]]
    record["eval_loss"] = sum(record["losses"]) / sum(record["answer_tokens"])
    write_record(path, record)
    judged = {run.record.run.id: run.faults for run in judge_runs(read_runs(runs)[0])}
    assert judged == {
        PRUNED_ONLY: ["labels or choice_lengths are not those of hellaswag_mini/validation.jsonl"],
        TRAINED: [],
    }


def test_a_validation_without_its_base_is_no_pass(write_run, tmp_path):
    open_check = "tensors outside the mask: no base was given"

    def without_base(files: dict) -> None:
        files["validation_report"]["inputs"]["base"] = None
        files["validation_report"].update(not_checked=[open_check], tensors_outside_checked=0)

    write_run(UNTUNED, 0.5, change=without_base)
    (judged,) = judge_runs(read_runs(tmp_path / "runs")[0])
    assert judged.verdict == "NOT FULLY CHECKED"
    assert open_check in judged.unchecked
    assert "| not checked |" in memo(tmp_path)


def test_a_mask_that_was_calibrated_on_other_examples_breaks_the_chain(write_run, tmp_path):
    wanda = UNTUNED.replace("dense-sparsity00", "unstructured_wanda-sparsity50")
    other = {"scope": "row", "train_sha256": "f" * 64}
    write_run(wanda, 0.5, change=lambda files: files["validation_report"].update(mask=other))
    (judged,) = judge_runs(read_runs(tmp_path / "runs")[0])
    (fault,) = judged.faults
    assert fault.startswith("broken chain, train: the mask's calibration names ffffffffffff, evaluation.json names ")


def with_pruned_base(original: str, base: str = "b" * 64) -> Callable[[dict], None]:
    """Return the change of a run whose base is a pruned one, made from the model with the digest `original`."""

    def change(files: dict) -> None:
        for piece in {"train", "before_merge", "merge"} & files.keys():
            files[piece]["inputs"]["model"] = base
        files["validation_report"]["inputs"]["base"] = base
        files["validation_report"]["mask"] = {"scope": "block", "original": original}

    return change


def test_a_pruned_base_belongs_to_the_model_of_the_dense_runs(write_run, tmp_path):
    updated = [TUNED.replace("unstructured", "unstructured_sparsegpt")]
    updated.insert(0, updated[0].replace("sparse_to_dense", "no_finetune"))
    model = read_record(write_run(UNTUNED, 0.5) / "merge.json")["inputs"]["model"]
    faults = []
    for original, base in ((model, "b" * 64), ("f" * 64, "b" * 64), (model, "c" * 64)):
        write_run(updated[0], 0.5, change=with_pruned_base(model))
        write_run(updated[1], 0.5, change=with_pruned_base(original, base))
        faults.append({run.record.run.id: run.faults for run in judge_runs(read_runs(tmp_path / "runs")[0])})
    conflict = "conflicts with other runs"
    assert faults[0] == {run: [] for run in (UNTUNED, *updated)}
    assert faults[1] == {
        UNTUNED: [],
        updated[0]: [],
        updated[1]: [f"{conflict}, base of m: ffffffffffff in 1 of 3 runs"],
    }
    place = "pruned/m/t/sparsity50_unstructured_sparsegpt"
    assert faults[2][updated[1]] == [f"{conflict}, pruned base of {place}: cccccccccccc in 1 of 2 runs"]
    assert faults[2][updated[0]] == [f"{conflict}, pruned base of {place}: bbbbbbbbbbbb in 1 of 2 runs"]


@pytest.mark.parametrize(
    ("link", "file", "path"),
    [
        ("mask", "train", ("inputs", "mask")),
        ("mask", "merge", ("inputs", "mask")),
        ("mask", "validation_report", ("inputs", "mask")),
        ("adapter", "train", ("outputs", "adapter")),
        ("adapter", "merge", ("inputs", "adapter")),
        ("merged", "merge", ("outputs", "model.safetensors")),
        ("merged", "validation_report", ("inputs", "checkpoint", "model.safetensors")),
        ("merged", "evaluation", ("inputs", "model", "model.safetensors")),
        ("base", "merge", ("inputs", "model")),
        ("data", "evaluation", ("inputs", "data")),
    ],
)
def test_a_changed_digest_breaks_its_link_and_no_other(write_run, tmp_path, link, file, path):
    def tamper(files: dict) -> None:
        place = files[file]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = "f" * 64

    write_run(UNTUNED, 0.5)
    write_run(TUNED, 0.5, change=tamper)
    broken = {run.record.run.id: run.faults for run in judge_runs(read_runs(tmp_path / "runs")[0])}
    assert broken[UNTUNED] == []
    assert len(broken[TUNED]) == 1
    assert broken[TUNED][0].startswith(f"broken chain, {link}: ")
    assert f"{file}.json names ffffffffffff" in broken[TUNED][0]
    text = memo(tmp_path)
    assert broken[TUNED][0] in text
    assert text.index(f"### {TUNED}") < text.index(UNTUNED)
    assert "1 with a fault" in first_line(text)
    assert "holds.**" in first_line(text).replace("Not everything that was checked ", "")
    assert "**Everything" not in text
    assert f"5 of 6, BROKEN: {link} |" in text


@pytest.mark.parametrize(("link", "path"), [
    ("adapter", f"results/runs/{TUNED}/adapter/adapter_model.safetensors"),
    ("mask", "masks/m/masks_sparsity50_unstructured.pt"),
])  # fmt: skip
def test_one_changed_byte_of_an_adapter_or_a_mask_is_found_and_named(write_run, tmp_path, link, path):
    file = tmp_path / path
    if link == "mask":
        write_mask_of(tmp_path, Run.parse(TUNED))
    else:
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(1000))
        file.with_name("adapter_config.json").write_text("{}")
    content = bytearray(file.read_bytes())
    digest_of = {"adapter": lambda: adapter_digest(file.parent), "mask": lambda: sha256(file)}[link]
    digest = digest_of()

    def name(files: dict) -> None:
        for piece in ("before_merge", "merge", "train", "validation_report"):
            files[piece]["inputs"][link] = digest
        files["train"]["outputs"]["adapter"] = files["merge"]["inputs"]["adapter"]

    write_run(UNTUNED, 0.5)
    folder = write_run(TUNED, 0.5, change=name)
    runs = tmp_path / "results/runs"
    shutil.copytree(folder.parent, runs, dirs_exist_ok=True)
    faults = []
    for byte in (content[500], content[500] ^ 1):
        content[500] = byte
        file.write_bytes(content)
        faults.append({run.record.run.id: run.faults for run in judge_runs(read_runs(runs)[0])})
    assert faults[0] == {UNTUNED: [], TUNED: []}
    (fault,) = faults[1][TUNED]
    assert fault.startswith(f"broken chain, {link}: ")
    assert f"the {link}'s file names {digest_of()[:12]}" in fault
    assert faults[1][UNTUNED] == []


@pytest.mark.parametrize(("name", "value", "words"), [
    ("expected_sparsity", 0.51, r"expected_sparsity 0\.51\b.*1,000 of 2,000"),
    ("actual_sparsity", 0.49, r"actual_sparsity 0\.49\b.*1,000 of 2,000"),
    ("violations", 1, r"\b1 weights violate"),
    ("layers_expected", 3, r"\b2 of 3 layers"),
])  # fmt: skip
def test_one_changed_number_in_a_report_is_found_and_named(write_run, tmp_path, name, value, words):
    write_run(UNTUNED, 0.5)
    write_run(TUNED, 0.5, change=lambda files: files["validation_report"].update({name: value}))
    judged = {run.record.run.id: run.faults for run in judge_runs(read_runs(tmp_path / "runs")[0])}
    (fault,) = judged.pop(TUNED)
    assert re.search(words, fault)
    assert judged == {UNTUNED: []}


def rename(report: dict) -> None:
    report["layers"][0]["layer"] += "x"


def swap(report: dict) -> None:
    """Move 10 pruned weights from the first layer to the second one. No total changes."""
    for layer, moved in zip(report["layers"], (-10, 10), strict=True):
        layer.update(pruned=500 + moved, zeros=500 + moved)


def resize(report: dict) -> None:
    for layer in report["layers"]:
        layer.update(weights=2000, pruned=1000, zeros=1000)


@pytest.mark.parametrize(("change", "words"), [
    (rename, "layer rows"),
    (swap, "layer rows"),
    (resize, "layer rows"),
    (lambda report: report["mask"].update(scope="row"), "mask settings"),
])  # fmt: skip
def test_a_report_of_other_layers_than_those_of_the_mask_is_a_fault(write_run, tmp_path, change, words):
    runs = study_on_disk(write_run, tmp_path)
    path = runs / TRAINED / "validation_report.json"
    report = read_record(path)
    change(report)
    write_record(path, report)
    judged = {run.record.run.id: run.faults for run in judge_runs(read_runs(runs)[0])}
    assert judged[PRUNED_ONLY] == []
    (fault,) = judged[TRAINED]
    assert re.fullmatch(rf"validation says passed, but: its {words} are not .* the mask's file.*", fault)


@pytest.mark.parametrize(("name", "copy"), [
    ("base", "n-t-unstructured-sparsity50-no_finetune-seed0"),
    ("data", "m-u-unstructured-sparsity50-no_finetune-seed0"),
])  # fmt: skip
def test_an_untrained_run_of_another_study_stands_out(write_run, tmp_path, name, copy):
    """Its files have no run_id, and its chain holds. Only the comparison with the other runs shows it."""
    ours = UNTUNED.replace("dense-sparsity00", "unstructured-sparsity50")
    for run_id in (ours, ours.replace("seed0", "seed1"), ours.replace("seed0", "seed2"), UNTUNED):
        write_run(run_id, 0.5)
    foreign = write_run(copy, 0.5, change=lambda files: files["evaluation"].update(task="t"))
    runs = tmp_path / "runs"
    shutil.rmtree(runs / ours)
    foreign.rename(runs / ours)
    judged = {run.record.run.id: run.faults for run in judge_runs(read_runs(runs)[0])}
    assert any(
        fault.startswith(f"conflicts with other runs, {name} of {ours[0 if name == 'base' else 2]}: ")
        for fault in judged[ours]
    )
    assert [run_id for run_id, faults in judged.items() if faults] == [ours]


def test_of_two_masks_that_are_named_as_often_either_may_be_the_wrong_one(write_run, tmp_path):
    masked = TUNED.replace("to_dense", "to_sparse")

    def other(files: dict) -> None:
        for piece in ("train", "before_merge", "merge", "validation_report"):
            files[piece]["inputs"]["mask"] = "f" * 64

    write_run(TUNED, 0.5)
    write_run(masked, 0.5, change=other)
    judged = {run.record.run.id: run.faults for run in judge_runs(read_runs(tmp_path / "runs")[0])}
    mask = "conflicts with other runs, mask of masks/m/masks_sparsity50_unstructured.pt"
    assert judged[masked] == [f"{mask}: ffffffffffff in 1 of 2 runs"]
    assert [fault.startswith(mask) for fault in judged[TUNED]] == [True]


def test_a_run_with_fewer_distinct_prompts_than_the_others_of_its_model_stands_out(write_run, tmp_path):
    for run_id in (TUNED, UNTUNED, "n-t-dense-sparsity00-no_finetune-seed0"):
        write_run(run_id, 0.5, distinct_prompts=190 if run_id[0] == "n" else 200)
    altered = TUNED.replace("to_dense", "to_sparse")
    write_run(altered, 0.5, distinct_prompts=1)
    judged = {run.record.run.id: run.faults for run in judge_runs(read_runs(tmp_path / "runs")[0])}
    assert judged.pop(altered) == ["conflicts with other runs, distinct prompts of m on t: 1 in 1 of 3 runs"]
    assert not any(judged.values())


def test_one_training_under_two_names_is_found(write_run, tmp_path):
    second = TUNED.replace("seed0", "seed1")
    folder = write_run(TUNED, 0.5)
    shutil.copytree(folder, folder.with_name(second))
    file = folder.with_name(second) / "train.json"
    write_record(file, read_record(file) | {"run_id": second})
    judged = {run.record.run.id: run.faults for run in judge_runs(read_runs(tmp_path / "runs")[0])}
    assert judged == {
        TUNED: [f"conflicts with other runs, adapter: also that of {second}"],
        second: [f"conflicts with other runs, adapter: also that of {TUNED}"],
    }


def test_an_untrained_run_must_not_have_an_adapter(write_run, tmp_path):
    write_run(UNTUNED, 0.5, change=lambda files: files["merge"]["inputs"].update(adapter="a" * 64))
    assert re.search(r"adapter: merge\.json .*aaaaaaaaaaaa.* no_finetune .*none", memo(tmp_path))


def test_a_chain_that_cannot_be_followed_is_a_fault(write_run, tmp_path):
    (write_run(TUNED, 0.5) / "merge.json").unlink()
    text = memo(tmp_path)
    assert re.search(r"mask: .*without merge\.json", text)
    assert "in the tables, with blanks" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"passed": False, "violations": 3, "max_abs_violation": 1e-6},
            r"\b3 weights .*1e-06",
        ),
        (
            {"passed": False, "layers_checked": 0, "layers": [], "expected_sparsity": None, "actual_sparsity": None},
            r"\b0 of 2 layers",
        ),
        ({"passed": False, "tensors_outside_changed": ["lm_head"]}, r"outside the mask.*: lm_head"),
        ({"layers_checked": 1}, r"says passed.*\b1 of 2 layers"),
        ({"layers": []}, r"\b0 layer rows"),
    ],
)
def test_a_failed_or_contradictory_validation_is_named(write_run, tmp_path, change, words):
    write_run(TUNED, 0.5, change=lambda files: files["validation_report"].update(change))
    text = memo(tmp_path)
    assert re.search(words, text.partition("## Runs with a fault")[2].partition("\n## ")[0])
    assert f"validate_sparsity.py --checkpoint results/runs/{TUNED}/model_dir" in text


def test_a_failed_validation_stands_before_a_broken_chain(write_run, tmp_path):
    write_run(UNTUNED, 0.5, change=lambda files: files["merge"]["inputs"].update(mask="f" * 64))
    write_run(TUNED, 0.5, change=lambda files: files["validation_report"].update(passed=False))
    text = memo(tmp_path)
    assert text.index(f"### {TUNED}") < text.index(f"### {UNTUNED}")


def test_a_violation_that_is_not_counted_is_a_fault(write_run, tmp_path):
    write_run(TUNED, 0.5, change=lambda files: files["validation_report"].update(max_abs_violation=3.0))
    (judged,) = judge_runs(read_runs(tmp_path / "runs")[0])
    (fault,) = judged.faults
    assert re.search(r"says passed.*\b0 violations.*\b3\b", fault)


def test_a_mask_of_another_base_is_named_as_such(write_run, tmp_path):
    write_run(TUNED, 0.5, change=lambda files: files["validation_report"].update(passed=False, mask_of_base=False))
    (judged,) = judge_runs(read_runs(tmp_path / "runs")[0])
    (fault,) = judged.faults
    assert re.search(r"failed.*another base", fault)
