"""What a reader says of bad input: nothing, or one line."""

from regvit_lightning.errors import UserError


def complaint(read, *arguments):
    """The line of the `UserError` that a call raises, or '' if it answers; any other exception fails the test."""
    try:
        read(*arguments)
    except UserError as error:
        line = str(error)
    else:
        return ""
    assert line
    assert "\n" not in line
    assert len(line) < 2000
    return line
