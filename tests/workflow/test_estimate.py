"""The estimate beside what it speaks of: Snakemake's plan, and the files of a finished study."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from project import DEFAULT, ROOT, Study, call_script, laid_over, succeed, tiny_grid
from sparseft.backends.torch import adapted_model
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.lora.masked_lora import LoRALinear
from sparseft.planning.estimate import Item, disk_kept, jobs, mask_sizes, memory, report
from sparseft.planning.memory import activation_bytes, adapter_shapes, mask_memory
from sparseft.planning.model_sizes import Subject, described, safetensors_bytes
from sparseft.study.config import Config, Model, Training
from sparseft.tasks import BY_NAME
from tiny_models import MODELS, change_json

from masks import compute_masks

SWEEP = yaml.safe_load((ROOT / "config/sweep.yaml").read_text())
MIXED = {
    "grid": {**tiny_grid("smollm2", "boolq_mini", ["structured", "unstructured_taylor", "unstructured_owl", "semistructured_wanda", "random"]),
             "tasks": ["boolq_mini", "gsm8k_mini"], "seeds": [0, 3]},
    "masks": {"nm_group": 10},
    "training": {"batch_size": 8, "micro_batch_size": 2},
    "resources": {"processes": 2, "threads": 1},
    "keep_merged": True,
}  # fmt: skip
WAFER = {**SWEEP, "backend": "cerebras"}
MODELZOO = {**SWEEP, **yaml.safe_load((ROOT / "config/modelzoo.yaml").read_text())}
MODELZOO["grid"] = {**SWEEP["grid"], "methods": ["random", "unstructured_wanda", "unstructured_ria_on_web"]}
TEXTS = {"masks": {"calibration": {name: {"text": f"hub:org/{name}"} for name in ("web", "unused")}}}
MODELZOO |= TEXTS
ON_TEXT = {
    **TEXTS,
    "grid": {**tiny_grid("smollm2", "boolq_mini", ["unstructured_wanda", "unstructured_wanda_on_web", "structured_taylor_on_web"]),
             "tasks": ["boolq_mini", "gsm8k_mini"]},
}  # fmt: skip
UPDATED = {
    **TEXTS,
    "grid": {**tiny_grid("smollm2", "boolq_mini", ["unstructured_sparsegpt", "semistructured_sparsegpt_on_web", "random"]),
             "sparsities": [0, 25, 50], "tasks": ["boolq_mini", "gsm8k_mini"]},
}  # fmt: skip

IMPORTED = {
    "masks": {"imported": {"wanda": {50: "hub:org/half", 80: "hub:org/most"}}},
    "grid": {
        **tiny_grid("smollm2", "boolq_mini", ["unstructured", "imported_wanda"]),
        "tasks": ["boolq_mini", "gsm8k_mini"],
    },
}
COMPARED = {
    "grid": {
        **tiny_grid("smollm2", "boolq_mini", ["random"]),
        "tasks": ["boolq_mini", "gsm8k_mini"],
        "trainings": {"short": {"steps": 10}, "long": {"steps": 20}},
    },
    "evaluation": {"probes": ["hellaswag_mini"]},
}


@pytest.mark.parametrize(
    "sections",
    [DEFAULT, SWEEP, MIXED, WAFER, MODELZOO, ON_TEXT, UPDATED, IMPORTED, COMPARED],
    ids=[
        "default",
        "sweep",
        "mixed",
        "sweep on a wafer",
        "sweep by ModelZoo",
        "on a text",
        "updated weights",
        "imported",
        "named trainings",
    ],
)
def test_jobs_are_those_that_snakemake_plans_in_an_empty_folder(tmp_path, sections):
    study = Study(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(sections))
    assert jobs(laid_over(sections)) == study.planned()


def test_every_pruned_base_is_as_large_as_its_model_and_has_a_job_of_its_own():
    config = laid_over(UPDATED)
    assert jobs(config)["prune"] == 2 * 2 + 2
    subject = described("smollm2", config.models["smollm2"])
    (item,) = [item for item in disk_kept(config, [subject]) if item.label == "pruned bases"]
    assert item.bytes == 6 * subject.bytes
    assert len(mask_sizes(config, subject)) == 6 + 1 + 3


def test_sparsegpt_needs_the_hessians_of_one_decoder_layer():
    config = laid_over({"grid": {"methods": ["unstructured_sparsegpt"], "sparsities": [50]}})
    item = needs(config, described("smollm2", config.models["smollm2"]), "memory of a job")["smollm2, mask"]
    # Six layers of 576 columns and one of 1536, 4 bytes each.
    assert f"statistic of a decoder layer's inputs {4 * (6 * 576**2 + 1536**2) / 1e9:.2f}" in item.explanation


def test_an_imported_checkpoint_has_one_mask_and_one_base_for_all_tasks():
    config = laid_over(IMPORTED)
    subject = described("smollm2", config.models["smollm2"])
    kept = {item.label: item for item in disk_kept(config, [subject])}
    assert (kept["pruned bases"].bytes, kept["masks"].explanation.split()[0]) == (2 * subject.bytes, "6")
    assert jobs(config)["import_pruned"] == 2


def test_trainings_with_a_name_have_selection_rows_and_a_record_of_them():
    unnamed = {**COMPARED, "grid": {name: value for name, value in COMPARED["grid"].items() if name != "trainings"}}
    one = {**COMPARED, "grid": {**COMPARED["grid"], "trainings": {"only": {}}}}
    subject = described("smollm2", laid_over(one).models["smollm2"])

    def kept(sections: dict) -> dict[str, Item]:
        """Return what a study keeps on the disk by label."""
        return {item.label: item for item in disk_kept(laid_over(sections), [subject])}

    # Every trained run has one more evaluation, on as many rows as the one before its merge.
    more, fewer = kept(one)["evaluations"], kept(unnamed)["evaluations"]
    trained = jobs(laid_over(one))["evaluate_selection"]
    assert int(more.explanation.split()[0]) - int(fewer.explanation.split()[0]) == trained == 10
    config = laid_over(one)
    rows = sum(config.tasks[name].validation_examples * BY_NAME[name].lengths.bytes for name in config.grid.tasks)
    assert kept(one)["data"].bytes - kept(unnamed)["data"].bytes == rows


@pytest.mark.long
def test_the_estimate_says_how_many_programs_are_compiled():
    config = laid_over(WAFER)
    assert jobs(config)["compile_program"] == 74
    assert re.search(r"compilations.* 74\b.*\b330\b", report(config))
    without = laid_over({**WAFER, "cerebras": {"compile_once": False}})
    assert "compile_program" not in jobs(without)
    assert re.search(r"compilations.*within each training", report(without))


def test_without_a_dense_run_there_is_no_job_for_its_mask():
    found = jobs(laid_over({"grid": {"sparsities": [50]}}))
    assert "compute_one_mask" not in found
    assert found["merge_adapter"] == found["train_adapter"] + 3  # three methods, not trained


@pytest.fixture
def tiny(small_study) -> tuple[Study, Config]:
    """The finished study, with its configuration."""
    raw = yaml.safe_load((small_study.folder / "study.yaml").read_text())
    return small_study, laid_over(raw)


def test_masks_adapters_and_models_have_the_bytes_of_the_files(tiny):
    study, config = tiny
    subject = described("llama", config.models["llama"])
    masks = sorted(path.stat().st_size for path in study.folder.glob("masks/llama/*.pt"))
    assert sorted(mask_sizes(config, subject)) == masks
    assert len(masks) == 3
    adapters = [path.stat().st_size for path in study.folder.glob("results/runs/*/adapter/adapter_model.safetensors")]
    assert set(adapters) == {safetensors_bytes(adapter_shapes(config, subject, "boolq_mini"), "F32")}
    models = [path.stat().st_size for path in study.folder.glob("**/model.safetensors")]
    assert set(models) == {subject.bytes}
    kept = {item.label: item.bytes for item in disk_kept(config, [subject])}
    assert kept["models"] + kept["merged models"] == sum(models)
    assert (kept["masks"], kept["adapters"]) == (sum(masks), sum(adapters))
    records = [path.stat().st_size for name in ("evaluation", "before_merge")
               for path in study.folder.glob(f"results/runs/*/{name}.json")]  # fmt: skip
    assert kept["evaluations"] == pytest.approx(sum(records), rel=0.1)
    assert kept["data"] == pytest.approx(
        sum(path.stat().st_size for path in study.folder.glob("data/*/*.jsonl")), rel=0.02
    )


def test_the_masks_of_a_task_differ_from_the_estimate_by_the_words_in_them_alone(tmp_path, tiny):
    study, _ = tiny
    methods = ["unstructured_taylor", "unstructured_owl", "semistructured_wanda"]
    succeed("compute_masks.py", model_path=study.folder / "models/llama", output_dir=tmp_path, sparsity=0.5, method=methods,
            task="boolq_mini", data_dir=study.folder / "data/boolq_mini", calibration_examples=4)  # fmt: skip
    config = laid_over({"models": {"llama": {"source": f"path:{study.folder / 'models/llama'}"}},
                        "grid": tiny_grid("llama", "boolq_mini", methods) | {"sparsities": [50]}})  # fmt: skip
    found = [(tmp_path / f"masks_sparsity50_{method}.pt").stat().st_size for method in sorted(methods)]
    assert mask_sizes(config, described("llama", config.models["llama"])) == pytest.approx(found, rel=0.01)


def test_the_masks_on_a_text_have_the_bytes_of_the_files(tmp_path, tiny):
    study, _ = tiny
    (tmp_path / "web.txt").write_text("The cat sat on the mat. " * 40)
    succeed("prepare_text.py", text=tmp_path / "web.txt", output=tmp_path / "texts/web.jsonl")
    methods = [
        "unstructured_owl_on_web",
        "unstructured_sparsegpt_owl_on_web",
        "structured_taylor_on_web",
        "semistructured_wanda_on_web",
    ]
    succeed("compute_masks.py", model_path=study.folder / "models/llama", output_dir=tmp_path, sparsity=0.5, method=methods,
            text=tmp_path / "texts/web.jsonl", calibration_examples=4, calibration_length=16, pruned_dir=tmp_path / "pruned")  # fmt: skip
    config = laid_over({"models": {"llama": {"source": f"path:{study.folder / 'models/llama'}"}},
                        "masks": {"calibration": {"web": {"text": "web.txt", "examples": 4, "length": 16}}},
                        "grid": tiny_grid("llama", "boolq_mini", methods) | {"sparsities": [50]}})  # fmt: skip
    found = [(tmp_path / f"masks_sparsity50_{method}.pt").stat().st_size for method in sorted(methods)]
    assert sorted(mask_sizes(config, described("llama", config.models["llama"]))) == sorted(found)


def test_the_adapter_of_some_projections_has_those_alone(tiny):
    _, config = tiny
    subject = described("llama", config.models["llama"])
    tasks = {"boolq_mini": {"train_examples": 4, "validation_examples": 4, "training": {"lora_targets": ["q_proj"]}}}
    shapes = adapter_shapes(laid_over({"tasks": tasks, "training": {"lora_r": 4}}), subject, "boolq_mini")
    layers = [f"base_model.model.model.layers.{n}.self_attn.q_proj.lora_" for n in range(2)]
    assert shapes == {
        f"{layer}{name}.weight": shape for layer in layers for name, shape in (("A", (4, 32)), ("B", (32, 4)))
    }


# The table of docs/clusters.md, section "The full study".
@pytest.mark.long
def test_the_sweep_takes_what_the_docs_say():
    config = laid_over(SWEEP)
    models = [described(name, config.models[name]) for name in config.grid.models]
    kept = {item.label: item.bytes / 1e9 for item in disk_kept(config, models)}
    assert sum(jobs(config).values()) == 2171
    assert kept == {"models": pytest.approx(28, abs=0.1), "masks": pytest.approx(52, abs=0.2),
                    "adapters": pytest.approx(54, abs=0.2), "data": pytest.approx(0.03, abs=0.01),
                    "evaluations": pytest.approx(1.2, abs=0.05)}  # fmt: skip
    assert all(item.bytes < 48e9 for item in memory(config, models)["memory of a job, on its GPU"])  # 80 GB are enough


@pytest.mark.long
def test_720_cells_of_two_7b_models_keep_less_than_200_gb_and_no_merged_model():
    config = laid_over({**SWEEP, "grid": {**SWEEP["grid"], "seeds": [0, 1]}})
    cells = math.prod(len(values) for values in vars(config.grid).values() if values)
    models = [described(name, config.models[name]) for name in config.grid.models]
    kept = {item.label: item.bytes for item in disk_kept(config, models)}
    assert (cells, "merged models" in kept) == (720, False)
    assert 150e9 < sum(kept.values()) < 200e9
    together = next(line for line in report(config).splitlines() if line.startswith("  together"))
    assert float(together.split()[1]) == pytest.approx(sum(kept.values()) / 1e9, abs=0.01)


@pytest.mark.parametrize("name", ["boolq_mini", "hellaswag_mini", "gsm8k_mini"])
def test_a_task_has_as_many_choices_as_the_estimate_counts(name):
    task = BY_NAME[name]
    choices = task.choices(task.generate("validation", 1, 0)[0]) if task.choices else []
    assert len(choices) == task.lengths.choices == BY_NAME[name.removesuffix("_mini")].lengths.choices


def needs(config: Config, subject: Subject, title: str) -> dict[str, Item]:
    """The rows of a table of one model's jobs by name."""
    return {item.label: item for item in memory(config, [subject])[title]}


