"""The articles' recipe as the reference that the workbench is measured against, written anew with transformers' Trainer and peft.

    python benchmarks/reference_recipe.py --model FOLDER [--mode 4-bit] [--steps 2 | --steps 40] [--right] [--save ADAPTER]

Every row padded to 2,048 tokens, batch 1 × 16 accumulated, gradient checkpointing, prepare_model_for_kbit_training, paged 8-bit
AdamW, cosine with 10 warm-up steps, clip 0.3, rank 16, alpha 32, dropout 0.1, the seven projections by their bare names (a vision
tower's too). With the articles' mask bug: padded on the left by the end-of-sequence token, the first N places masked where N is
the prompt's length, so that the padding and the prompt are learned. `--right` pads on the right and learns the answer alone.
Same rows, split and order of rows as a run of the workbench. `--batch 16 --pad 0` is what many would write today: batches padded
to their longest row. Few steps are measured after one to warm up, and 40 are calculated from them; `--steps 40` runs all.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import peak_gib, reset_peak, rows_for, settings_for, sync, tell  # noqa: E402

EPOCHS, ALL_STEPS = 10, 40
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Recipe:
    """One way to train with the Trainer. `pad`: tokens that every row is padded to, 0: the batch's longest row."""

    mode: str = "4-bit"
    pad: int = 2048
    batch: int = 1
    accumulation: int = 16
    checkpointing: bool = True
    right: bool = False
    rate: float = 1e-4
    dropout: float = 0.1
    seed: int = 42

    def optimizer(self) -> str:
        import torch

        return "paged_adamw_8bit" if torch.cuda.is_available() and importlib.util.find_spec("bitsandbytes") else "adamw_torch"


