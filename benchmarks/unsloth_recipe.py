"""The workbench's standard run done by Unsloth: 63 rows, 10 epochs, 16 rows a step, 40 optimizer steps, 4-bit NF4, rank 16.

    python benchmarks/unsloth_recipe.py --encode ROWS.json --model FOLDER     # once: the workbench's own rows, ids and labels
    python benchmarks/unsloth_recipe.py --rows ROWS.json --model FOLDER --save ADAPTER

Only the second is measured. It imports nothing of the workbench: Unsloth has to come before transformers, and a start should be its
own. Rank, alpha, projections, rate, schedule and clip are the workbench's defaults; dropout is 0, since Unsloth's fast path has none.
The vision tower is not loaded (`text_only`), unless `--vision` is given, which asks for an image processor's files in FOLDER. The rows arrive
encoded, so that no chat template matters, and go through trl's SFTTrainer as Unsloth patches it. What is fastest for Unsloth is the default: 16 rows
at once, no checkpointing, every batch `--pad` wide (one shape is compiled once; the longest row has 55 tokens). `--notebook` is what its
notebooks write: 2 rows × 8 accumulated, its own checkpointing with host offload, 8-bit AdamW. `--quantize COPY` keeps the base as Unsloth
quantized it and ends: loading that copy is what its users do who take one of its 4-bit models from the hub.

`cold_s` is the age of the process when the adapter is on the disk, interpreter and imports included; `first_step_from_start_s` likewise.
Compiling is part of it: a second process finds the caches of the first. An epoch's last batch has 15 rows, which Unsloth compiles anew.
`unsloth.sh` runs it on a machine without a network.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHECKPOINTING: dict[str, Any] = {"off": False, "on": True, "unsloth": "unsloth"}
EPOCHS, ROWS_PER_STEP, IGNORED, PAD_ID = 10, 16, -100, 0
LIBRARIES = ("unsloth", "unsloth_zoo", "torch", "triton", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "torchao", "xformers")


def age() -> float:
    """Seconds since this process was started, by the kernel's clock."""
    begun = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - begun


