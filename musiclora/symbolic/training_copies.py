"""Samples of a symbolic training run against its songs, copies and style, and the copy index of its adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from musiclora.adapters import Adapter, training_songs
from musiclora.backends.base import TokenModel
from musiclora.errors import DataError
from musiclora.evaluation.copies.index_file import COPY_INDEX, copy_index_bytes, identify_songs
from musiclora.evaluation.copies.meter import CopyMeter
from musiclora.evaluation.copies.notes import NoteList
from musiclora.evaluation.copies.samples import SampleCopies, summarise_copies
from musiclora.evaluation.sample_findings import SampleFindings
from musiclora.symbolic.copying import notes_of, notes_of_pieces
from musiclora.symbolic.dataset.songs import Songs, one_of_each_song
from musiclora.symbolic.decoding.pieces import generate_pieces
from musiclora.symbolic.decoding.redraw import redraw_seed
from musiclora.symbolic.decoding.request import GeneratedPiece, GenerationRequest
from musiclora.symbolic.decoding.songs_record import programs_in, songs_instruments
from musiclora.symbolic.style import style_of_samples
from musiclora.symbolic.tokens.protocol import SymbolicTokenizer

_SAMPLE_TOKENS = 256
_ATTEMPTS = 3  # to draw samples that all have notes


@dataclass(frozen=True)
class TrainingCopies:
    """What a run knows of copies of its songs.

    Attributes:
        songs: split songs.
        tokenizer: theirs.
        started_from: adapter that training starts from, whose songs count too; None for a new adapter.
    """

    songs: Songs
    tokenizer: SymbolicTokenizer
    started_from: Adapter | None = None

    def measure_samples(
        self, model: TokenModel, count: int, seed: int, notes_at_once: int | None = None
    ) -> SampleCopies | None:
        """Generate samples and measure them; None where a sample has no note, or no song has an n-gram.

        Args:
            model: the model as it is now.
            count: number of samples.
            seed: of the samples.
            notes_at_once: most notes that begin at one onset.
        """
        if self._meter is None:  # nothing is generated in vain
            return None
        pieces, _ = self._draw(model, count, seed, notes_at_once)
        return self._measure(pieces)

    def judge_samples(
        self, model: TokenModel, count: int, seed: int, notes_at_once: int | None = None
    ) -> SampleFindings:
        """Generate samples of the adapted model and of its base, and measure copies and style.

        Args:
            model: with its adapter switched on, as it is again afterwards.
            count: number of samples of each.
            seed: of the samples.
            notes_at_once: most notes that begin at one onset.
        """
        pieces, attempt = self._draw(model, count, seed, notes_at_once)
        if not pieces:
            return SampleFindings()
        model.set_adapter(False)
        try:
            bases, base_attempt = self._draw(model, count, seed, notes_at_once)
        finally:
            model.set_adapter(True)
        return SampleFindings(
            self._measure(pieces),
            style_of_samples(self.songs, self.tokenizer, pieces, bases, matched=attempt == base_attempt),
        )

    def _draw(
        self, model: TokenModel, count: int, seed: int, notes_at_once: int | None
    ) -> tuple[list[GeneratedPiece], int]:
        """Generate samples that all have notes, and return them with the number of the attempt; none after the last."""
        tokens = min(_SAMPLE_TOKENS, model.n_positions - 1)
        for attempt in range(_ATTEMPTS):
            drawn = redraw_seed(seed, attempt)
            request = GenerationRequest(tokens, seed=drawn, count=count, notes_at_once=notes_at_once)
            request = dataclasses.replace(request, instruments=songs_instruments(self.programs))
            with suppress(DataError):  # one of the pieces has no note
                return generate_pieces(model, self.tokenizer, request), attempt
        return [], _ATTEMPTS

    def _measure(self, pieces: Sequence[GeneratedPiece]) -> SampleCopies | None:
        """Measure what pieces copy; None without pieces."""
        if self._meter is None:
            return None
        return summarise_copies([self._meter.measure(notes_of("", piece.score)) for piece in pieces])

    def copied_spans(self, sample: Path) -> Sequence[tuple[float, float]]:
        """Return first and last onset of copied passages of a MIDI file, in quarter notes."""
        from symusic import Score

        return self._meter.measure(notes_of(sample.name, Score(sample))).copied_spans if self._meter else ()

    @cached_property
    def programs(self) -> Sequence[int]:
        """Programs of the training songs, -1 for drums; empty where the tokens hold none."""
        if not self.tokenizer.holds.programs:
            return ()
        return programs_in(self.tokenizer.decode(piece.tokens) for piece in one_of_each_song(self.songs.train))

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        """The copy index of the adapter's folder; empty where no song has an n-gram."""
        earlier, known = None, set[str]()
        if self.started_from is not None:
            known = training_songs([self.started_from])
            earlier = self.started_from.path / COPY_INDEX
        identity = identify_songs({*(piece.fingerprint for piece in self.songs.train), *known})
        content = copy_index_bytes(*self._notes, identity, earlier if earlier and earlier.is_file() else None)
        return {COPY_INDEX: content} if content else {}

    @cached_property
    def _notes(self) -> tuple[list[NoteList], list[NoteList]]:
        """Notes of the training and of the held-out songs."""
        return notes_of_pieces(self.songs.train, self.tokenizer), notes_of_pieces(self.songs.held_out, self.tokenizer)

    @cached_property
    def _meter(self) -> CopyMeter | None:
        try:
            return CopyMeter.from_songs(*self._notes)
        except DataError:
            return None
