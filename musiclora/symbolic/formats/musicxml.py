"""MusicXML, plain and compressed (MXL), as a score in ticks; music21 reads the notation.

Format: MusicXML 4.0, W3C Community Group report. Call it in a child process only.
"""

from __future__ import annotations

import io
import re
import zipfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from xml.etree import ElementTree

from musiclora.convert.errors import DataError

if TYPE_CHECKING:
    from symusic import Score

T = TypeVar("T")
MAX_XML_BYTES = 64 * 2**20  # unpacked
TICKS_PER_QUARTER = 5040  # divisible by the parts of every tuplet up to ten
_REPEATS = {"repeat", "segno", "coda"}
_JUMPS = {"dacapo", "dalsegno", "tocoda", "fine"}  # attributes of <sound>
_DRUM_CHANNEL = 9  # MIDI channel 10, counted from 0
_STEPS = tuple(zip("CCDDEFFGGAAB", (0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0), strict=True))  # step and alter of each key


def read_musicxml(path: Path) -> tuple[Score, tuple[str, ...]]:
    """Read a score with its repeats unfolded, ties joined, and transposing instruments at sounding pitch.

    Args:
        path: plain or compressed MusicXML.

    Returns:
        The score in ticks, and remarks on what is not in it.

    Raises:
        DataError: the file is too large, damaged, declares entities, or holds no score.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        data = file.read(MAX_XML_BYTES + 1)
    root = parse_xml(unpack_mxl(data) if data[:2] == b"PK" else data)
    drums, lost = _pitch_drums(root)
    unfolds = any(e.tag in _REPEATS or not _JUMPS.isdisjoint(e.keys()) for e in root.iter())
    score = _load(ElementTree.tostring(root, encoding="unicode"), unfolds)
    remarks = [f"{lost} drum notes without a MIDI key are left out"] if lost else []
    return _to_score(score, drums, remarks), tuple(remarks)


def unpack_mxl(data: bytes) -> bytes:
    """Return the score inside a compressed MusicXML file, the first one that its container names.

    Raises:
        DataError: it is damaged, or unpacks to more than MAX_XML_BYTES.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            place = None
            if "META-INF/container.xml" in names:
                container = parse_xml(_read_member(archive, "META-INF/container.xml"))
                place = next((e.get("full-path") for e in container.iter() if e.tag.endswith("rootfile")), None)
            scores = [n for n in names if n.endswith((".xml", ".musicxml")) and not n.startswith("META-INF/")]
            name = place if place in names else next(iter(scores), None)
            if name is None:
                raise DataError("the compressed MusicXML file holds no score")
            return _read_member(archive, name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise DataError(f"the compressed MusicXML file is damaged ({error})") from error


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        data = file.read(MAX_XML_BYTES + 1)  # what the archive says of the size may be wrong
    if len(data) > MAX_XML_BYTES:
        raise DataError(f"more than {MAX_XML_BYTES >> 20} MB unpacked; at most {MAX_XML_BYTES >> 20} MB are read")
    return data


def parse_xml(data: bytes) -> ElementTree.Element:
    """Parse XML that declares no entities, which could name other files or grow without bound.

    Raises:
        DataError: too large, damaged, or with entities.
    """
    if len(data) > MAX_XML_BYTES:
        raise DataError(f"more than {MAX_XML_BYTES >> 20} MB; at most {MAX_XML_BYTES >> 20} MB are read")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if declared := re.match(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)", data):
        encoding = declared[1].decode()
    try:
        text = re.sub(r"^\s*<\?xml[^>]*\?>", "", data.decode(encoding))
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(f"damaged MusicXML: not {encoding} text") from error
    if "<!ENTITY" in text:
        raise DataError("MusicXML that declares entities is not read; save it again in the program that wrote it")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"damaged MusicXML: {error}") from error


def _load(text: str, unfolds: bool) -> Any:
    """Read the notation, and unfold its repeats where it has any: that copies the whole score.

    Raises:
        DataError: it is no score that music21 reads, or music21 is not installed.
    """
    try:
        from music21 import converter
        from music21.exceptions21 import Music21Exception
    except ModuleNotFoundError as error:
        raise DataError("reading MusicXML needs music21: pip install 'musiclora[score]'") from error
    try:
        score = converter.parseData(text, format="musicxml")
        if not getattr(score, "parts", None):
            raise DataError("the MusicXML file holds no parts")
        return score.expandRepeats() if unfolds else score
    except Music21Exception as error:
        raise DataError(f"MusicXML that cannot be read: {' '.join(str(error).split())[:160]}") from error


