"""Train the adapter of one run with Cerebras ModelZoo's Trainer.

    train_modelzoo.py --run_id llama-boolq-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/llama \\
        --mask_path masks/llama/masks_sparsity50_unstructured.pt --exported modelzoo/llama/sparsity50_unstructured \\
        --data_dir data/boolq --output_dir RUN_FOLDER

MODELZOO_HOME names the checkout of ModelZoo, with its .venv. It writes adapter/ and train.json, as train.py does, the Trainer's
configuration, trainer.yaml, and its logs, modelzoo/. A killed run continues from the last complete checkpoint in
RUN_FOLDER/modelzoo.
"""

import argparse
from pathlib import Path

from sparseft.backends.modelzoo.trainer_run import trainer_run
from sparseft.backends.modelzoo.training import remove_states, train
from sparseft.errors import run_script
from sparseft.language_model.hardware import limit_threads
from sparseft.storage.locks import hold
from sparseft.study.backends.cerebras import Cerebras
from sparseft.study.backends.modelzoo import check_schedule
from sparseft.study.config import add_flags
from sparseft.study.section import parse_section
from sparseft.training.job import add_job_flags, check_outputs, job_flags_of, job_of, write_train_record


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_flags(parser)
    parser.add_argument(
        "--exported", type=Path, required=True, help="the masked checkpoint, as export_modelzoo.py writes it"
    )
    add_flags(parser, Cerebras, Cerebras.flags())
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    limit_threads(args.threads)
    check_outputs(job_flags_of(args), args.exported)
    cerebras = parse_section(Cerebras, {name: getattr(args, name) for name in Cerebras.flags()}, "cerebras")
    job = job_of(job_flags_of(args))
    check_schedule(cerebras, job.settings, job.evaluation_batch_size)
    hold(args.output_dir / "adapter")
    record = train(trainer_run(job, cerebras, args.exported, args.output_dir))
    write_train_record(job_flags_of(args), job, record)
    remove_states(args.output_dir)
    return 0


if __name__ == "__main__":
    run_script(main)
