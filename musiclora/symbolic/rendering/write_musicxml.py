"""MusicXML of a notated score, by music21."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import Any

from musiclora.convert.errors import DataError
from musiclora.symbolic.rendering.notation import NotatedChord, NotatedPart, Notation


def musicxml_of(notation: Notation, title: str) -> bytes:
    """Return a score as MusicXML 4.0: a part for each track, drums on a percussion staff.

    Args:
        notation: the score.
        title: heading of the score.

    Raises:
        DataError: music21 is not installed.
    """
    try:
        from music21 import metadata, stream
        from music21.musicxml.m21ToXml import GeneralObjectExporter
    except ModuleNotFoundError as error:
        raise DataError("writing MusicXML needs music21: pip install 'musiclora[score]'") from error

    score = stream.Score()
    score.insert(0, metadata.Metadata(title=title))
    for number, part in enumerate(notation.parts):
        score.insert(0, _part_stream(part, notation, with_tempos=not number))
    data: bytes = GeneralObjectExporter(score).parse()
    return data


def mxl_of(xml: bytes) -> bytes:
    """Pack MusicXML into a compressed file (MXL): a zip with a container that names the score."""
    container = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<container><rootfiles>'
        '<rootfile full-path="score.musicxml"/></rootfiles></container>\n'
    )
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (("META-INF/container.xml", container.encode()), ("score.musicxml", xml)):
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # a fixed date: the same bytes again
    return buffer.getvalue()


def _part_stream(part: NotatedPart, notation: Notation, *, with_tempos: bool) -> Any:
    from music21 import clef, key, meter, stream, tempo

    found = stream.Part()
    found.partName = part.name or None
    is_drums = part.program < 0
    found.insert(0, _instrument(part))
    if is_drums:
        found.insert(0, clef.PercussionClef())
    for onset, numerator, denominator in notation.metres:
        found.insert(onset, meter.TimeSignature(f"{numerator}/{denominator}"))
    if not is_drums:
        found.insert(0, key.KeySignature(notation.sharps).asKey("minor" if notation.minor else "major"))
    for onset, speed in notation.tempos if with_tempos else ():
        found.insert(onset, tempo.MetronomeMark(number=round(speed, 2)))
    for chord in part.chords:
        found.insert(chord.onset, _element(chord, is_drums))
    found.makeMeasures(inPlace=True)
    found.makeTies(inPlace=True)
    for measure in found.getElementsByClass(stream.Measure):
        if not measure.isSequence():
            measure.makeVoices(inPlace=True, fillGaps=True)
        measure.makeRests(inPlace=True, fillGaps=True, timeRangeFromBarDuration=True)
    return found


def _instrument(part: NotatedPart) -> Any:
    from music21 import instrument

    if part.program < 0:
        drums = instrument.UnpitchedPercussion()
        drums.partName = part.name or "Drums"
        drums.midiChannel = 9
        return drums
    try:
        found = instrument.instrumentFromMidiProgram(part.program)
    except instrument.InstrumentException:
        found = instrument.Instrument()
        found.midiProgram = part.program
    found.partName = part.name or found.instrumentName
    found.transposition = None  # the score is written at sounding pitch
    return found


def _element(chord: NotatedChord, is_drums: bool) -> Any:
    from music21 import chord as chords
    from music21 import note

    if len(chord.pitches) == 1:
        found = note.Note(chord.pitches[0])
    else:
        found = chords.Chord(list(chord.pitches))
    found.quarterLength = chord.length
    return found
