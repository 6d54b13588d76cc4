"""Exceptions that the programs report to the user in one line."""

import re

# What breaks a line or moves a terminal's cursor; BREAKING leaves the programs' own lists, with an indented line each.
CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
BREAKING = re.compile(rf"(?!\n  \S){CONTROL}")


class UserError(Exception):
    """A user's mistake or a missing input, reported in one line: what is wrong, where, and what to do.

    The programs print the message and exit with status 2; everything else is a defect and keeps its traceback.
    """

    def __str__(self) -> str:
        text = super().__str__()
        # A DataLoader re-raises an error of its worker processes with the worker's traceback; the message comes last.
        _, wrapped, traceback = text.partition("\nOriginal Traceback")
        message = traceback.strip().splitlines()[-1].partition(": ")[2] if wrapped else text
        return BREAKING.sub(" ", message)


class Notice(UserWarning):
    """An automatic decision the user should know of, in one line; the programs print it, a caller may filter it."""


class Stopped(BaseException):
    """A signal ended the work after its state was saved. Not an `Exception`: nothing else may be started after it.

    Args:
        message: what was saved and how to resume, in one line.
        number: signal number.

    Attributes:
        status: exit status of the program, 128 + number, as shells have it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


def one_line(error: BaseException) -> str:
    """First line of the message of an exception, or its class name when the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reading_failure(error: BaseException) -> UserError | None:
    """What a failure of the processes that read images means, with its remedy; None for any other error.

    torch raises them as RuntimeError at any point of the work, in words that name no remedy.
    """
    text = str(error)
    less = "fewer workers= or a smaller device_batch="
    shared = "shared memory" in text or ("/torch_" in text and "No space left" in text)
    if shared or ("DataLoader worker" in text and "Bus error" in text):
        return UserError(f"the shared memory (/dev/shm) is full: more of it (docker run --shm-size=8g), or give {less}")
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        by = "most likely by the kernel, as memory ran out" if "Killed" in text else "perhaps as memory ran out"
        return UserError(f"a process that reads images was ended, {by}: more memory, or give {less}")
    return None
