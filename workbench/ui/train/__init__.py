"""The Train tab: one run as it goes on, all runs side by side, and sweeps."""
