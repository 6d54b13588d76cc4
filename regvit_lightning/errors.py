"""The exceptions that the programs turn into a line for the user."""


class UserError(Exception):
    """A user's mistake or a missing input, told in one line: what is wrong, where, and what to do.

    The programs print the message and exit with status 2; everything else is a defect and keeps its traceback.
    """

    def __str__(self) -> str:
        text = super().__str__()
        # A DataLoader hands an error of its worker processes on with the worker's traceback; the message comes last.
        _, wrapped, traceback = text.partition("\nOriginal Traceback")
        return traceback.strip().splitlines()[-1].partition(": ")[2] if wrapped else text


class Notice(UserWarning):
    """Something that was decided for the user, in one line; the programs print it as a line, a caller may filter it."""


class Stopped(BaseException):
    """A signal ended the work, and what was done is kept. No `Exception`: nothing else may be begun after it.

    Args:
        message: what is kept and how to go on, in one line.
        number: of the signal.

    Attributes:
        status: exit status of the program, 128 + number, as shells have it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
