"""Agreement of processes on a flag: all get the same answer at the same call, one call later, and none waits."""

import multiprocessing
from types import SimpleNamespace

import torch
from torch import distributed

from regvit_lightning.runtime.agreement import Agreement

FORK = multiprocessing.get_context("fork")
RAISED = {0: [0, 0, 0, 1, 0, 0, 1, 0], 1: [0, 1, 0, 0, 0, 0, 1, 0]}


def answers(rank, rendezvous, gate, results):
    """What a process is told when it raises its flags; the second one starts when the first has had its answer."""
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    agreement, trainer, told = Agreement(), SimpleNamespace(world_size=2), []
    agreement._group = distributed.new_group(backend="gloo")
    for number, flag in enumerate(RAISED[rank]):
        if number == 0 and rank == 1:
            assert gate.wait(60), "the first process waits for this one"
        told.append(agreement.any(trainer, bool(flag)))
        if number == 0 and rank == 0:
            gate.set()
    distributed.barrier()
    results.put((rank, told))
    distributed.destroy_process_group()


def test_two_processes_are_told_one_call_later_and_do_not_wait(tmp_path):
    gate, results = FORK.Event(), FORK.Queue()
    arguments = tmp_path / "rendezvous", gate, results
    processes = [FORK.Process(target=answers, args=(rank, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    told = dict(results.get(timeout=90) for _ in processes)
    for process in processes:
        process.join(60)
    assert told[0] == told[1] == [False, False, True, False, True, False, False, True]


def test_one_process_is_told_at_once():
    agreement, alone = Agreement(), SimpleNamespace(world_size=1)
    assert [agreement.any(alone, flag) for flag in (False, True, False)] == [False, True, False]
    assert not torch.distributed.is_initialized()
