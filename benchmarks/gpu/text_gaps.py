"""How far apart transformers' own logits are where the tokens of an engine differ.

    python benchmarks/gpu/text_gaps.py MODEL_DIR FOLDER/NAME.differ.json

Runs where torch and transformers are; the file is what tensorrt_text.py wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from random_models import torch, transformers


def main() -> None:
    folder, file = map(Path, sys.argv[1:3])
    kind = transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32)
    half = kind.from_pretrained(folder, dtype=torch.float16).cuda()
    for found in json.loads(file.read_text()):
        ids = torch.tensor([found["ids"]])
        with torch.no_grad():
            wide, narrow = model(ids).logits[0, -1], half(ids.cuda()).logits[0, -1].float().cpu()
        gap = abs(float(wide[found["have"]] - wide[found["want"]]))
        error = float((wide - narrow).abs().max())
        print(f"{folder.name}: {found['what']}: token {found['place']} is {found['have']}, not {found['want']}: their "
              f"logits are {gap:.4f} apart in f32, where f16 is off by up to {error:.4f} in transformers")   # fmt: skip


if __name__ == "__main__":
    main()
