"""How many workers decode, how much waits in shared memory, and micro-batches that are read in parts."""

import subprocess
import sys
import warnings
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from regvit_lightning.data import workers
from regvit_lightning.data.module import InParts, Loading, Streamed, joined
from regvit_lightning.data.stream import Stream, StreamSampler
from regvit_lightning.errors import Notice
from regvit_lightning.pretrain import fit
from regvit_lightning.pretrain.data import PretrainingData
from tests.pretrain import test_openclip
from tests.pretrain.dinov2 import test_run

MIB = 2**20


@given(st.integers(1, 200), st.integers(1, 10**9), st.integers(0, 10**11))
def test_what_waits_is_within_the_budget_and_no_less_than_it_allows(wanted, size, budget):
    number, prefetch = workers.affordable(wanted, size, budget)
    assert number <= wanted
    assert prefetch <= 2
    assert number * prefetch * size <= budget
    best = max((n * p for n in range(1, wanted + 1) for p in (1, 2) if n * p * size <= budget), default=0)
    assert (number == wanted and prefetch >= 1) or number == best


def test_published_recipes_by_hand():
    """OpenCLIP: 256 images of 3 × 224², 12 × 2 batches: 0.86 GiB; whole shares of 8 GPUs took 14.2 GiB on each."""
    image = 3 * 224**2
    assert workers.affordable(12, 256 * image, workers.MOST_BYTES) == (12, 2)
    assert 12 * 2 * 256 * image / 2**30 == pytest.approx(0.86, abs=0.005)
    assert 12 * 2 * 33792 * image / 2**30 == pytest.approx(113.7, abs=0.1)
    assert workers.affordable(12, 256 * image, 64 * MIB) == (1, 1)  # a container's usual /dev/shm
    assert workers.affordable(12, 256 * image, 32 * MIB) == (0, 0)


def options_of(wanted, size, monkeypatch, there=16, free=2**40):
    """Options for batches of 10 samples of `size` bytes, and the lines that were said."""
    monkeypatch.setattr(workers, "processors", lambda: there)
    monkeypatch.setattr(workers, "free_shared_memory", lambda: free)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = workers.worker_options(wanted, lambda: {"image": torch.zeros(size, dtype=torch.uint8)}, 10, None)
    assert all(issubclass(one.category, Notice) for one in caught)
    return (options["num_workers"], options.get("prefetch_factor")), [str(one.message) for one in caught]


def test_what_is_lowered_is_said(monkeypatch):
    assert options_of(12, MIB, monkeypatch) == ((12, 2), [])
    assert options_of(0, MIB, monkeypatch, there=2) == ((0, None), [])
    line = "workers=12: 2 decode images for each device, as there are 2 processors"
    assert options_of(12, MIB, monkeypatch, there=2) == ((2, 2), [line])
    found, (line,) = options_of(12, MIB, monkeypatch, free=200 * MIB)
    assert found == (12, 1)
    assert line.startswith("12 workers with 2 batches of 10.0 MiB need 240.0 MiB of shared memory, above 160.0 MiB: ")
    assert "12 with 1 decode images; a lower device_batch or more shared memory (docker run --shm-size)" in line
    assert options_of(12, MIB, monkeypatch, free=63 * MIB)[0] == (5, 1)
    found, (line,) = options_of(12, MIB, monkeypatch, free=8 * MIB)
    assert found == (0, None)
    assert "the main process decodes images" in line
    assert options_of(12, 50 * MIB, monkeypatch)[0] == (4, 1)  # 2 GiB on each device, however much is free


def test_processors_are_those_of_the_process_and_of_its_container(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: set(range(24)))
    assert workers.processors() == 24
    for text, there in (("max 100000", 24), ("150000 100000", 2), ("9900000 100000", 24), ("10 100000", 1), ("?", 24)):
        (tmp_path / "cpu.max").write_text(text)
        assert workers.processors() == there


@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(1, 14))
def test_parts_joined_are_the_micro_batches(share, accumulate, world, start, most):
    stream = Stream(10, share * accumulate * world, steps=4, seed=1)
    for rank in range(world):
        whole = list(StreamSampler(stream, accumulate, rank, world, start))
        sampler = StreamSampler(stream, accumulate, rank, world, start, most)
        parts = list(sampler)
        assert max(map(len, parts), default=0) <= most
        count = -(-share // most)
        assert [list(chain(*parts[i : i + count])) for i in range(0, len(parts), count)] == whole
        assert len(sampler) == 4 * accumulate * count


def test_joined_by_hand():
    batches = [{"image": {"a": torch.tensor([[i]])}, "bad": torch.arange(i)} for i in range(3)]
    both = joined(batches)
    assert both["image"]["a"].tolist() == [[0], [1], [2]]
    assert both["bad"].tolist() == [0, 0, 1]


def test_a_loader_in_parts_has_the_length_of_its_micro_batches():
    loader = InParts(DataLoader(torch.arange(12), batch_size=2), 3)
    assert len(loader) == 2
    assert [torch.cat(step.batches).tolist() for step in loader] == [[*range(6)], [*range(6, 12)]]


class Seen(Callback):
    """Keeps the loader, and the images of every step."""

    def __init__(self):
        self.batches = []

    def on_train_start(self, trainer, *_):
        self.loader = trainer.train_dataloader

    def on_train_batch_start(self, trainer, module, batch, _):
        self.batches.append(batch["image"])


@pytest.mark.parametrize(("prepare", "size"), [(test_openclip.prepare, 4), (test_run.prepare, 16)])
def test_large_steps_are_decoded_in_parts_of_a_device_batch_and_are_the_same_images(tiny, tmp_path, prepare, size):
    run, seen = (
        prepare(tiny, tmp_path, f"batch_size={size}", f"device_batch={size // 2}", "trainer.fast_dev_run=2"),
        Seen(),
    )
    fit.fit(run, [seen])
    assert isinstance(seen.loader, InParts)
    assert seen.loader.parts == 2
    images = PretrainingData(run.settings, tiny, run.seed)
    images.setup("fit")
    recipe = fit._recipe(run, images.num_classes, images.steps)
    stream = Stream(len(images.files), size, images.steps, run.seed, recipe.repeats)
    data = recipe.dataset(images.files)
    for batch, draws in zip(seen.batches, StreamSampler(stream), strict=False):
        whole = recipe.collate([data[draw] for draw in draws])["image"]
        parts = (batch, whole) if isinstance(whole, torch.Tensor) else (batch["global"], whole["global"])
        assert len(parts[0]) == size
        assert torch.equal(*parts)


def test_a_frozen_evaluation_has_no_more_workers_than_processors(monkeypatch):
    monkeypatch.setattr(workers, "processors", lambda: 1)
    module = Streamed(Loading(12, 4), test=[torch.zeros(8, 3)])
    with pytest.warns(Notice, match="workers=12: 1 decode images"):
        (loader,) = module.test_dataloader()
    assert loader.num_workers == 1


LEFT_BEHIND = """
import torch
from torch.utils.data import DataLoader
from regvit_lightning.data.workers import worker_options

class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 9
    def __getitem__(self, index):
        if index == 5:
            raise OSError("truncated")
        return torch.zeros(1)

rows = iter(DataLoader(Broken(), **worker_options(1, lambda: torch.zeros(1), 1, None)))
try:
    list(rows)
except OSError as error:
    kept = error  # its traceback refers to the iterator
print("told")
"""


def test_a_process_ends_whose_workers_are_left_behind_by_an_error():
    ended = subprocess.run([sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stdout) == (0, "told\n"), ended.stderr