def test_scores_and_masks_of_weights_alone_are_in_the_machine_s_memory_not_in_the_gpu_s():
    gpu, machine = "memory of a job, on its GPU", "memory of a job, in the machine"
    for methods, there in ((["unstructured"], False), (["unstructured_taylor"], True)):
        config = laid_over({"grid": {"methods": methods}, "resources": {"gpus": 1}})
        subject = described("smollm2", config.models["smollm2"])
        assert ("smollm2, mask" in needs(config, subject, gpu)) is there
        assert "smollm2, mask" in needs(config, subject, machine)
    assert "scores" not in needs(config, subject, gpu)["smollm2, mask"].explanation
    scores = 4 * subject.prunable_weights
    before = subject.width * subject.weights  # not both at a time
    assert needs(config, subject, machine)["smollm2, mask"].bytes == max(scores, before) + 600_000_000
    alone = needs(laid_over({"grid": {"methods": methods}}), subject, "memory of a job")["smollm2, mask"].bytes
    assert alone == needs(config, subject, gpu)["smollm2, mask"].bytes + scores + 600_000_000


def test_wanda_keeps_the_hidden_states_of_examples_of_mean_length_where_it_is_sequential():
    def mask(**masks: object) -> int:
        tasks = {"boolq": {"train_examples": 200}}
        grid = {"tasks": ["boolq"], "methods": ["unstructured_wanda"]}
        config = laid_over({"tasks": tasks, "grid": grid, "masks": masks})
        return needs(config, described("smollm2", config.models["smollm2"]), "memory of a job")["smollm2, mask"].bytes

    # fp32; 128 examples of 140 tokens in the mean, not of 450; 576 numbers of state, cosine and sine of 64 each
    matrix = 12 * 1536 * 576
    # The weights of 29 of the 30 decoder layers are on the disk.
    in_memory = OUTER + DECODER_LAYER
    states = 128 * 140 * (576 + 2 * 64)
    assert mask() == 4 * (in_memory + states) + NORMS + matrix + 600_000_000
    assert mask(sequential=False) == mask() - matrix + 30 * NORMS