def _pitch_drums(root: ElementTree.Element) -> tuple[set[str], int]:
    """Give unpitched notes the MIDI key of their instrument as pitch, in place.

    Returns:
        Ids and names of the parts on the drum channel, by which music21 calls them, and the number of notes
        whose key is not told.
    """
    drums, keys = set[str](), dict[str, int]()
    part_keys: dict[str, list[int]] = defaultdict(list)
    for part in root.iter("score-part"):
        for instrument in part.iter("midi-instrument"):
            if (instrument.findtext("midi-channel") or "").strip() == str(_DRUM_CHANNEL + 1):
                drums.add(part.get("id", ""))
            told = (instrument.findtext("midi-unpitched") or "").strip()
            if told.isdigit() and 1 <= int(told) <= 128:
                keys[instrument.get("id", "")] = int(told) - 1  # MusicXML counts from 1
                part_keys[part.get("id", "")].append(int(told) - 1)
    lost = 0
    for part in root.iter("part"):
        own = part_keys.get(part.get("id", ""), [])
        for note in part.iter("note"):
            unpitched = note.find("unpitched")
            if unpitched is None:
                continue
            drums.add(part.get("id", ""))
            named = note.find("instrument")
            key = keys.get(named.get("id", "")) if named is not None else own[0] if len(own) == 1 else None
            if key is None:
                lost += 1
                continue
            step, alter = _STEPS[key % 12]
            unpitched.clear()
            unpitched.tag = "pitch"
            for tag, value in (("step", step), ("alter", str(alter)), ("octave", str(key // 12 - 1))):
                ElementTree.SubElement(unpitched, tag).text = value
    names = {part.get("id", ""): (part.findtext("part-name") or "").strip() for part in root.iter("score-part")}
    pitched = {name for part, name in names.items() if part not in drums}
    return drums | ({names[part] for part in drums if part in names} - pitched), lost


def _to_score(stream: Any, drums: set[str], remarks: list[str]) -> Score:
    """Collect notes, tempos, metres and keys of a music21 stream."""
    from symusic import Score, Track

    score = Score(TICKS_PER_QUARTER)
    shift = _pickup_gap(stream.parts[0])
    grace = 0
    for part in stream.parts:
        is_drum = str(part.id).split("-Staff")[0] in drums  # music21 makes a part of each staff
        if not is_drum:
            part.toSoundingPitch(inPlace=True)
        by_program: dict[int, Any] = defaultdict(list)
        program_at = _programs(part)
        part.stripTies(inPlace=True)
        for note in part.flatten().notes:
            if note.duration.isGrace:
                grace += 1
                continue
            by_program[0 if is_drum else program_at(float(note.offset))] += _notes(note, shift)
        for program, notes in by_program.items():
            track = Track(str(part.partName or ""), program, is_drum)
            track.notes.extend(notes)
            if len(track.notes):
                track.notes.sort()
                score.tracks.append(track)
    if not score.note_num():
        raise DataError("the MusicXML file holds no notes")
    _add_marks(score, stream, shift)
    if grace:
        remarks.append(f"{grace} grace notes, which have no length of their own, are left out")
    return score


def _notes(element: Any, shift: float) -> Iterator[Any]:
    """Yield the notes of a note or chord; none of chord symbols, which are not played."""
    from music21.harmony import Harmony
    from symusic import Note

    if isinstance(element, Harmony) or not element.quarterLength:
        return
    velocity = min(127, max(1, round(127 * float(element.volume.getRealized()))))
    begin = _ticks(float(element.offset) + shift)
    length = max(1, _ticks(float(element.offset + element.quarterLength) + shift) - begin)
    for pitch in getattr(element, "pitches", ()):
        if 0 <= pitch.midi <= 127:
            yield Note(begin, length, int(pitch.midi), velocity)


def _programs(part: Any) -> Any:
    """Return a function that gives the General MIDI program at an offset in quarters."""
    from music21.instrument import Instrument

    found = sorted(
        (float(i.offset), int(i.midiProgram)) for i in part.flatten().getElementsByClass(Instrument) if i.midiProgram
    )
    offsets = [offset for offset, _ in found]

    def program_at(offset: float) -> int:
        place = bisect_right(offsets, offset) - 1
        return found[max(0, place)][1] if found else 0

    return program_at


def _pickup_gap(part: Any) -> float:
    """Return the quarters that a pickup bar lacks: its notes end on the first bar line."""
    first = part.getElementsByClass("Measure").first()
    if first is None:
        return 0.0
    gap = float(first.barDuration.quarterLength) - float(first.duration.quarterLength)
    return max(0.0, gap)


def _add_marks(score: Score, stream: Any, shift: float) -> None:
    """Add tempos of all parts, and metres and keys of the first one."""
    from symusic import KeySignature, Tempo, TimeSignature

    tempos: dict[int, float] = {}
    for part in stream.parts:
        for mark in part.flatten().getElementsByClass("MetronomeMark"):
            if speed := mark.getQuarterBPM():
                tempos.setdefault(_time_of(mark, shift), float(speed))
    score.tempos.extend(Tempo(time, qpm=speed) for time, speed in _changes(tempos))
    flat = stream.parts[0].flatten()
    metres = {_time_of(m, shift): (int(m.numerator), int(m.denominator)) for m in _marks(flat, "TimeSignature")}
    score.time_signatures.extend(TimeSignature(time, *metre) for time, metre in _changes(metres))
    keys = {
        _time_of(k, shift): (int(k.sharps), int(getattr(k, "mode", "major") == "minor"))
        for k in _marks(flat, "KeySignature")
        if -7 <= k.sharps <= 7
    }
    score.key_signatures.extend(KeySignature(time, *key) for time, key in _changes(keys))


def _marks(flat: Any, kind: str) -> Any:
    return flat.getElementsByClass(kind)


def _changes(marks: Mapping[int, T]) -> Iterator[tuple[int, T]]:
    """Yield marks in order of time, without those that say what holds already, as each unfolded repeat does."""
    last: T | None = None
    for time, mark in sorted(marks.items()):
        if mark != last:
            yield time, mark
        last = mark


def _time_of(mark: Any, shift: float) -> int:
    """Return the ticks of a mark; one at the beginning holds for the gap before a pickup too."""
    return _ticks(float(mark.offset) + shift) if mark.offset else 0


def _ticks(quarters: float) -> int:
    return round(quarters * TICKS_PER_QUARTER)
