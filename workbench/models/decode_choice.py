"""Which token comes next: the likeliest, or one drawn by the settings; on the device, without asking it for a value."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from workbench.settings import Sampling


class Chooser:
    """Chooses as transformers' `generate` does: the same cuts in the same order, and the draws of its seed, from a generator of its own.

    Whoever decodes meanwhile draws nothing away: a seed gives the same words alone and beside another base.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.seed = sampling.seed
        self.made: torch.Generator | None = None
        self.greedy = sampling.greedy or sampling.temperature <= 0
        self.cuts = LogitsProcessorList()
        if self.greedy:
            return
        if sampling.temperature != 1:
            self.cuts.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            self.cuts.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self.cuts.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, logits_BV: Tensor) -> Tensor:
        if self.greedy:
            return logits_BV.argmax(-1)
        chance_BV = self.cuts(None, logits_BV.float()).softmax(-1)
        # torch.multinomial draws one sample just so, but stops to look whether the chances are numbers.
        self.made = self.made or torch.Generator(chance_BV.device).manual_seed(self.seed)
        drawn_B: Tensor = (chance_BV / torch.empty_like(chance_BV).exponential_(1, generator=self.made)).argmax(-1)
        return drawn_B