@pytest.mark.parametrize(
    ("importance", "label", "size"),
    [
        # Two sums of 8 bytes per input.
        ("stade", "statistic of a decoder layer's inputs", 2 * 8 * (6 * 576 + 1536)),
        # A sum of 4 bytes per weight.
        ("fisher", "scores", 4 * 30 * (2 * 576**2 + 2 * 192 * 576 + 3 * 1536 * 576)),
    ],
)
def test_the_memory_of_a_statistic_follows_from_its_shape_and_dtype(importance, label, size):
    config = laid_over({"grid": {"methods": [f"unstructured_{importance}"]}})
    need = mask_memory(
        config, described("smollm2", config.models["smollm2"]), "boolq_mini", f"unstructured_{importance}"
    )
    assert (need.model | need.machine)[label] == size


def test_owl_runs_the_model_also_where_magnitude_only_reads_its_file():
    def mask(method: str) -> Item:
        config = laid_over({"grid": {"methods": [method]}})
        return needs(config, described("smollm2", config.models["smollm2"]), "memory of a job")["smollm2, mask"]

    assert "blocks of a matrix" in mask("unstructured").explanation
    assert "hidden states of the examples" in mask("unstructured_owl").explanation
    # The sequential pass after it also holds a matrix.
    assert mask("unstructured_owl").bytes == mask("unstructured_wanda").bytes - 12 * 1536 * 576 + 30 * NORMS
    assert mask("unstructured_wanda_owl") == mask("unstructured_wanda")
    assert mask("unstructured_taylor_owl") == mask("unstructured_taylor")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse"])
