"""Durations in the notations of people and of Slurm."""

import re

NAMES = {
    3600 * 24: "d day days",
    3600: "h hr hrs hour hours",
    60: "m min mins minute minutes",
    1: "s sec secs second seconds",
}
SECONDS = {name: seconds for seconds, names in NAMES.items() for name in names.split()}
NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
PART = rf"({NUMBER})\s*([a-z]+)\s*"
CLOCK = re.compile(r"(?:([0-9]+)-)?([0-9]+)(?::([0-5]?[0-9]))?(?::([0-5]?[0-9]))?")  # days-hours:minutes:seconds


def hours(text: str) -> float:
    """Parse a duration in hours: `1.5`, `1:30`, `1:30:00`, `90m`, `1h30m`, `2 days`, and `1-12:00:00` as in Slurm.

    A plain number is hours, and `1:30` is an hour and a half, where Slurm's own options mean a minute and a half.

    Raises:
        ValueError: it is not a duration.
    """
    text = text.strip().lower()
    if re.fullmatch(NUMBER, text):
        return float(text)
    if clock := CLOCK.fullmatch(text):
        days, whole, minutes, seconds = (int(part or 0) for part in clock.groups())
        return 24 * days + whole + (60 * minutes + seconds) / 3600
    parts = re.findall(PART, text)
    if re.fullmatch(f"({PART})+", text) and all(unit in SECONDS for _, unit in parts):
        return sum(float(number) * SECONDS[unit] for number, unit in parts) / 3600
    raise ValueError("expected hours such as 1.5 or 1:30, or a duration such as 90m, 2d or 1-12:00:00")
