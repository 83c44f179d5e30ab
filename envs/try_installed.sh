#!/usr/bin/env bash
# Try an installed tokenbounds in an empty folder: its version, a starter study, and a certificate of a tiny model.
#
#   envs/try_installed.sh BIN VERSION     BIN: the environment's folder of programs
set -euo pipefail
bin=$(cd "$1" && pwd) version=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
export PATH=$bin:$PATH HF_HUB_OFFLINE=1

[ "$(tokenbounds --version)" = "$version" ] || {
  echo "$bin has tokenbounds $(tokenbounds --version), not $version" >&2
  exit 1
}
python - <<'END'
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

torch.manual_seed(0)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
backend.add_special_tokens(["<|end|>"])
PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained("model")
sizes = {"vocab_size": 257, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=256, eos_token_id=256)).save_pretrained("model")
Path("notes").mkdir()
for number in range(20):
    Path(f"notes/{number}.txt").write_text(f"The {number} birds sat on a wall, and {number + 1} more came.\n" * 20)
END
tokenbounds init study.yaml --model model --corpus notes >/dev/null
tokenbounds certify model --corpus notes --because "Its values were drawn at random, on 2026-11-01." \
  --context 64 --sample 2000 --out results --cores 1
tokenbounds verify results
test -s results/report.html
echo "$bin: tokenbounds $version is installed and works"
