"""Evaluation: pure functions of embeddings, their MMEngine adapters, the report."""
