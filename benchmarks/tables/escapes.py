"""Texts of records and names of folders as plain text in Markdown and LaTeX, in which they begin no markup or line."""

import re

from regvit_lightning.values.strict_json import CONTROL

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {sign: rf"\{sign}" for sign in "&%$#_{}"}
# What begins markup in the middle of a line: code, tags, links and images. A number in brackets stays as it is.
MARKUP = re.compile(r"[\\`|]|<(?=[A-Za-z/!?])|(?<=\])[(\[:]")
MENTION = re.compile(r"@(?=\w)")


def in_line(text: str) -> str:
    """Replace newlines and other control characters by spaces."""
    return CONTROL.sub(" ", text)


def in_markdown(text: str) -> str:
    """Escape text for one line or cell of GitHub's Markdown; nobody is notified by an `@name` in it."""
    return MENTION.sub("@\N{ZERO WIDTH SPACE}", MARKUP.sub(lambda match: "\\" + match[0], in_line(text)))


def in_latex(text: str) -> str:
    """Escape LaTeX's special characters."""
    return "".join(SPECIAL.get(sign, sign) for sign in in_line(text))
