"""Remake gpt2_logits.npz: logits of the conformance toys by transformers. Run by hand; see PROVENANCE.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "backends"), str(HERE.parent / "helpers")]


def main() -> None:
    import torch
    from toys import CONFIGS, formula_tensors, token_batch
    from transformers import GPT2LMHeadModel

    from musiclora.convert.models.gpt2 import write_checkpoint

    file = HERE / "gpt2_logits.npz"
    found = dict(np.load(file)) if file.exists() else {}  # a recording stays as it is; delete the file to remake it
    for name, config in CONFIGS.items():
        if name in found:
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder) / "m", config, formula_tensors(config), "hf")
            model = GPT2LMHeadModel.from_pretrained(Path(folder) / "m").eval()
        tokens = torch.from_numpy(token_batch(config)["tokens"]).long()
        with torch.no_grad():
            found[name] = model(tokens).logits.numpy()
    np.savez_compressed(file, **found)


if __name__ == "__main__":
    main()
