"""The two exceptions a user is meant to read, what their sentences say of others, and which mean an interruption."""


class InputError(Exception):
    """Bad input: the message is one sentence that names the file, what was found and what was expected.

    Commands print it and leave with exit code 2.
    """


class WorkError(Exception):
    """The work cannot be finished, through no fault of the input; results so far are kept. One sentence."""


def said(error: BaseException) -> str:
    """An exception's message, or its kind; what is no Unicode in it is escaped, as no table or page can hold it."""
    try:
        text = str(error).strip()
    except Exception:  # its class is somebody else's
        text = ""
    return text.encode("utf-8", "backslashreplace").decode("utf-8") or type(error).__name__


def reason(error: BaseException) -> str:
    """The first line of an exception's message, or its kind, cut to a readable length, for use inside a sentence."""
    text = said(error).splitlines()[0].strip().rstrip(".:")
    return text if len(text) <= 200 else f"{text[:197]}..."


def is_interruption(error: BaseException) -> bool:
    """Whether an exception is Ctrl-C, or a SystemError that C code made of it while it built a result."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, KeyboardInterrupt):
            return True
        seen.add(id(cause))
        cause = cause.__cause__
    return False