def load(folder: Path, mode: str) -> Any:
    """The base as the articles load it: bf16 on a card, quantized while it loads."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from workbench.models.loading import pick_device, pick_dtype

    device = pick_device()
    dtype = pick_dtype(device)
    quantized = {
        "4-bit": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype),
        "8-bit": lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0),
        "none": lambda: None,
    }[mode]()
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, device_map={"": device}, quantization_config=quantized, local_files_only=True,
    )
    model.config.use_cache = False
    for module in model.modules() if isinstance(device, torch.device) and device.type == "cpu" else ():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # else no gradient passes on such CPUs
    return model


def collate(rows: Sequence[Any], recipe: Recipe, eos: int) -> dict[str, Any]:
    """Rows (`Encoded`) as the tensors of a batch [B, T]."""
    import torch

    width = recipe.pad or max(len(row.ids) for row in rows)
    made: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        if len(row.ids) > width:
            raise ValueError(f"a row has {len(row.ids)} tokens, the recipe pads to {width}")
        blank = width - len(row.ids)
        if recipe.right:
            ids, mask = [*row.ids, *[0] * blank], [1] * len(row.ids) + [0] * blank
            labels = [*row.labels, *[-100] * blank]
        else:
            ids, mask = [eos] * blank + list(row.ids), [0] * blank + [1] * len(row.ids)
            prompt = next(i for i, label in enumerate(row.labels) if label != -100)
            labels = [-100] * prompt + ids[prompt:]  # the bug: the prompt stands at the end, not at the start
        for name, values in (("input_ids", ids), ("attention_mask", mask), ("labels", labels)):
            made[name].append(values)
    return {name: torch.tensor(values) for name, values in made.items()}


def train(folder: Path, recipe: Recipe, *, steps: int = 2, warm: int = 1, save: Path | None = None) -> dict[str, Any]:
    """Load, train `warm` + `steps` optimizer steps of the 40, and say what it took; `save` keeps the adapter."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    from workbench.models.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer.load(folder)
    prepared = rows_for(tokenizer, settings_for(folder, [f"training.seed={recipe.seed}"]).training)
    reset_peak()
    begun = time.perf_counter()
    model = load(folder, recipe.mode)
    sync()
    loaded = {"load_s": time.perf_counter() - begun, "load_peak_gib": peak_gib()}
    reset_peak()
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=recipe.checkpointing)
    torch.manual_seed(recipe.seed)
    model = get_peft_model(model, LoraConfig(
        r=16, lora_alpha=32, lora_dropout=recipe.dropout, bias="none", task_type="CAUSAL_LM", target_modules=PROJECTIONS,
    ))
    clock = make_clock(steps, warm)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(model, prepared.learned, recipe, clock, scratch, tokenizer.stop_ids[0])
        begun = time.perf_counter()
        trainer.train()
        sync()
        whole = time.perf_counter() - begun
    if save is not None:
        model.save_pretrained(str(save), save_embedding_layers=False)
    measured = clock.seconds[warm:] or clock.seconds
    forwards = math.ceil(len(prepared.learned) / recipe.batch) * EPOCHS
    ran_all = len(clock.seconds) >= ALL_STEPS
    return loaded | {
        "steps": len(clock.seconds), "first_step_s": clock.seconds[0], "whole_s": whole, "step_ms": 1000 * statistics.median(measured),
        "forty_s": sum(clock.seconds) if ran_all else statistics.median(measured) / recipe.accumulation * forwards,
        "extrapolated": not ran_all, "train_peak_gib": peak_gib(), "losses": clock.losses, "step_s": clock.seconds,
        "optimizer": recipe.optimizer(), "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def make_clock(steps: int, warm: int) -> Any:
    """A Trainer callback: the seconds and the loss of every optimizer step; ends the training after `warm` + `steps`."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.losses: list[float] = []
            self.begun = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            sync()
            self.begun = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            sync()
            self.seconds.append(time.perf_counter() - self.begun)
            print(f"step {len(self.seconds)}: {self.seconds[-1]:.2f} s", flush=True)
            if len(self.seconds) >= warm + steps:
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))

    return Clock()


def make_trainer(model: Any, rows: Sequence[Any], recipe: Recipe, clock: Any, scratch: str, eos: int) -> Any:
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments

    class Order(torch.utils.data.Sampler):  # type: ignore[type-arg]
        """The workbench's order: shuffled anew each epoch, on from the last one."""

        def __init__(self) -> None:
            self.places, self.generator = list(range(len(rows))), random.Random(recipe.seed)

        def __iter__(self) -> Iterator[int]:
            self.generator.shuffle(self.places)
            return iter(list(self.places))

        def __len__(self) -> int:
            return len(self.places)

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return Order()

    gpu = torch.cuda.is_available()
    # The articles also evaluate and save every 50 of these 40 steps: never.
    arguments = TrainingArguments(
        output_dir=scratch, num_train_epochs=EPOCHS, per_device_train_batch_size=recipe.batch, gradient_accumulation_steps=recipe.accumulation,
        gradient_checkpointing=recipe.checkpointing, optim=recipe.optimizer(), learning_rate=recipe.rate, lr_scheduler_type="cosine", warmup_steps=10,
        max_grad_norm=0.3, bf16=gpu, use_cpu=not gpu, logging_steps=1, logging_nan_inf_filter=False, save_strategy="no", report_to="none",
        disable_tqdm=True, seed=recipe.seed, remove_unused_columns=False,
    )
    trainer = InOrder(model=model, args=arguments, train_dataset=list(rows), data_collator=lambda some: collate(some, recipe, eos), callbacks=[clock])
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--mode", choices=("4-bit", "8-bit", "none"), default="4-bit")
    parser.add_argument("--right", action="store_true", help="without the mask bug")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps to measure; 40 runs all of them")
    parser.add_argument("--warm", type=int, default=1, help="steps before them; none where all 40 are run")
    parser.add_argument("--pad", type=int, default=2048, help="0: to the batch's longest row")
    parser.add_argument("--batch", type=int, default=1, help="rows of one forward; 16 rows make an optimizer step")
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = Recipe(
        options.mode, options.pad, options.batch, max(1, 16 // options.batch), not options.no_checkpointing, options.right,
        options.rate, options.dropout, options.seed,
    )
    warm = options.warm if options.steps < ALL_STEPS else 0
    result = train(options.model.resolve(), recipe, steps=options.steps, warm=warm, save=options.save)
    tell({"name": "reference" + ("-right" if options.right else ""), "mode": options.mode} | result)
    how = "calculated from" if result["extrapolated"] else "measured over"
    print(f"40 optimizer steps: {result['forty_s']:.1f} s ({how} {len(result['step_s'])}); peak of training {result['train_peak_gib']:.2f} GiB; {result['optimizer']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
