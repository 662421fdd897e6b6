"""List the importances. To add one, write its file and put it into the table."""

from sparseft.importances.activation import ACTIVATION
from sparseft.importances.block_influence import BLOCK_INFLUENCE
from sparseft.importances.ean import EAN
from sparseft.importances.fisher import FISHER
from sparseft.importances.flap import FLAP
from sparseft.importances.frequency import FREQUENCY
from sparseft.importances.gradient import GRADIENT
from sparseft.importances.hessian import HESSIAN
from sparseft.importances.importance import Importance, Statistic
from sparseft.importances.magnitude import MAGNITUDE
from sparseft.importances.obs import OBS
from sparseft.importances.perplexity import PERPLEXITY
from sparseft.importances.random import RANDOM
from sparseft.importances.reap import REAP
from sparseft.importances.ria import RIA
from sparseft.importances.sparsegpt import SPARSEGPT
from sparseft.importances.stade import STADE
from sparseft.importances.taylor import TAYLOR
from sparseft.importances.wanda import WANDA

IMPORTANCES: tuple[Importance, ...] = (MAGNITUDE, GRADIENT, TAYLOR, FISHER, WANDA, RIA, STADE, SPARSEGPT)
# Those of units only: channels and heads, experts, decoder layers.
IMPORTANCES += (ACTIVATION, FLAP, OBS, REAP, FREQUENCY, EAN, BLOCK_INFLUENCE, PERPLEXITY, RANDOM)
# The importance of a method whose name has none.
DEFAULT = MAGNITUDE

__all__ = ["DEFAULT", "HESSIAN", "IMPORTANCES", "WANDA", "Importance", "Statistic"]
