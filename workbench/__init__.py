"""Tool-Call Workbench: teach a chat model to call tools, and prove that it learned it."""

__version__ = "0.1.0"