def test_activations_are_what_autograd_keeps(tiny_models, name, mode):
    checkpoint = Checkpoint(tiny_models[name])
    mask = compute_masks(checkpoint, "unstructured", [50])[50]
    model, _, layers = adapted_model(checkpoint, mask, mode, Training(lora_r=1), torch.device("cpu"))
    ids = torch.randint(0, 250, (2, 60))  # 60: within Mistral's window
    kept = bytes_kept_for_backward(model, layers, ids)
    a_layer = activation_bytes(described(name, Model(source=f"path:{checkpoint.folder}"))) * ids.numel()
    assert kept == pytest.approx(2 * a_layer, rel=0.2)


def bytes_kept_for_backward(model: torch.nn.Module, layers: dict[str, LoRALinear], ids: torch.Tensor) -> int:
    """Of every storage that the decoder's forward saves, but the model's own."""
    own = [*model.parameters(), *model.buffers(), *(layer.weight for layer in layers.values())]
    known, found = {tensor.untyped_storage().data_ptr() for tensor in own}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_decoder()(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in known)


def test_checkpointing_and_cached_weights_change_the_memory_by_what_they_keep(tiny):
    _, config = tiny
    subject = described("llama", config.models["llama"])

    def training(**settings: object) -> float:
        changed = laid_over(
            {"training": {"batch_size": 64, "micro_batch_size": 32, **settings}, "resources": {"processes": 2}}
        )
        return needs(changed, subject, "memory of a job")["llama, training, each of 2 processes"].bytes

    assert training(gradient_checkpointing=True) < training()
    assert training(cache_weights=True) - training() == subject.width * (subject.prunable_weights - 32 * 48)


