"""Read and check what the workflow measured. The analysis believes about a run only what these files say.

    train.json              the training; absent in mode no_finetune
    before_merge.json       the result before the merge; absent in mode no_finetune
    merge.json              hashes of what went into the merge and of what came out
    validation_report.json  every weight against the mask
    evaluation.json         the result
    selection.json          the result by which a study chooses among its trainings; only of a training with a name

Each step checks what the steps before it could not know, and checks it once:

    record_file       one file: syntax, types, ranges, and the digest that it ends with
    *_record          one file: numbers that contradict each other. The class names the fields that the analysis reads
    run_record        one folder: files of another run, results that cannot be compared, the mask and the adapter on disk
    study_records     all folders: runs that are missing

What fails here becomes a `Gap` with the reason. What is read goes to judgement.py, which follows the chain of hashes.
"""

from sparseft.analysis.records.evaluation_record import EvaluationRecord
from sparseft.analysis.records.probe_record import ProbeRecord
from sparseft.analysis.records.run_record import Gap, Record
from sparseft.analysis.records.selection_record import SelectionRecord
from sparseft.analysis.records.study_records import read_runs, study_folder
from sparseft.analysis.records.throughput_record import BatchRecord, ThroughputRecord, read_measurements
from sparseft.analysis.records.training_record import (
    DECIDING_KEYS,
    WITHOUT_EFFECT,
    ReconstructionPart,
    TrainingRecord,
)

__all__ = [
    "DECIDING_KEYS",
    "WITHOUT_EFFECT",
    "BatchRecord",
    "EvaluationRecord",
    "Gap",
    "ProbeRecord",
    "ReconstructionPart",
    "Record",
    "SelectionRecord",
    "ThroughputRecord",
    "TrainingRecord",
    "read_measurements",
    "read_runs",
    "study_folder",
]
