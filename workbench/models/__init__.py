"""Models on disk and loaded: found, quantized, adapted, asked."""

from workbench.models.library_index import read_once
from workbench.models.torch_start import leave_out

leave_out()  # before anything in here, or above, imports torch
read_once()  # or transformers
