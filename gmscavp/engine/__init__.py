"""Running configs: reading them, the runner, hooks, what the tools share."""
