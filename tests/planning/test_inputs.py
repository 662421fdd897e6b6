"""What a study's models, tasks and texts show before anything runs."""

import json
from pathlib import Path

import pytest
from hub_cache import write
from project import laid_over
from sparseft.errors import InputError
from sparseft.planning import inputs
from sparseft.planning.known_hashes import KnownHashes
from sparseft.planning.model_sizes import NAMED
from sparseft.study.config import Config
from tiny_models import change_json

CHAT = {"messages": [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]}
PROMPT = {"prompt": "Hi!", "response": "Hello."}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """Change into a folder with a local model of 64 tokens of context, without a chat template, and with texts and rows."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    config = NAMED["hub:huggyllama/llama-7b"] | {"max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("words")
        write(tmp_path / f"chats/{split}.jsonl", [CHAT])
        write(tmp_path / f"prompts/{split}.jsonl", [PROMPT])
    return tmp_path


def config_of(source: str = "path:model", **sections: object) -> Config:
    """Return a study of the model and of the tasks that `sections` describe."""
    models = {"mine": {"source": source, "dtype": "bfloat16"}}
    tasks = list(sections.get("tasks", {})) or ["boolq_mini"]
    grid = {**sections.pop("grid", {}), "models": ["mine"], "tasks": tasks}
    return laid_over({"models": models, **sections, "grid": grid})


def check_inputs(config: Config) -> None:
    """Check the inputs of a study without hashes of an earlier plan."""
    inputs.check_inputs(config, KnownHashes(Path("known_hashes.json")))


def prepare(folder: Path, source: str) -> None:
    """Put the small files of the fixture's model into the prepared model `mine`, whose source is `source`."""
    prepared = folder / "models/mine"
    prepared.mkdir(parents=True)
    for name in ("config.json", "tokenizer_config.json"):
        (prepared / name).write_bytes((folder / "model" / name).read_bytes())
    (prepared / "manifest.json").write_text(json.dumps({"source": source}))


@pytest.mark.parametrize("source", ["path:model", "hub:org/prepared", "hub:huggyllama/llama-7b"])
@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (
            {"tasks": {"book": {"kind": "text", "local": ".", "length": 65}}},
            r"tasks\.book\.length: windows of 65 tokens",
        ),
        ({"tasks": {"book": {"kind": "text", "local": "."}}}, r"tasks\.book\.length: windows of 512 tokens"),
        ({"perplexity": {"context": 65}}, r"perplexity\.context: windows of 65 tokens"),
    ],
)
def test_a_sequence_that_is_longer_than_the_context_is_refused(study, sections, line, source):
    if source.startswith("hub"):
        prepare(study, source)
    with pytest.raises(InputError, match=rf"^{line}, but mine takes 64; set it to at most 64$"):
        check_inputs(config_of(source, **sections))


def test_a_sequence_that_fits_is_taken_and_a_model_that_must_be_fetched_has_no_limit_yet(study):
    check_inputs(config_of(tasks={"book": {"kind": "text", "local": ".", "length": 64}}, perplexity={"context": 64}))
    check_inputs(config_of("hub:org/elsewhere", tasks={"book": {"kind": "text", "local": ".", "length": 65}}))


@pytest.mark.parametrize("source", ["path:model", "hub:org/prepared"])
def test_conversations_are_refused_for_a_model_without_a_chat_template(study, source):
    chats = {"chats": {"kind": "instruction", "local": "chats"}}
    place = "model"
    if source.startswith("hub"):
        check_inputs(config_of(source, tasks=chats))
        prepare(study, source)
        place = "models/mine"
    with pytest.raises(InputError, match=rf"^tasks\.chats: .* conversations, and {place} has no chat template; put"):
        check_inputs(config_of(source, tasks=chats))
    check_inputs(config_of(source, tasks={"prompts": {"kind": "instruction", "local": "prompts"}}))
    change_json(study / place / "tokenizer_config.json", chat_template="{{ messages }}")
    check_inputs(config_of(source, tasks=chats))
    change_json(study / place / "tokenizer_config.json", chat_template=None)
    (study / place / "chat_template.jinja").write_text("{{ messages }}")
    check_inputs(config_of(source, tasks=chats))


@pytest.mark.long
def test_a_name_that_lm_eval_does_not_have_is_refused_in_the_plan(study):
    with pytest.raises(InputError, match=r"^evaluation\.probes: lm-eval has no task 'arc_esay'; .* such as .*arc_easy"):
        check_inputs(config_of(evaluation={"probes": ["piqa", "arc_esay"]}))
    with pytest.raises(
        InputError, match=r"^tasks\.easy\.lm_eval: lm-eval has no task 'xyzzyxyzzy'; give a name of lm-eval"
    ):
        check_inputs(config_of(tasks={"easy": {"lm_eval": "xyzzyxyzzy"}}))
    # A group has the names of its members in its error, which only lm-eval itself knows.
    check_inputs(config_of(evaluation={"probes": ["arc_easy", "winogrande", "mmlu", "boolq"]}))
    prepared = study / "data/arc_esay/manifest.json"
    prepared.parent.mkdir(parents=True)
    prepared.write_text("{}")
    check_inputs(config_of(evaluation={"probes": ["arc_esay"]}))


@pytest.mark.parametrize(
    ("grid", "key"),
    [
        ({"methods": ["unstructured_wanda"]}, "masks.calibration_examples 128"),
        ({"methods": ["unstructured_owl"]}, "masks.calibration_examples 128"),
        ({"modes": ["reconstruct"]}, "reconstruction.examples 128"),
    ],
)
def test_masks_and_reconstructions_take_no_more_examples_than_a_task_has(study, grid, key):
    tasks = {"prompts": {"kind": "instruction", "local": "prompts"}}
    config = config_of(tasks=tasks, grid=grid)
    with pytest.raises(InputError, match=f"{key}: prompts has only 1 training rows"):
        check_inputs(config)
