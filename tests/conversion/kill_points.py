"""Kill a job at each of its file system calls, in turn: `kill_points.py FOLDER JOB:SIGNAL ...`.

One process imports everything and forks a child for each kill, so that a hundred kills take about a second. The point
of a kill is the number of an audit event below the folder, not a time.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from symusic import Note, Score, Track

from musiclora.audio.files import cutting
from musiclora.audio.files.segments import RATE
from musiclora.backends import registry
from musiclora.children.interrupts import terminations_raise
from musiclora.conversion.adapter import convert_adapter
from musiclora.conversion.blend import blend_adapters
from musiclora.conversion.fuse import fuse_adapters
from musiclora.conversion.model import convert_model
from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.peft import write_peft
from musiclora.convert.files.atomic import atomic_write
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.music.wav import write_wav
from musiclora.symbolic.dataset.pieces import Piece, PieceSet, write_token_cache
from musiclora.symbolic.reading import augment
from musiclora.symbolic.tokens.tokenizers import own_tokenizer

_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "os.truncate"}
_SHAPE = Gpt2Config(40, 16, 8, 1, 2, 16)
_WIDTH, _RANK = 8, 2


def _adapter(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    state = {
        f"transformer.h.0.attn.c_attn.lora_{part}.weight": rng.standard_normal(shape).astype(np.float32)
        for part, shape in (("A", (_RANK, _WIDTH)), ("B", (3 * _WIDTH, _RANK)))
    }
    write_peft(folder, LoraSpec(_RANK, 4.0, 0.0, ("c_attn",)), state, base_model="some/base", record={"format": 1})
    return folder


def _model(folder: Path) -> Path:
    write_checkpoint(folder, _SHAPE, fresh_tensors(_SHAPE, 3), "hf")
    return folder


def _prepare(name: str, source: Path, output: Path) -> Callable[[], object]:
    """Write the sources of a job, and return the job."""
    if name == "convert-model":
        model = _model(source / "model")
        return lambda: convert_model(model, output, "mlx")
    if name == "token-cache":
        pieces = PieceSet([Piece("a", "a", np.arange(5, dtype=np.int32), 2)], [])
        tokenizer = own_tokenizer()
        return lambda: write_token_cache(output, pieces, tokenizer)
    if name == "one-file":
        return lambda: atomic_write(output, "content")
    if name == "augment":
        return _augment_job(source, output)
    if name == "cut":
        return _cut_job(source, output)
    adapter = str(_adapter(source / "adapter"))
    if name == "convert-adapter":
        return lambda: convert_adapter(adapter, output, "peft")
    if name == "fuse":
        model = str(_model(source / "model"))
        return lambda: fuse_adapters([adapter], output, model, allow_base_mismatch=True)
    return lambda: blend_adapters([f"{adapter}:0.5", f"{adapter}:0.25"], output)


def _augment_job(source: Path, output: Path) -> Callable[[], object]:
    """Return the job of augment; the song is read once, since its child process writes nothing."""
    score = Score(480)
    track = Track(program=0)
    track.notes.append(Note(0, 480, 60, 90))
    score.tracks.append(track)
    song = source / "songs" / "a.mid"
    song.parent.mkdir(parents=True)
    score.dump_midi(str(song))
    reading = augment.read_music(song.parent)
    augment.read_music = lambda *given, **options: reading
    return lambda: augment.augment_folder(song.parent, output, [2], [0.9])


def _cut_job(source: Path, output: Path) -> Callable[[], object]:
    """Return the job of cut; the recording is measured once, for the same reason."""
    recording = source / "recordings" / "a.wav"
    recording.parent.mkdir(parents=True)
    write_wav(recording, 0.5 * np.sin(np.arange(2 * RATE)[:, None] / 40), RATE)
    health = cutting.measure_health(recording, recording.name)
    cutting.measure_health = lambda path, name: health
    return lambda: cutting.cut_folder(recording.parent, output, cutting.CutOptions(seconds=1))


def _fork(job: Callable[[], object], folder: Path, point: int, number: int) -> int:
    """Run a job in a child that sends itself a signal at a point; return the exit status of waitpid."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    left = point

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if left and event in _EVENTS and str(arguments[0]).startswith(str(folder)):
            left -= 1
            if not left:
                os.kill(os.getpid(), number)

    sys.addaudithook(count)
    try:
        with terminations_raise():
            job()
    except KeyboardInterrupt:
        os._exit(9)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def sweep(job: Callable[[], object], output: Path, number: int) -> int:
    """Stop a job at every point; its output is whole or absent, and each start removes what the one before left."""
    folder = output.parent
    _clear(output)
    job()  # here, so that the children need not import anything
    whole, litter = _listing(folder), list[str]()
    for point in range(1, 1000):
        _clear(output)
        ended = _fork(job, folder, point, number) == 0
        found = _listing(folder)
        appeared = [name for name in found if not name.startswith(".")]
        assert appeared in ([], whole), f"point {point}: {found}"
        before, litter = litter, [name for name in found if name.startswith(".") and "/" not in name]
        assert len({*litter} - {*before}) <= 1, f"point {point}: {found}"
        assert number == signal.SIGKILL or not litter, f"point {point}: {found}"
        if ended:
            assert found == whole, f"point {point}: {found}"
            return point - 1
    raise AssertionError("no end")


def _clear(output: Path) -> None:
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)


if __name__ == "__main__":
    registry.probe = lambda name: {"error": "not installed"}  # outputs are compared elsewhere
    os.fsync = lambda descriptor: None  # a kill shows what it wrote with and without it
    for name in sys.argv[2:]:
        job, number = name.split(":")
        out = Path(sys.argv[1]) / job / number
        out.mkdir(parents=True)
        wanted = _prepare(job, out.parent / f"in-{number}", out / "result")
        sys.stdout.write(f"{name}: {sweep(wanted, out / 'result', getattr(signal, number))} points\n")
