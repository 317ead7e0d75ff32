#!/usr/bin/env bash
# Unsloth's time for the workbench's standard run on a GPU machine without a network, from the repository's root; it ends within 585 s.
# $CARRIED holds wheels/ (unsloth and unsloth_zoo 2026.10.9, which want transformers <= 5.17, trl <= 1.15 and datasets < 5; cut_cross_entropy, tyro,
# msgspec, hf_transfer, torchao and what they need), rows.json (unsloth_recipe.py --encode) and tok.tgz.
CARRIED=${CARRIED:-.uns}
# cold: nothing compiled yet. warm: a new process that finds the compiled kernels. Then, if there is time, other ways of running it.
W=/tmp/uns-run; V=$W/venv; SP=$V/lib/python3.12/site-packages; ROOT=$PWD; OUT=${OUT:-$W/out}
LIMIT=${LIMIT:-585}
mkdir -p $W "$OUT"
export PYTHONUNBUFFERED=1; unset PYTHONDONTWRITEBYTECODE PYTHONPATH
if [ ! -f $W/.done ]; then
  S=$(python3 -c "import torch,os;print(os.path.dirname(os.path.dirname(torch.__file__)))") || exit 7
  rm -rf $V; python3 -m venv --without-pip $V || exit 8
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target $SP "$CARRIED"/wheels/*.whl || exit 9
  # The rest are links to the machine's own packages; what a real installation of Unsloth would not have stays out, so that it does not slow the start.
  python3 - "$S" "$SP" <<'P'
import re, sys
from pathlib import Path
S, SP = Path(sys.argv[1]), Path(sys.argv[2])
norm = lambda n: re.sub(r"[-_.]+", "-", n).lower()
DENY = {"sklearn", "scikit-learn", "scipy", "jax", "jaxlib", "jax-cuda13-pjrt", "jax-cuda13-plugin", "jax-plugins", "cupy", "cupy-cuda13x", "cupyx", "cupy-backends",
        "torchaudio", "lightning", "pytorch-lightning", "botorch", "gpytorch", "sentence-transformers", "torch-geometric", "onnx", "onnxruntime", "onnxscript",
        "onnx-ir", "matplotlib", "torchmetrics", "numpyro", "tiktoken", "librosa", "soundfile", "cv2", "opencv-python-headless", "tensorflow", "flax", "optuna",
        "linear-operator", "pyro", "deepspeed", "nltk", "timm", "wandb", "tensorboard", "torchtitan", "xformers", "flash-attn", "numba", "numba-cuda", "seaborn", "statsmodels"}
have = {norm(p.name.split("-")[0]) for p in SP.iterdir() if p.name.endswith(".dist-info")}
for p in S.iterdir():
    n = norm(p.name.split("-")[0] if p.name.endswith((".dist-info", ".egg-info")) else p.name.split(".")[0] if p.is_file() else p.name)
    if n in DENY or (p.name.endswith(".dist-info") and n in have) or (SP / p.name).exists() or p.name.endswith(".pth") or p.name == "__pycache__":
        continue
    (SP / p.name).symlink_to(p)
P
  $V/bin/python -m compileall -q -j 16 $SP >/dev/null 2>&1
  for d in torch triton transformers huggingface_hub accelerate numpy pandas pyarrow sympy regex tqdm safetensors packaging networkx jinja2 fsspec httpx requests PIL google sentencepiece torchvision einops rich aiohttp; do
    [ -d $S/$d ] && $V/bin/python -m compileall -q -j 16 $S/$d >/dev/null 2>&1
  done
  mkdir -p $W/tok && tar xzf "$CARRIED"/tok.tgz -C $W/tok
  touch $W/.done; echo "setup: $SECONDS s"
fi
PY=$V/bin/python
$PY - <<'P'
import importlib.util as u
need = "torch triton transformers accelerate huggingface_hub safetensors tokenizers numpy pandas pyarrow xxhash PIL torchvision sentencepiece google.protobuf regex requests httpx filelock fsspec tqdm psutil yaml jinja2 typing_extensions einops rich typer wheel packaging aiohttp multidict".split()
def there(n):
    try: return u.find_spec(n) is not None
    except Exception: return False
print("missing on this machine:", [n for n in need if not there(n)] or "nothing")
P
M=${MODEL:-}
for f in /tmp/workbench-bench/gemma-3-4b-random $W/gemma-3-4b-random; do [ -z "$M" ] && [ -f $f/config.json ] && [ -f $f/tokenizer.json ] && M=$f; done
if [ -z "$M" ]; then
  M=$W/gemma-3-4b-random; t=$SECONDS
  PYTHONPATH=. $PY benchmarks/random_models.py 4b $M $W/tok 2>&1 | tail -3
  [ -f $M/config.json ] || { echo "no model was made"; exit 10; }
  echo "model: $((SECONDS-t)) s"
fi
cat $M/*.safetensors >/dev/null  # every run finds it in the page cache

export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 HF_HOME=$W/hf WANDB_MODE=disabled
export UNSLOTH_DISABLE_STATISTICS=1 UNSLOTH_OFFLINE=1 UNSLOTH_AUTO_INSTALL=0 UNSLOTH_FORCE_SINGLE_COMPILE_WORKER=0
export TMPDIR=$W/cache/tmp TRITON_CACHE_DIR=$W/cache/triton UNSLOTH_MEGA_CACHE_DIR=$W/cache/mega
# Inductor caches in TMPDIR: Unsloth takes TORCHINDUCTOR_CACHE_DIR out of the environment.
forget() { rm -rf $W/cache $W/cwd /tmp/unsloth_compiled_cache; mkdir -p $W/cache/tmp $W/cwd; chmod 700 $W/cache; }

# go NAME [VARIABLE=VALUE …] -- OPTIONS: one process; false if it gave no result
go() {
  local name=$1 left=$((LIMIT-SECONDS)) code b e env=(); shift
  while [ "$1" != -- ]; do env+=("$1"); shift; done; shift
  [ $left -gt 200 ] && left=200
  [ $left -lt 30 ] && { echo "== $name: no time left"; return 1; }
  b=$(date +%s.%N)
  (cd $W/cwd && env "${env[@]}" timeout -k 5 $left $PY "$ROOT/benchmarks/unsloth_recipe.py" --name "$name" --rows "$ROOT/$CARRIED/rows.json" --model $M --save $W/adapter-$name "$@") >"$OUT/$name.log" 2>&1
  code=$?; e=$(date +%s.%N)
  echo "== $name ($*): exit $code, process wall $(python3 -c "print(f'{$e-$b:.1f}')") s"
  grep -E "^(RESULT|step )" "$OUT/$name.log"
  grep -q "^RESULT" "$OUT/$name.log" && { ls -l $W/adapter-$name/adapter_model.safetensors | cut -c1-200; return 0; }
  grep -vE "^\s*\^*$" "$OUT/$name.log" | tail -n 25 | cut -c1-400; return 1
}

# Recompiling or an unsupported length would show at once: then wider rows, then no compiling.
HOW=(); ENV=()
forget
if ! go cold -- ; then
  HOW=(--pad 128); forget
  if ! go cold-pad128 -- "${HOW[@]}"; then
    HOW=(--checkpointing unsloth --pad 128); forget
    go cold-unsloth-checkpointing -- "${HOW[@]}" || { HOW=(--pad 128); ENV=(UNSLOTH_COMPILE_DISABLE=1); forget; }
  fi
fi
go warm "${ENV[@]}" -- "${HOW[@]}"
[ -n "$ONLY_TWO" ] || {
  # From a base that Unsloth has quantized before, as its users load one of its 4-bit models.
  if [ $((LIMIT-SECONDS)) -gt 120 ]; then
    (cd $W/cwd && timeout -k 5 90 $PY "$ROOT/benchmarks/unsloth_recipe.py" --model $M --quantize $W/copy) >"$OUT/quantize.log" 2>&1 \
      && { du -sh $W/copy; cat $W/copy/*.safetensors >/dev/null; COPY=$W/copy; } || { echo "== no quantized copy"; tail -n 8 "$OUT/quantize.log" | cut -c1-300; }
    [ -n "$COPY" ] && { K=$M; M=$COPY; go warm-copy "${ENV[@]}" -- "${HOW[@]}"; M=$K; }
  fi
  go no-compiling UNSLOTH_COMPILE_DISABLE=1 -- "${HOW[@]}"          # its kernels in eager mode: nothing to wait for
  go notebook -- --notebook                                        # Unsloth's notebooks as they are; half warm
}
echo "all: $SECONDS s"
