"""The trainings of a grid: their names, their runs, their schedules, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from project import DEFAULT, laid_over
from sparseft.errors import InputError
from sparseft.study import grid, targets
from sparseft.study.config import Config
from sparseft.study.grid import METHODS, MODES, NO_FINETUNE, SEEDS, Cell, Run

NAMES = {"short": {"steps": 10}, "long": {"steps": 30, "learning_rate": 5e-4}}
STOP = {"stop_if_loss_above": 8.0, "stop_if_after_steps": 5}
NAME = st.from_regex(rf"(?:{grid.TRAINING})?", fullmatch=True)
TRAINED = st.sampled_from([mode for mode in MODES if mode != NO_FINETUNE])
AXES = {
    "model": st.from_regex(grid.WILDCARDS["model"], fullmatch=True),
    "task": st.from_regex(grid.WILDCARDS["task"], fullmatch=True),
    "method": st.sampled_from(METHODS),
    "sparsity": st.integers(0, 99),
}
CELLS = st.builds(Cell, **AXES, mode=TRAINED, training=NAME) | st.builds(Cell, **AXES, mode=st.just(NO_FINETUNE))


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
    path = grid.fill(grid.ResultPaths().throughput, run)
    assert path == "results/throughput/m-t-random-sparsity50-sparse_to_dense-lr1e.4.json"
    start = grid.fill(grid.ResultPaths().initial_adapter("reconstruct_to_sparse"), run)
    assert start == "results/runs/m-t-random-sparsity50-reconstruct-lr1e.4-seed3/adapter"


def test_every_trained_run_has_every_training_and_no_other_run_has_one():
    runs = all_runs(NAMES)
    assert {run.training for run in runs if run.mode == NO_FINETUNE} == {""}
    for mode in ("sparse_to_dense", "reconstruct", "reconstruct_to_sparse"):
        assert {(run.training, run.seed) for run in runs if run.mode == mode} == {
            (name, seed) for name in NAMES for seed in (0, 1)
        }


def test_another_training_adds_its_own_runs_only():
    few, more = all_runs({"short": {}}), all_runs(NAMES)
    assert few < more
    assert {run.training for run in more - few} == {"long"}
    # A study without names has the same runs under names without a training.
    assert all_runs({}) == {Run.parse(run.id.replace("-short-seed", "-seed")) for run in few}


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
        ({"step": 3}, {}, "step: unknown key"),
        ({"micro_batch_size": 3}, {}, "micro_batch_size 3 does not divide"),
        ({"lora_dropout": 0.1}, {}, "training.lora_dropout 0.1: in reconstruct"),
        ({"micro_batch_size": 4}, {"resources": {"processes": 2}, "training": {"batch_size": 4, "micro_batch_size": 2}},
         "resources.processes: 2 processes cannot share 1 micro-batches"),
        (STOP | {"steps": 5}, {}, "stop_if_after_steps 5 is not below steps 5"),
        *(({"cache_weights": True}, {"backend": backend}, r"training\.cache_weights: Cerebras") for backend in ("cerebras", "modelzoo")),
        *((STOP, {"backend": backend}, r"training\.stop_if_loss_above 8\.0: Cerebras") for backend in ("cerebras", "modelzoo")),
    ],
)  # fmt: skip
def test_an_impossible_training_is_refused_in_one_line_with_its_place(keys, sections, line):
    modes = {"modes": ["sparse_to_dense"]} if "backend" in sections else {"modes": ["reconstruct_to_sparse"]}
    with pytest.raises(InputError, match=f"grid.trainings.bad, for .*: {line}") as caught:
        laid_over({"grid": {**modes, "trainings": {"good": {}, "bad": keys}}, **sections})
    assert "\n" not in str(caught.value)


def test_throughput_measures_some_of_the_trainings():
    assert len(targets.throughput_targets(study(NAMES))) == 2 * len(targets.throughput_targets(study({})))
    some = targets.throughput_targets(study(NAMES, throughput={"trainings": ["short"]}))
    assert some
    assert all(path.endswith("-short.json") for path in some)


def test_a_reconstruction_and_a_measurement_never_stop():
    found = study({"stopping": STOP})
    assert found.schedule_of("sparse_to_dense", "boolq_mini", "stopping").stop_if_loss_above == 8.0
    assert found.schedule_of("reconstruct", "boolq_mini", "stopping").stop_if_loss_above is None
    training = found.training_of("boolq_mini", "stopping")
    assert found.throughput.schedule(training, 4).stop_if_loss_above is None
