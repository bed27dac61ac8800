"""What a person sees at the end of a run: a table in the terminal, and report.html with pictures, curves and costs.

Everything is read from the run directory, and what is shown follows from what is there, not from the recipe's name.
"""

from narrative_jax.report.page import write as write
