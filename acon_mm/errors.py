class UserError(RuntimeError):
    """An error that the user can correct. Tools print its text, one or two sentences, without a traceback."""
