"""The one exception a user is meant to read."""


class InputError(Exception):
    """Bad input: the message is one sentence that names the file, what was found and what was expected.

    Commands print it and leave with exit code 2.
    """


class WorkError(Exception):
    """The work cannot be finished, through no fault of the input; results so far are kept. One sentence."""
