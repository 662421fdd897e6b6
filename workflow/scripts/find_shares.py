"""Find how much must leave a model until it is served at a wished speed or size.

The stage is in sparseft/stages/find_shares.py."""

from sparseft.common.command import run
from sparseft.stages import find_shares

if __name__ == "__main__":
    run(find_shares.run)
