"""Questions to git."""

import os
import subprocess
from pathlib import Path

ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in the hooks of a repository, perhaps of another one


def output(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """What git prints about the repository around `folder`; empty where it fails or there is no git.

    Args:
        folder: in which git runs.
        arguments: of git.
        given: its standard input.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, input=given, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return b""
    return done.stdout
