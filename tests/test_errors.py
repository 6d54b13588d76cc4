"""What is said of processes that read images and were ended, by torch's own errors."""

import os
import signal
import sys
from dataclasses import dataclass

import pytest
from torch.utils.data import DataLoader, Dataset

from benchmarks import command
from regvit_lightning.errors import UserError, reading_failure


@dataclass
class Nothing:
    """Settings of a program without any."""


class Ends(Dataset):
    """A data set whose worker is killed, as the kernel does where memory runs out."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_told_with_memory_as_its_reason():
    with pytest.raises(RuntimeError) as told:
        list(DataLoader(Ends(), num_workers=1))
    line = str(reading_failure(told.value))
    assert line.startswith("a process that reads images was ended, ")
    assert "memory ran out: more memory, or give fewer workers= or a smaller device_batch=" in line


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are "
        "out of shared memory. Please try to raise your shared memory limit.",
        "unable to write to file </torch_12_345_0>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_12>: Success (0)",
    ],
)
def test_full_shared_memory_is_told_with_its_remedy(text):
    assert str(reading_failure(RuntimeError(text))).startswith(
        "the shared memory (/dev/shm) is full: more of it (docker"
    )


def test_other_errors_stay_as_they_are():
    assert reading_failure(RuntimeError("CUDA error: an illegal memory access")) is None
    assert reading_failure(ValueError("No space left on device")) is None


def test_programs_say_it_in_a_line(monkeypatch, capsys):
    def body(options, words):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(sys, "argv", ["reader"])
    with pytest.raises(SystemExit) as stop:
        command.run("reader", "", Nothing, body)
    assert stop.value.code == 1
    line = "reader: a process that reads images was ended, most likely by the kernel, as memory ran out: "
    assert capsys.readouterr().err.startswith(line)


def test_a_message_is_one_line_whatever_it_quotes():
    assert str(UserError("no tensor called 'a\nb\x1b[2J\u2028c'")) == "no tensor called 'a b [2J c'"
    assert str(UserError("two cells failed:\n  one\n  two")) == "two cells failed:\n  one\n  two"
