from tiny_runs import configs, trained  # noqa: F401  fixtures of a whole session
