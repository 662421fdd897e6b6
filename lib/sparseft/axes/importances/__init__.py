"""List the importances. To add one, write its file and put it into the table."""

from sparseft.axes.importances.activation import ACTIVATION
from sparseft.axes.importances.block_influence import BLOCK_INFLUENCE
from sparseft.axes.importances.ean import EAN
from sparseft.axes.importances.fisher import FISHER
from sparseft.axes.importances.flap import FLAP
from sparseft.axes.importances.frequency import FREQUENCY
from sparseft.axes.importances.gradient import GRADIENT
from sparseft.axes.importances.hessian import HESSIAN
from sparseft.axes.importances.importance import Importance, Statistic
from sparseft.axes.importances.magnitude import MAGNITUDE
from sparseft.axes.importances.obs import OBS
from sparseft.axes.importances.perplexity import PERPLEXITY
from sparseft.axes.importances.random import RANDOM
from sparseft.axes.importances.reap import REAP
from sparseft.axes.importances.ria import RIA
from sparseft.axes.importances.sparsegpt import SPARSEGPT
from sparseft.axes.importances.stade import STADE
from sparseft.axes.importances.taylor import TAYLOR
from sparseft.axes.importances.wanda import WANDA

IMPORTANCES: tuple[Importance, ...] = (MAGNITUDE, GRADIENT, TAYLOR, FISHER, WANDA, RIA, STADE, SPARSEGPT)
# Those of units only: channels and heads, experts, decoder layers.
IMPORTANCES += (ACTIVATION, FLAP, OBS, REAP, FREQUENCY, EAN, BLOCK_INFLUENCE, PERPLEXITY, RANDOM)
# The importance of a method whose name has none.
DEFAULT = MAGNITUDE

__all__ = ["DEFAULT", "HESSIAN", "IMPORTANCES", "WANDA", "Importance", "Statistic"]
