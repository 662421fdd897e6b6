"""Test the trainings of a grid: their names, their runs, their schedules, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from project import DEFAULT, laid_over
from sparseft.errors import InputError
from sparseft.planning.estimate import jobs
from sparseft.study import grid, targets
from sparseft.study.config import Config
from sparseft.study.grid import METHODS, MODES, NO_FINETUNE, SEEDS, Cell, Run

NAMES = {"short": {"steps": 10}, "long": {"steps": 30, "learning_rate": 5e-4}}
NAME = st.from_regex(rf"(?:{grid.TRAINING})?", fullmatch=True)
TRAINED = st.sampled_from([mode for mode in MODES if mode != NO_FINETUNE])
AXES = {
    "model": st.from_regex(grid.WILDCARDS["model"], fullmatch=True),
    "task": st.from_regex(grid.WILDCARDS["task"], fullmatch=True),
    "method": st.sampled_from(METHODS),
    "sparsity": st.integers(0, 99),
}
CELLS = st.builds(Cell, **AXES, mode=TRAINED, training=NAME) | st.builds(Cell, **AXES, mode=st.just(NO_FINETUNE))
RUN = "results/runs/smollm2-boolq_mini-random-sparsity50-{}-seed0/evaluation.json"


def study(trainings: dict, **sections: object) -> Config:
    """Return a study with both kinds of trained modes, two seeds and these trainings."""
    shape = {"sparsities": [0, 50], "modes": ["sparse_to_dense", "reconstruct_to_sparse"], "seeds": [0, 1]}
    return laid_over({"grid": {**shape, "trainings": trainings}, **sections})


def all_runs(trainings: dict) -> set[Run]:
    return set(targets.runs(study(trainings)))


@given(CELLS, st.integers(0, SEEDS - 1))
def test_a_name_parses_back_to_what_it_is_the_name_of(cell, seed):
    run = Run(**vars(cell), seed=seed)
    assert Cell.parse(cell.id) == cell
    assert Run.parse(run.id) == run
    # A name is that of a cell or of a run, and never of both.
    for name, other in ((run.id, Cell), (cell.id, Run)):
        with pytest.raises(InputError):
            other.parse(name)


def test_the_name_of_a_training_stands_before_the_seed():
    run = Run("m", "t", "random", 50, "sparse_to_dense", 3, training="lr1e.4")
    assert run.id == "m-t-random-sparsity50-sparse_to_dense-lr1e.4-seed3"
    assert (
        grid.fill(grid.ResultPaths().throughput, run)
        == "results/throughput/m-t-random-sparsity50-sparse_to_dense-lr1e.4.json"
    )
    start = grid.fill(grid.ResultPaths().initial_adapter("reconstruct_to_sparse"), run)
    assert start == "results/runs/m-t-random-sparsity50-reconstruct-lr1e.4-seed3/adapter"


@pytest.mark.parametrize("name", ["m-t-random-sparsity50-no_finetune-long-seed0", "m-t-random-sparsity50-sparse_to_dense-a-b-seed0",
                                  "m-t-random-sparsity50-sparse_to_dense--seed0"])  # fmt: skip
def test_what_is_not_trained_has_no_training(name):
    with pytest.raises(InputError, match=r"not the name of a run; write .*-\{mode\}\[-\{training\}\]-seed"):
        Run.parse(name)


@pytest.mark.parametrize("name", ["a-b", "", "a/b", "seed0", "a b", "é"])
def test_a_name_that_no_path_could_have_is_refused_with_its_place(name):
    with pytest.raises(InputError, match="grid.trainings.*is not the name of a training; write letters"):
        study({name: {}})


def test_every_trained_run_has_every_training_and_no_other_run_has_one():
    runs = all_runs(NAMES)
    assert {run.training for run in runs if run.mode == NO_FINETUNE} == {""}
    for mode in ("sparse_to_dense", "reconstruct", "reconstruct_to_sparse"):
        assert {(run.training, run.seed) for run in runs if run.mode == mode} == {
            (name, seed) for name in NAMES for seed in (0, 1)
        }


def test_another_training_adds_its_own_runs_only_and_one_less_takes_only_these():
    few, more = all_runs({"short": {}}), all_runs(NAMES)
    assert few < more
    assert {run.training for run in more - few} == {"long"}
    # A study without names has the same runs under names without a training.
    unnamed = {Run.parse(run.id.replace("-short-seed", "-seed")) for run in few}
    assert all_runs({}) == unnamed


def test_a_training_lies_over_all_that_is_set_elsewhere():
    tasks = {"boolq_mini": {**DEFAULT["tasks"]["boolq_mini"], "training": {"steps": 7, "lora_r": 4}}}
    found = study(NAMES, tasks=tasks, training={"lora_r": 16, "weight_decay": 0.5})
    common = found.training_of("boolq_mini")
    assert (common.steps, common.lora_r, common.weight_decay) == (7, 4, 0.5)
    assert found.training_of("boolq_mini", "long") == common.model_copy(update=NAMES["long"])
    layer = found.schedule_of("reconstruct", "boolq_mini", "long")
    assert (layer.steps, layer.lora_r) == (found.reconstruction.steps, 4)


@pytest.mark.parametrize(
    ("keys", "sections", "line"),
    [
        ({"step": 3}, {}, "grid.trainings.bad, for .*: step: unknown key"),
        ({"steps": 0}, {}, "grid.trainings.bad, for .*: steps: "),
        ({"micro_batch_size": 3}, {}, "grid.trainings.bad, for .*: micro_batch_size 3 does not divide"),
        ({"lora_dropout": 0.1}, {}, "grid.trainings.bad, for .*: training.lora_dropout 0.1: in reconstruct"),
        ({"micro_batch_size": 4}, {"resources": {"processes": 2}, "training": {"batch_size": 4, "micro_batch_size": 2}},
         "grid.trainings.bad, for .*: resources.processes: 2 processes cannot share 1 micro-batches"),
    ],
)  # fmt: skip
def test_an_impossible_training_is_refused_in_one_line_with_its_place(keys, sections, line):
    with pytest.raises(InputError, match=line) as caught:
        study({"good": {}, "bad": keys}, **sections)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["cerebras", "modelzoo"])
def test_a_backend_refuses_the_training_that_it_cannot_have(backend):
    shape = {"modes": ["sparse_to_dense"], "trainings": {"good": {}, "bad": {"cache_weights": True}}}
    with pytest.raises(InputError, match=r"grid\.trainings\.bad, for .*: training\.cache_weights: Cerebras"):
        laid_over({"grid": shape, "backend": backend})


def test_throughput_measures_some_of_the_trainings():
    assert len(targets.throughput_targets(study(NAMES))) == 2 * len(targets.throughput_targets(study({})))
    some = targets.throughput_targets(study(NAMES, throughput={"trainings": ["short"]}))
    assert some
    assert all(path.endswith("-short.json") for path in some)
    with pytest.raises(InputError, match="throughput.trainings asks for best, which grid.trainings lacks"):
        study(NAMES, throughput={"trainings": ["best"]})


@pytest.mark.parametrize(
    ("trainings", "mode", "line"),
    [
        (NAMES, "sparse_to_dense-best", "training best is not in grid.trainings; write one of short, long after"),
        (NAMES, "sparse_to_dense", "it names no training; write one of short, long after sparse_to_dense-"),
        (NAMES, "no_finetune-long", "no_finetune has no training; leave -long out"),
        ({}, "sparse_to_dense-long", "your configuration names no training; leave -long out"),
    ],
)
def test_a_target_of_an_unknown_training_is_refused(trainings, mode, line):
    with pytest.raises(InputError, match=line):
        targets.check_target(study(trainings), RUN.format(mode))


def test_every_target_of_the_study_is_one():
    found = study(NAMES)
    for target in [*targets.final_targets(found), *targets.throughput_targets(found)]:
        targets.check_target(found, target)


def test_trainings_that_are_the_same_somewhere_are_said():
    sentences = study({"a": {"learning_rate": 0.1}, "b": {"learning_rate": 0.2}}).equal_trainings()
    assert sentences
    assert all("grid.trainings a and b are the same in reconstruct on" in sentence for sentence in sentences)
    assert study({"a": {"lora_r": 2}, "b": {"lora_r": 4}}).equal_trainings() == []
    assert study({}).equal_trainings() == []


def test_a_key_that_every_training_replaces_is_said_to_be_unused():
    (sentence,) = study({"a": {"steps": 3}}, training={"steps": 77}).unused_training()
    assert "training.steps 77 is used by no task" in sentence
    assert "grid.trainings.a.steps is 3" in sentence


def test_the_estimate_counts_the_trainings():
    assert jobs(study(NAMES))["train_adapter"] == 2 * jobs(study({}))["train_adapter"]
    assert jobs(study(NAMES))["compute_masks"] == jobs(study({}))["compute_masks"]


STOP = {"stop_if_loss_above": 8.0, "stop_if_after_steps": 5}


@pytest.mark.parametrize("backend", ["cerebras", "modelzoo"])
def test_a_backend_that_takes_every_step_refuses_to_stop(backend):
    with pytest.raises(InputError, match=r"training\.stop_if_loss_above 8\.0: Cerebras' backends take every step"):
        laid_over({"grid": {"modes": ["sparse_to_dense"]}, "training": STOP, "backend": backend})


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"stop_if_loss_above": 8.0}, "stop_if_loss_above and stop_if_after_steps need each other"),
        ({"stop_if_after_steps": 5}, "stop_if_loss_above and stop_if_after_steps need each other"),
        (STOP | {"steps": 5}, "stop_if_after_steps 5 is not below steps 5"),
        (STOP | {"stop_if_loss_above": 0}, "stop_if_loss_above: "),
    ],
)
def test_a_stop_that_could_not_work_is_refused(keys, line):
    with pytest.raises(InputError, match=line):
        study({"bad": keys})


def test_a_reconstruction_and_a_measurement_never_stop():
    found = study({"stopping": STOP})
    assert found.schedule_of("sparse_to_dense", "boolq_mini", "stopping").stop_if_loss_above == 8.0
    assert found.schedule_of("reconstruct", "boolq_mini", "stopping").stop_if_loss_above is None
    training = found.training_of("boolq_mini", "stopping")
    assert found.throughput.schedule(training, 4).stop_if_loss_above is None
