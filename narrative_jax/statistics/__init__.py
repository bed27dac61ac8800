"""L1: confidence intervals, agreement between raters, and identity of characters, as pure functions on arrays."""

from narrative_jax.statistics.agreement import alpha_interval as alpha_interval
from narrative_jax.statistics.agreement import calibration_by_chance as calibration_by_chance
from narrative_jax.statistics.agreement import calibration_error as calibration_error
from narrative_jax.statistics.agreement import krippendorff_alpha as krippendorff_alpha
from narrative_jax.statistics.agreement import majority as majority
from narrative_jax.statistics.agreement import pairwise_agreement as pairwise_agreement
from narrative_jax.statistics.intervals import Interval as Interval
from narrative_jax.statistics.intervals import paired_bootstrap as paired_bootstrap
from narrative_jax.statistics.intervals import paired_share as paired_share
from narrative_jax.statistics.intervals import wilson as wilson
from narrative_jax.statistics.intervals import win_rate as win_rate
from narrative_jax.statistics.matching import copy_paste as copy_paste
from narrative_jax.statistics.matching import match_characters as match_characters
from narrative_jax.statistics.matching import matched_similarity as matched_similarity
from narrative_jax.statistics.matching import non_matched_similarity as non_matched_similarity