DECODER_LAYER = 2 * 576 * (576 + 192) + 3 * 576 * 1536 + 2 * 576  # of smollm2: attention, MLP, norms
OUTER = 49152 * 576 + 576  # embedding, which is also the output head, and norm
NORMS = 8 * (6 * 576 + 1536)  # bytes of the norms of the inputs of a decoder layer: 8 per column


@pytest.mark.parametrize("processes", [2, 4])
def test_a_divided_model_has_a_decoder_layer_once_and_the_embedding_twice_beside_its_part(processes):
    settings = {"batch_size": 32, "micro_batch_size": 4}
    name = f"smollm2, training, each of {processes} processes"
    found = []
    for shard in (False, True):
        config = laid_over({"training": settings | {"shard_model": shard}, "resources": {"processes": processes}})
        subject = described("smollm2", config.models["smollm2"])
        found.append(needs(config, subject, "memory of a job")[name].bytes)
    whole, divided = found
    assert whole - divided == 4 * (subject.weights - subject.weights // processes - DECODER_LAYER - 2 * OUTER)


def test_the_script_prints_the_plan_without_torch_and_without_a_model(tmp_path):
    code = "import runpy, sys; sys.argv = sys.argv[1:]; "
    code += "\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\nfinally: print('torch' in sys.modules)"
    command = [
        sys.executable,
        "-c",
        code,
        ROOT / "workflow/scripts/estimate.py",
        "--configfile",
        ROOT / "config/sweep.yaml",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ESTIMATE, ")
    assert "runs: 498, of which 330 are trained" in lines
    assert lines[-1] == "False"
    assert list(tmp_path.iterdir()) == []


def test_a_later_file_lies_over_an_earlier_one_key_by_key_and_lists_whole(tmp_path):
    (tmp_path / "a.yaml").write_text("grid: {sparsities: [0, 10, 20], seeds: [0, 1]}\n")
    (tmp_path / "b.yaml").write_text("grid: {sparsities: [50]}\n")
    said = succeed("estimate.py", configfile=[tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert "runs: 9, of which 6 are trained" in said  # 3 methods x (1 mode x 2 seeds + 1)


@pytest.mark.long
@pytest.mark.parametrize(("text", "line"), [
    ("grid: [", "c.yaml, line 1: not YAML"),
    ("[" * 10**4, "c.yaml: not YAML"),
    ("- a\n", "c.yaml: holds no sections"),
    ("grid: {models: [x]}\n", "grid asks for model 'x'"),
    ("models: {smollm2: {source: 'hub:a/b', sha256: null}}\n", "models.smollm2: the sizes of hub:a/b"),
])  # fmt: skip
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path, text, line):
    (tmp_path / "c.yaml").write_text(text)
    code, said = call_script("estimate.py", configfile=tmp_path / "c.yaml")
    assert (code, said.count("\n")) == (2, 1), said
    assert line in said


@pytest.mark.parametrize(("changes", "fault"), [
    ({"hidden_size": "576"}, "hidden_size is '576'"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"num_key_value_heads": -1}, "num_key_value_heads is -1"),
    ({"vocab_size": None}, "vocab_size"),
    ({"architectures": {"a": 1}}, "architecture none"),
    ({"architectures": [{}]}, "architecture {}"),
])  # fmt: skip
def test_a_damaged_config_json_is_one_line(tmp_path, tiny_models, changes, fault):
    shutil.copy(tiny_models["llama"] / "config.json", tmp_path)
    change_json(tmp_path / "config.json", **changes)
    line = estimate_refused(tmp_path)
    assert line.startswith(f"error: {tmp_path}: ")
    assert fault in line


@pytest.mark.parametrize(
    "content", ['{"hidden_size": ', "[1]", '{"a": ' + "[" * 10**5, "\ud800".encode(errors="surrogatepass")]
)
def test_a_config_json_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert estimate_refused(tmp_path).startswith(f"error: {tmp_path}/config.json: ")


def estimate_refused(model: Path) -> str:
    """The line with which estimate.py refuses a study of a model."""
    (model / "c.yaml").write_text(yaml.safe_dump({"models": {"smollm2": {"source": f"path:{model}", "sha256": None}}}))
    code, said = call_script("estimate.py", configfile=model / "c.yaml")
    assert (code, said.count("\n")) == (2, 1), said
    assert "report this line" not in said
    return said
