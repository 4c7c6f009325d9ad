"""What a run will cost, worked out before it is started: docs/scaling.md.

clips: what a batch looks like. counting: the work and memory of one training step, on shapes alone. tables: public figures
of accelerators, data sets and sources of clips. costs: the formulas. plan: all of it put together. In the engine, since it
plans the step that the engine's runner takes; it builds models through the registry and knows none by name.
"""
