"""How a generator is judged while it trains: by the figures that need no other model, on the clips of validation.

Judges that are models (FD, KL, IS) and an alignment classifier are named where they are wanted: docs/evaluation.md.
"""

from gmscavp.evaluation.generation_metric import GenerationMetric

val_evaluator = dict(type=GenerationMetric)
test_evaluator = val_evaluator