def encode(folder: Path, file: Path) -> None:
    """The rows that a run of the workbench learns, as JSON; a process of its own, since it imports transformers unpatched."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from benchmarks.common import rows_for, settings_for
    from workbench.models.tokenizer import ChatTokenizer

    training = settings_for(folder, []).training
    rows = rows_for(ChatTokenizer.load(folder), training).learned
    told = {"rate": training.learning_rate, "rows": [{"input_ids": list(row.ids), "labels": list(row.labels)} for row in rows]}
    file.write_text(json.dumps(told))
    print(f"{len(rows)} rows, {sum(len(row.ids) for row in rows)} tokens, the longest {max(len(row.ids) for row in rows)}; rate {training.learning_rate}")


def collate(rows: list[dict[str, Any]], width: int) -> dict[str, Any]:
    """Rows padded on the right to `width`, or to their longest in eights where it is 0."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    width = max(width, longest) if width else -(-longest // 8) * 8

    def padded(name: str, blank: int) -> Any:
        return torch.tensor([[*row[name], *[blank] * (width - len(row[name]))] for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    return {"input_ids": padded("input_ids", PAD_ID), "attention_mask": mask, "labels": padded("labels", IGNORED)}


def load_base(options: argparse.Namespace) -> tuple[Any, Any]:
    """The base in 4-bit, quantized while it loads unless it is so already, and the tokenizer."""
    from unsloth import FastLanguageModel

    return FastLanguageModel.from_pretrained(  # type: ignore[no-any-return]
        str(options.model), max_seq_length=2048, load_in_4bit=True, use_gradient_checkpointing=CHECKPOINTING[options.checkpointing],
        local_files_only=True, text_only=not options.vision,
    )


def keep_quantized(options: argparse.Namespace) -> None:
    """Writes the quantized base and its tokenizer's files into a folder."""
    import unsloth  # noqa: F401

    model, _ = load_base(options)
    model.save_pretrained(str(options.quantize))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(options.model / name, options.quantize / name)


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    """The base with its fresh adapter, and the tokenizer, as Unsloth's notebooks write it."""
    from unsloth import FastLanguageModel

    model, tokenizer = load_base(options)
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, lora_dropout=0, bias="none", target_modules=PROJECTIONS, use_gradient_checkpointing=CHECKPOINTING[options.checkpointing],
        random_state=42, **({"finetune_vision_layers": False} if options.vision else {}),
    )
    return model, tokenizer


def make_clock() -> Any:
    """A Trainer callback: when each optimizer step began and ended, by the age of the process, and the losses."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.seconds: list[float] = []
            self.losses: list[float] = []
            self.begun = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun = age()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(age())
            self.seconds.append(self.ends[-1] - self.begun)
            if len(self.ends) in (1, 2, 3, 10, 20, 40):
                print(f"step {len(self.ends)}: {self.seconds[-1]:.2f} s, {self.ends[-1]:.1f} s after the start", flush=True)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))

    return Clock()


def make_trainer(model: Any, tokenizer: Any, told: dict[str, Any], options: argparse.Namespace, clock: Any) -> Any:
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    gpu = torch.cuda.is_available()
    # trl switches checkpointing on unless told otherwise, and Unsloth's own is told by the model it made.
    checkpointing = {"gradient_checkpointing": False} if options.checkpointing == "off" else {}
    arguments = SFTConfig(
        output_dir=str(options.save) + "-scratch", num_train_epochs=EPOCHS, max_steps=options.steps or -1, per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=ROWS_PER_STEP // options.batch, learning_rate=told["rate"], lr_scheduler_type="cosine", warmup_steps=10,
        weight_decay=0.0, max_grad_norm=0.3, optim=options.optim, bf16=gpu, use_cpu=not gpu, logging_steps=1, save_strategy="no", report_to="none",
        disable_tqdm=True, seed=42, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, max_length=2048, packing=False, **checkpointing,
    )
    return SFTTrainer(
        model=model, processing_class=tokenizer, args=arguments, train_dataset=Dataset.from_list(told["rows"]),
        data_collator=lambda rows: collate(rows, options.pad), callbacks=[clock],
    )


def peak_gib(*, reset: bool) -> float:
    """The allocator's peak since it was last reset; 0 without a card."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return float(peak)


def train(options: argparse.Namespace) -> dict[str, Any]:
    told = json.loads(options.rows.read_text())
    import unsloth  # noqa: F401  before transformers, trl and peft, which it patches

    imported = age()
    model, tokenizer = load(options)
    load_peak, loaded = peak_gib(reset=True), age()
    clock = make_clock()
    trainer = make_trainer(model, tokenizer, told, options, clock)
    ready = age()
    trainer.train()
    trained, train_peak = age(), peak_gib(reset=False)
    model.save_pretrained(str(options.save))
    saved = age()
    usual = statistics.median(clock.seconds[1:] or clock.seconds)
    text = getattr(model.config, "text_config", model.config)
    return {
        "cold_s": saved, "first_step_from_start_s": clock.ends[0], "step_ms": 1000 * usual, "steps": len(clock.ends), "first_step_s": clock.seconds[0],
        "steps_2_to_last_s": clock.ends[-1] - clock.ends[0], "forty_steady_s": 40 * usual, "train_peak_gib": train_peak, "load_peak_gib": load_peak,
        "import_s": imported, "load_s": loaded - imported, "trainer_s": ready - loaded, "train_s": trained - ready, "save_s": saved - trained,
        "slowest_later_steps_s": sorted(clock.seconds[1:])[-3:], "losses": [clock.losses[i - 1] for i in (1, 10, 40) if i <= len(clock.losses)],
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad), "layers": getattr(text, "num_hidden_layers", None),
        "class": type(model.get_base_model()).__name__, "attention": str(getattr(text, "_attn_implementation", None)),
        "vision": any("vision" in name for name, _ in model.named_modules()),
        "batch": options.batch, "pad": options.pad, "checkpointing": options.checkpointing, "optim": options.optim,
        "compile_disabled": os.environ.get("UNSLOTH_COMPILE_DISABLE", "0"),
    }


def versions() -> dict[str, str]:
    import contextlib
    import importlib.metadata

    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--encode", type=Path, metavar="ROWS.json", help="write the encoded rows there and end")
    parser.add_argument("--quantize", type=Path, metavar="COPY", help="write the quantized base there and end")
    parser.add_argument("--rows", type=Path, metavar="ROWS.json", help="the encoded rows to learn")
    parser.add_argument("--save", type=Path, default=Path("/tmp/unsloth-adapter"))
    parser.add_argument("--name", default="unsloth")
    parser.add_argument("--batch", type=int, default=16, choices=(1, 2, 4, 8, 16), help="rows of one forward; 16 rows make an optimizer step")
    parser.add_argument("--pad", type=int, default=64, help="tokens that every row is padded to; 0: the batch's longest, in eights")
    parser.add_argument("--checkpointing", choices=("off", "on", "unsloth"), default="off")
    parser.add_argument("--optim", default="adamw_torch_fused")
    parser.add_argument("--vision", action="store_true", help="load the vision tower as well; it gets no adapters")
    parser.add_argument("--notebook", action="store_true", help="as Unsloth's notebooks: 2 × 8 rows, batches as wide as their longest, its checkpointing, 8-bit AdamW")
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps (0: all 40)")
    options = parser.parse_args()
    options.model = options.model.resolve()
    if options.encode:
        encode(options.model, options.encode)
        return
    if options.quantize:
        keep_quantized(options)
        return
    if not options.rows:
        parser.error("--rows is needed (make it with --encode)")
    if options.notebook:
        options.batch, options.pad, options.checkpointing, options.optim = 2, 0, "unsloth", "adamw_8bit"
    result = train(options)
    print("RESULT " + json.dumps({"name": options.name} | result | {"versions": versions()}), flush=True)


if __name__ == "__main__":
    main()
