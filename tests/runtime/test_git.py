"""Questions to git are about the repository around the folder, whatever the environment names."""

import subprocess

from regvit_lightning.runtime import git


def _repository(folder, content):
    folder.mkdir()
    (folder / "file").write_text(content)
    who = ["-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", content]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def test_the_repository_of_the_folder_answers(tmp_path, monkeypatch):
    here, other = _repository(tmp_path / "here", "here"), _repository(tmp_path / "other", "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert git.output(here, "log", "--format=%s") == b"here\n"
    assert git.output(here, "hash-object", "--stdin", given=b"here") == git.output(here, "rev-parse", "HEAD:file")


def test_what_git_refuses_and_a_missing_git_are_empty(tmp_path, monkeypatch):
    assert git.output(tmp_path, "rev-parse", "HEAD") == b""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.output(tmp_path, "--version") == b""
