"""A base spread over the processes of one run: each holds a part of every decoder layer, and gets the rest while it passes that layer.

For a base that fits no single card. Embeddings, norms outside the layers and the head stay whole in each process, and so does
the adapter. torch's `fully_shard` (FSDP 2) does the work; a layer is whole only where all processes pass it.
"""

from __future__ import annotations

from typing import Any

import torch

from workbench.errors import SettingsError
from workbench.settings import Quantization

SHARDED = "quantization.shard"


def refuse_shard(quantization: Quantization) -> None:
    """Raise `SettingsError` if the (resolved) base is to be spread and can't be."""
    if not quantization.shard:
        return
    if quantization.mode != "none":
        raise SettingsError(f"{SHARDED}: weights in {quantization.mode.replace('-', ' ')} can't be spread over processes; set quantization.mode=none.")
    if quantization.offload:
        raise SettingsError(f"{SHARDED}: a spread base keeps its embeddings and head on the card; set quantization.offload=false.")
    if not torch.distributed.is_available() or not torch.distributed.is_initialized() or torch.distributed.get_world_size() < 2:
        raise SettingsError(
            f"{SHARDED}: spreading the base wants several processes: start the training by `accelerate launch --num_processes N -m workbench train …`, "
            "or set quantization.shard=false."
        )


def spread(model: Any, device: torch.device) -> None:
    """Spread the decoder layers of a model in the host's memory over all processes' devices, and put the rest whole on this one's."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    decoder = model.get_decoder()
    inside = {id(p) for layer in decoder.layers for p in layer.parameters()}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh)
    for parameter in model.parameters():
        if id(parameter) not in inside and not is_part(parameter):
            parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))
    # The decoder as their root fetches the next layer while one is passed.
    fully_shard(decoder, mesh=mesh, ignored_params={p for p in decoder.parameters() if not is_part(p)})


def is_part(tensor: torch.Tensor) -> bool:
    """Whether a tensor is this process's part of one that is spread."""
    return hasattr(tensor, "to_local")


def is_spread(model: Any) -> bool:
    """Whether some of the model's parameters are spread over processes."""
    return any(is_part(p) for p in model.parameters())
