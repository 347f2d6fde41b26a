"""Write the bases from which the band base is trained.

`python warm_start.py OUT`: the bundled base of tunes with the band's vocabulary. It has the same shape. A token that
both have (bars, positions in a bar, pitches, durations) keeps its embedding, and a new one (programs, loudness, metres,
tempos, drums) begins at random, around the mean of all embeddings and with their deviation.

`python warm_start.py OUT SHORT BEFORE ROWS`: SHORT, which was trained from BEFORE on rows of ROWS tokens, with the
embeddings of the later positions moved as those of the first ROWS moved: by the linear map that fits them best.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from musiclora.convert.models.gpt2 import read_checkpoint, write_checkpoint
from musiclora.models import find_model
from musiclora.symbolic.tokens.tokenizers import band_tokenizer, own_tokenizer

_RIDGE = 0.1  # of the mean square of a column


def extend_embedding(old: np.ndarray, old_tokens: list[str], tokens: list[str], seed: int = 0) -> np.ndarray:
    """Lay out the embedding of another vocabulary, float32 [len(tokens), D]; known tokens keep their rows."""
    rng = np.random.default_rng(seed)
    new = old.mean(0) + old.std(0) * rng.standard_normal((len(tokens), old.shape[1]))
    rows = {token: row for row, token in enumerate(old_tokens)}
    for place, token in enumerate(tokens):
        if token in rows:
            new[place] = old[rows[token]]
    return new.astype(np.float32)


def move_positions(short: np.ndarray, before: np.ndarray, rows: int) -> np.ndarray:
    """Move the embeddings of later positions, float32 [P, D], as training moved those of the first `rows`."""
    known = np.append(before[:rows], np.ones((rows, 1)), axis=1)
    square = known.T @ known
    ridge = _RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    mapping = np.linalg.solve(square + ridge, known.T @ (short[:rows] - before[:rows]))
    later = np.append(before[rows:], np.ones((len(before) - rows, 1)), axis=1)
    return np.concatenate([short[:rows], before[rows:] + later @ mapping]).astype(np.float32)


def write_base(out: Path, source: Path, change: dict[str, np.ndarray]) -> None:
    """Write a copy of a GPT-2 folder with other embeddings, and with the band's tokenizer."""
    base, tokenizer = read_checkpoint(source), band_tokenizer()
    config = dataclasses.replace(
        base.config, vocab_size=tokenizer.vocab_size, bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id
    )
    out.mkdir(parents=True)
    write_checkpoint(out, config, {**base.load(), **change}, "hf")
    tokenizer.save(out)


def main(out: Path, short: Path | None = None, before: Path | None = None, rows: int = 0) -> None:
    """Write the folder."""
    if short is None or before is None:
        bundled = find_model("bundled").path
        (name,) = [name for name in read_checkpoint(bundled).load() if name.endswith("wte.weight")]
        tokens = extend_embedding(
            read_checkpoint(bundled).load()[name], own_tokenizer().tokens, band_tokenizer().tokens
        )
        write_base(out, bundled, {name: tokens})
    else:
        tensors = read_checkpoint(short).load(), read_checkpoint(before).load()
        (name,) = [name for name in tensors[0] if name.endswith("wpe.weight")]
        write_base(out, short, {name: move_positions(tensors[0][name], tensors[1][name], rows)})


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:4]]
    main(*paths, *(int(argument) for argument in sys.argv[4:]))
