"""How a generator is judged while it trains: by the figures that need no other model, on the clips of validation."""

from gmscavp.evaluation.generation_metric import GenerationMetric

val_evaluator = dict(type=GenerationMetric)
test_evaluator = val_evaluator
