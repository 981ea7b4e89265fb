"""Several processes as torchrun starts them, on one node or many. nnU-Net itself starts processes on one node only."""

import atexit
import inspect
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_clip.losses.masked import world_size

ROUNDS_UNTIL_WAIT = 10  # NCCL gives up on a process that the others have waited for ten minutes


def own_rank() -> int:
    """The number of this process among those that train together."""
    return dist.get_rank() if world_size() > 1 else 0


def share_of_rank(items: Sequence[str]) -> Iterator[str]:
    """Every n-th item for this one of n processes. They wait for each other now and then, and after the last item."""
    num_ranks, rank = world_size(), own_rank()
    for number, start in enumerate(range(0, len(items), num_ranks), 1):
        yield from items[start + rank : start + rank + 1]
        if num_ranks > 1 and number % ROUNDS_UNTIL_WAIT == 0:
            dist.barrier()
    if num_ranks > 1:
        dist.barrier()


def join_processes(device: torch.device) -> None:
    """Join the process group that torchrun has prepared, unless there is none or nnU-Net has joined already."""
    started_by_torchrun = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1
    if not started_by_torchrun or not dist.is_available() or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(dist.destroy_process_group)


def device_of_this_process(requested: torch.device, of_nnunet: torch.device) -> torch.device:
    """nnU-Net takes the GPU whose number is the rank among all processes; on a node it is LOCAL_RANK that counts."""
    if not (dist.is_available() and dist.is_initialized()):
        return of_nnunet
    if requested.type != "cuda":
        return requested
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if _torchrun_speaks_of_this_group() else of_nnunet


def _torchrun_speaks_of_this_group() -> bool:
    """Its variables may also be inherited by processes that nnU-Net has started with -num_gpus."""
    group = {"RANK": dist.get_rank(), "WORLD_SIZE": dist.get_world_size()}
    return "LOCAL_RANK" in os.environ and all(os.environ.get(name) == str(value) for name, value in group.items())


def wrap_network(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The network with gradients averaged over all processes.

    Its buffers (text embeddings) never change and are equal everywhere. Broadcasting them at each forward pass would
    be waste, and would hang at prediction, where the processes run different numbers of passes.
    """
    arguments = inspect.signature(DistributedDataParallel.__init__).parameters
    # From torch 2.13 on the old name warns on every rank.
    name = "forward_sync_buffers" if "forward_sync_buffers" in arguments else "broadcast_buffers"
    no_broadcast: dict[str, Any] = {name: False}
    return DistributedDataParallel(
        nn.SyncBatchNorm.convert_sync_batchnorm(network),
        device_ids=[device.index] if device.type == "cuda" else None,
        **no_broadcast,
    )
