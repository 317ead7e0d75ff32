"""GGUF → safetensors folder, run as `python -m workbench.models.convert FILE OUT` by `demo`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

TEMPLATE = Path(__file__).with_name("gemma_template.jinja")
STOP_IDS = [1, 106]  # <eos> and <end_of_turn>


def main(gguf: Path, out: Path) -> None:
    print("PROGRESS 0.02 starting the conversion (once, about a minute)", flush=True)
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    # Later releases keep the weights packed unless they are asked to unpack them; earlier ones always unpack.
    unpack = {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}

    logging.disable_progress_bar()
    print("PROGRESS 0.1 reading the tokenizer", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(out)
    print("PROGRESS 0.4 converting the weights", flush=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, **unpack)
    print("PROGRESS 0.9 writing safetensors", flush=True)
    model.save_pretrained(out)
    (out / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    # The pretrained model's own stop token is <eos> alone; the template ends turns with <end_of_turn>.
    path = out / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": STOP_IDS}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
