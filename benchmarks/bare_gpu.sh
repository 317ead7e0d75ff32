# For a GPU machine without a network: source this from the repository's root. It makes an environment of the wheels in $WHEELS (the pinned
# libraries that the machine lacks) and of links to what the machine has, without what a user's own environment would not hold (it would slow
# the imports that are measured), with bytecode as pip leaves it. $WHEELS/tok.tgz, the embedded model's folder without its weights, goes to /tmp/tok.
WHEELS=${WHEELS:-.whl}
export PYTHONUNBUFFERED=1; unset PYTHONDONTWRITEBYTECODE
V=/tmp/venv; SP=$V/lib/python3.12/site-packages
if [ ! -f /tmp/.setup-done ]; then
  t0=$(date +%s)
  S=$(python3 -c "import torch,os;print(os.path.dirname(os.path.dirname(torch.__file__)))")
  python3 -m venv --without-pip $V || exit 8
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target $SP "$WHEELS"/*.whl || exit 9
  python3 - "$S" "$SP" <<'P'
import os,re,sys
from pathlib import Path
S,SP=Path(sys.argv[1]),Path(sys.argv[2])
norm=lambda n:re.sub(r"[-_.]+","-",n).lower()
DENY={"sklearn","scikit-learn","scipy","jax","jaxlib","jax-cuda13-pjrt","jax-cuda13-plugin","jax-plugins","cupy","cupy-cuda13x","cupyx","torchvision","torchaudio","lightning","pytorch-lightning","botorch","gpytorch","sentence-transformers","torch-geometric","onnx","onnxruntime","onnxscript","onnx-ir","matplotlib","pandas","torchmetrics","numpyro","sentencepiece","tiktoken","librosa","soundfile","pil","pillow","cv2","tensorflow","flax","optuna","linear-operator","pyro","datasets","deepspeed","nltk","timm","wandb","tensorboard","torchao","torchtitan"}
have={norm(p.name.split("-")[0]) for p in SP.iterdir() if p.name.endswith(".dist-info")}
for p in S.iterdir():
    n=norm(p.name.split("-")[0] if p.name.endswith((".dist-info",".egg-info")) else p.name.split(".")[0] if p.is_file() else p.name)
    if n in DENY or (p.name.endswith(".dist-info") and n in have) or (SP/p.name).exists() or p.name.endswith(".pth") or p.name=="__pycache__": continue
    (SP/p.name).symlink_to(p)
P
  python3 -m compileall -q -j 16 $SP >/dev/null 2>&1
  for d in torch triton huggingface_hub accelerate numpy sympy regex tqdm safetensors packaging networkx jinja2 fsspec httpx requests typer rich; do [ -d $S/$d ] && python3 -m compileall -q -j 16 $S/$d >/dev/null 2>&1; done
  python3 -m compileall -q -j 4 workbench benchmarks app.py >/dev/null 2>&1
  mkdir -p /tmp/tok && tar xzf "$WHEELS"/tok.tgz -C /tmp/tok
  touch /tmp/.setup-done; echo "setup $(( $(date +%s)-t0 )) s"
fi
export PATH=$V/bin:$PATH PYTHONPATH=.
