class UserError(RuntimeError):
    """What the caller can put right, in one sentence or two: the tools show it as one line, without a traceback."""
