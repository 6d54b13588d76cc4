"""Git queries."""

import os
import subprocess
from pathlib import Path

ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in the hooks of a repository, possibly another one


def output(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """Output of a git command on the repository around `folder`; empty if it fails or git is not installed.

    Args:
        folder: working directory of git.
        arguments: command-line arguments of git.
        given: standard input of git.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, input=given, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return b""
    return done.stdout
