"""A workbench's folders and the services over them, built once and passed in."""

from workbench.workspace.space import ROOT, Workspace, row_problems

__all__ = ["ROOT", "Workspace", "row_problems"]
