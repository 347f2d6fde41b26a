"""Folk tunes inside the installed music21 wheel, read as ABC text without importing music21."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from musiclora.errors import DataError

ESSEN_TERMS = (
    "Essen: non-commercial distribution and use; read from the installed music21 wheel, not part of this project"
)


@dataclass(frozen=True)
class Corpus:
    """One collection of ABC tunes in the music21 wheel.

    Attributes:
        name: short name, also the prefix of its tunes' identifiers.
        title: full name.
        files: paths or glob patterns below music21/corpus; matches are taken in sorted order.
        terms: terms of use, in one line.
    """

    name: str
    title: str
    files: tuple[str, ...]
    terms: str


@dataclass(frozen=True)
class CorpusTune:
    """One tune of a corpus, as ABC text.

    Attributes:
        name: identifier that is also a safe file stem and unique in the wheel, such as `aird-book1-0007`.
        title: the first T: line.
        number: the digits of the X: line, 0 where there are none.
        text: ABC from X: on, with lines above the first tune of a file left out.
        source: path below music21/corpus.
        terms: the corpus's terms.
    """

    name: str
    title: str
    number: int
    text: str
    source: str
    terms: str


_CAMPIN_TERMS = "print in the public domain; ABC by Jack Campin, named in each tune"
CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "aird", "Aird, A Selection of Scotch, English, Irish and Foreign Airs", ("airdsAirs/*.abc",), _CAMPIN_TERMS
        ),
        Corpus(
            "ryan",
            "Ryan's Mammoth Collection (1883)",
            ("ryansMammoth/*.abc",),
            "print in the public domain; ABC by volunteers named in each tune",
        ),
        Corpus(
            "oneill",
            "O'Neill's Music of Ireland (1903)",
            ("oneills1850/*.abc",),
            "print in the public domain; ABC by volunteers named in each tune",
        ),
        Corpus(
            "northumbrian",
            "Bruce and Stokoe, Northumbrian Minstrelsy (1882)",
            ("miscFolk/northumbrianminstrelsyopus.abc",),
            _CAMPIN_TERMS,
        ),
        Corpus("han", "Chinese (Han) folk songs", ("essenFolksong/han1.abc", "essenFolksong/han2.abc"), ESSEN_TERMS),
    )
}
_REPAIR_HINT = "try: pip install --force-reinstall music21"
BASE_CORPORA = ("aird", "ryan", "oneill")  # the only music that the bundled base is trained on


def corpus_folder() -> Path:
    """Find the corpus folder of the installed music21 wheel without importing it, which takes seconds.

    Raises:
        DataError: music21 is not installed, or is installed without its corpus.
    """
    spec = importlib.util.find_spec("music21")
    if spec is None or spec.origin is None:
        raise DataError("the music21 wheel holds these tunes and is not installed; try: pip install 'musiclora[demo]'")
    folder = Path(spec.origin).parent / "corpus"
    if not folder.is_dir():
        raise DataError(f"music21 is installed without its corpus: {folder} is not there; {_REPAIR_HINT}")
    return folder


def corpus_tunes(name: str) -> list[CorpusTune]:
    """Read all tunes of one corpus that have music, in the order of files and of the tunes in them.

    Args:
        name: a key of CORPORA.

    Raises:
        DataError: unknown name, music21 or one of the corpus's files missing.
    """
    if name not in CORPORA:
        raise DataError(f"no corpus is called {name!r}; known: {', '.join(CORPORA)}")
    corpus, root = CORPORA[name], corpus_folder()
    tunes: list[CorpusTune] = []
    for pattern in corpus.files:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise DataError(f"the installed music21 has no {pattern} in {root}; {_REPAIR_HINT}")
        for path in paths:
            tunes.extend(_read_tunes(corpus, path, root))
    return tunes


def han_folk_songs() -> list[CorpusTune]:
    """Read the Chinese (Han) songs of the Essen collection in a fixed order; print `ESSEN_TERMS` with them."""
    return corpus_tunes("han")


def base_tunes() -> list[CorpusTune]:
    """Read the tunes that the bundled base may learn from (Aird, Ryan, O'Neill), near-duplicates included."""
    return [tune for name in BASE_CORPORA for tune in corpus_tunes(name)]


def write_tunes(tunes: Iterable[CorpusTune], folder: Path) -> list[Path]:
    """Write each tune to `folder/<name>.abc`, numbered X:1 as a file of its own, and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for tune in tunes:
        path = folder / f"{tune.name}.abc"
        path.write_text(re.sub(r"\AX:.*", "X:1", tune.text), encoding="utf-8")
        paths.append(path)
    return paths


def split_abc(text: str) -> list[str]:
    """Cut ABC text into tunes, each from its X: line to the next, without the lines above the first."""
    return [part.rstrip() + "\n" for part in re.split(r"(?m)^(?=X:)", text)[1:]]


def _read_tunes(corpus: Corpus, path: Path, root: Path) -> list[CorpusTune]:
    texts = split_abc(_decode_text(path.read_bytes()))
    width = len(str(len(texts)))
    stem = re.sub(r"[^A-Za-z0-9]+", "-", path.stem)
    prefix = f"{corpus.name}-{stem}" if len(corpus.files) > 1 or "*" in corpus.files[0] else corpus.name
    numbered = [(f"{prefix}-{i:0{width}d}" if len(texts) > 1 else prefix, text) for i, text in enumerate(texts, 1)]
    source = path.relative_to(root).as_posix()
    return [_make_tune(name, text, source, corpus.terms) for name, text in numbered if _has_music(text)]


def _make_tune(name: str, text: str, source: str, terms: str) -> CorpusTune:
    title = re.search(r"(?m)^T:[ \t]*(.*?)[ \t]*$", text)
    number = re.match(r"X:\s*(\d+)", text)
    return CorpusTune(name, title[1] if title else name, int(number[1]) if number else 0, text, source, terms)


def _has_music(text: str) -> bool:
    body = re.split(r"(?m)^K:.*$", text, maxsplit=1)
    return len(body) == 2 and re.search(r"(?m)^(?![A-Za-z]:|%).*[A-Ga-g]", body[1]) is not None


def _decode_text(data: bytes) -> str:
    # Most files are ASCII or UTF-8; a few are Latin-1, in which every byte is a character.
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return data.decode("latin-1").replace("\r\n", "\n")


def order_by_seed(tunes: Sequence[CorpusTune], seed: int) -> list[CorpusTune]:
    """Shuffle the tunes by the seed, in the same way on every machine."""
    import numpy as np

    return [tunes[i] for i in np.random.default_rng(seed).permutation(len(tunes))]
