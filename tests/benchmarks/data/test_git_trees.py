"""Git's hashes of folders in archives, against git itself."""

import shutil
import subprocess
import tarfile

import pytest

from benchmarks.data import git_trees
from regvit_lightning.data.layout import DataError


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with names that git sorts in its own way, an executable file and an empty one; its archive."""
    root = tmp_path_factory.mktemp("repository")
    files = {"set/a.txt": "a", "set/a/b.txt": "b", "set/a-c": "", "set/über.jpg": "ü", "set/run": "x", "other/d": "d"}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "set/run").chmod(0o755)
    run(root, "init", "-q")
    run(root, "add", "-A")
    run(root, "-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c")
    run(root, "archive", "--prefix=name-123/", "-o", "archive.tar.gz", "HEAD")
    return root


def run(root, *words):
    return subprocess.run(["git", "-C", root, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_hash_of_a_folder_is_gits(repository):
    trees = {folder: run(repository, "rev-parse", f"HEAD:{folder}") for folder in ("set", "set/a", "other")}
    counts = []
    git_trees.check(repository / "archive.tar.gz", trees, lambda *count: counts.append(count))
    assert counts[-1] == (6, 6)


@pytest.mark.parametrize("change", ["content", "name", "mode", "missing", "added"])
def test_any_other_file_is_refused(repository, tmp_path, change):
    folder = tmp_path / "name-123"
    with tarfile.open(repository / "archive.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    file = folder / "set/a/b.txt"
    if change == "content":
        file.write_text("B")
    elif change == "name":
        file.rename(file.with_name("c.txt"))
    elif change == "mode":
        file.chmod(0o755)
    elif change == "missing":
        file.unlink()
    else:
        shutil.copy(file, folder / "set/more.txt")
    with tarfile.open(tmp_path / "changed.tar", "w") as tar:
        tar.add(folder, "name-123")
    git_trees.check(tmp_path / "changed.tar", {"other": run(repository, "rev-parse", "HEAD:other")})
    expected = run(repository, "rev-parse", "HEAD:set")
    with pytest.raises(DataError, match=rf"set is not the published one: git's hash of its \d files is not {expected}"):
        git_trees.check(tmp_path / "changed.tar", {"set": expected})
