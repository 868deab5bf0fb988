class UserError(RuntimeError):
    """An error that the user can correct. Tools print its text, one or two sentences, without a traceback."""


class DataError(UserError):
    """An error in the data of one process. In a distributed run, the process that has it prints it."""
