"""Models on disk and loaded: found, quantized, adapted, asked."""

from workbench.models.library_index import read_once

read_once()  # before anything in here, or above, imports transformers
