"""Texts of settings that are more than any text."""


def folder(text: str) -> str:
    """Path of a folder.

    Raises:
        ValueError: it is empty or blank.
    """
    if not text.strip():
        raise ValueError("expected a folder; . is the current one")
    return text
