"""Which exceptions mean that the memory ran out, which that the card is lost, and that neither holds on to tensors."""

from __future__ import annotations

import weakref

import pytest
import torch
from safetensors import SafetensorError

from workbench.models.faults import accelerator_fault, lets_go


@pytest.mark.parametrize(("exc", "fault"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory"),
    (MemoryError(), "memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"), "memory"),
    (RuntimeError("std::bad_alloc"), "memory"),
    (OSError(12, "Cannot allocate memory"), "memory"),
    (SafetensorError("Error while deserializing header: I/O error: Cannot allocate memory (os error 12)"), "memory"),
    (SafetensorError("Error while deserializing header: HeaderTooLarge"), ""),
    (torch.AcceleratorError("CUDA error: out of memory"), "memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory"),
    (torch.AcceleratorError("CUDA error: device-side assert triggered"), "device"),
    (torch.AcceleratorError("anything"), "device"),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), "device"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
    (RuntimeError("Triton Error [CUDA]: unspecified launch failure"), "device"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
    (ValueError("CUDA error: in a text"), ""),
    (OSError(28, "No space left on device"), ""),
])
def test_a_fault_is_told_by_its_class_or_its_words(exc: Exception, fault: str) -> None:
    assert accelerator_fault(exc) == fault


def test_an_exception_lets_go_of_what_its_frames_and_their_causes_held() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def inner() -> None:
        step = torch.ones(4)
        held.append(weakref.ref(step))
        raise MemoryError("inner")

    def outer() -> None:
        layer = torch.ones(4)
        held.append(weakref.ref(layer))
        try:
            inner()
        except MemoryError as exc:
            raise RuntimeError("can't allocate memory") from exc

    with pytest.raises(RuntimeError) as caught:
        outer()
    assert [ref() is None for ref in held] == [False, False]
    lets_go(caught.value)
    assert [ref() is None for ref in held] == [True, True]
