"""The one exception that the programs turn into a line for the user."""


class UserError(Exception):
    """A user's mistake or a missing input, told in one line: what is wrong, where, and what to do.

    The programs print the message and exit with status 2; everything else is a defect and keeps its traceback.
    """
