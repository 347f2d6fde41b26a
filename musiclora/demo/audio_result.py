"""Options and result of the audio demo."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from musiclora.audio.copying import AudioFolderCopies
from musiclora.demo.demo_run import DemoOptions, DemoResult
from musiclora.evaluation.artefacts.compare import ArtefactComparison
from musiclora.evaluation.artefacts.section import describe_artefacts
from musiclora.evaluation.audio_distances import Distances, Spread
from musiclora.evaluation.kernel_distance import KernelDistance

AFD, SPECTRAL = "Audio Feature Distance", "Spectral Distance"


@dataclass(frozen=True)
class AudioDemoOptions(DemoOptions):
    """Settings of the audio demo.

    Attributes:
        takes, train_seconds: number of recordings to train on, and the least length of each.
        held_seconds: least length of the recording to compare with.
        loudness: root mean square of the pieces that are encoded, in dB of full scale; low enough for the codec.
        grid: points of the time axis in generation.
        guidance: strength of the style; None is the model's own.
    """

    steps: int = 150
    rows: int = 6
    lr: float = 1e-3
    pieces: int = 32
    takes: int = 24
    train_seconds: float = 12.0
    held_seconds: float = 180.0
    loudness: float = -25.0
    grid: int = 24
    guidance: float | None = None


@dataclass(frozen=True)
class DistanceRow:
    """One distance to the recordings, of both models' music and of the recordings themselves.

    Attributes:
        name: with its unit.
        base, adapted: distances of the two models' music.
        nearer: share of the base's distance that the adapter removes.
        real: distance between halves of the recordings.
        form: number format.
        short: name for a sentence.
    """

    name: str
    base: Spread
    adapted: Spread
    nearer: Spread
    real: Spread
    form: str
    short: str

    def describe_change(self) -> str:
        """Format `Spectral Distance 16 % nearer`."""
        share = self.nearer.value
        return f"{self.short} {abs(share):.0%} {'nearer' if share > 0 else 'farther'}"


@dataclass(frozen=True)
class AudioDemoResult(DemoResult):
    """Result of the audio demo.

    Attributes:
        base, adapted: distances of their music to renders of tunes that nothing was trained or chosen by.
        nearer: share by which the adapted music is nearer, for both distances.
        pairs: files by base and adapted model from the same noise.
        held_out: the renders compared with.
        soundfont: file that everything was rendered with.
        kernels: squared MMD of both models' music; None where it was not measured.
        artefacts: of both models' music and of the recordings; None likewise.
        copies: what the adapted music copies of the recordings that were trained on; None likewise.
    """

    base: Distances
    adapted: Distances
    nearer: tuple[Spread, Spread]
    pairs: list[tuple[Path, Path]]
    held_out: list[Path]
    soundfont: Path
    kernels: tuple[KernelDistance, KernelDistance] | None = None
    artefacts: ArtefactComparison | None = None
    copies: AudioFolderCopies | None = None

    def distance_rows(self) -> list[DistanceRow]:
        """Return both distances as rows of a table."""
        base, adapted, (by_feature, by_spectrum) = self.base, self.adapted, self.nearer
        return [
            DistanceRow(AFD, base.afd, adapted.afd, by_feature, base.real_afd, ".3g", AFD),
            DistanceRow(
                f"{SPECTRAL}, dB²", base.spectral, adapted.spectral, by_spectrum, base.real_spectral, ".1f", SPECTRAL
            ),
        ]

    def verdict(self) -> tuple[str, str]:
        """Return a style of the report (gained, flat, lost), and the achievement as a sentence."""
        rows = self.distance_rows()
        changes = " and ".join(row.describe_change() for row in rows)
        shares = [row.nearer for row in rows]
        if min(share.value for share in shares) > 0:
            unsure = [row.short for row in rows if row.nearer.low <= 0]
            doubt = f" (over other clips it may be none: {' and '.join(unsure)})" if unsure else ""
            return ("flat" if unsure else "gained"), f"the adapted music is nearer to the recordings: {changes}{doubt}"
        if max(share.value for share in shares) > 0:
            return "flat", f"the adapted music is nearer to the recordings by one distance only: {changes}"
        return "lost", f"the adapter did NOT bring the music nearer to the recordings: {changes}"

    def lines(self) -> list[str]:
        """Describe the result in lines."""
        return [
            self.verdict()[1],
            *self.training.lines(),
            f"{self.base.generated} clips each, against {self.base.reference} clips of tunes that nothing was trained "
            "or chosen by; smaller is nearer:",
            *(
                f"{r.name}: {r.base.value:{r.form}} by the base, {r.adapted.value:{r.form}} adapted "
                f"(95 % of the share nearer, over clips: {r.nearer.low:.0%} to {r.nearer.high:.0%}); "
                f"real against real {r.real.value:{r.form}}"
                for r in self.distance_rows()
            ),
            *self._kernel_lines(),
            *([describe_artefacts(self.artefacts)] if self.artefacts else []),
            *([self.copies.summary()] if self.copies else []),
            f"rendered with {self.soundfont.name} ({self.soundfont})",
            self.last_line(),
        ]

    def _kernel_lines(self) -> list[str]:
        """Format the kernel distance; empty where it was not measured."""
        base, adapted = self.kernels or (None, None)
        if not (base and base.mmd and adapted and adapted.mmd):
            return []
        real = f"; real against real {adapted.real.value:.3f}" if adapted.real else ""
        return [f"{adapted.title}: {base.mmd.value:.3f} by the base, {adapted.mmd.value:.3f} adapted{real}"]

    def record(self) -> dict[str, Any]:
        """Return the values for --json."""
        more: dict[str, Any] = self.artefacts.as_json() if self.artefacts else {}
        more |= self.copies.as_json() if self.copies else {}
        if self.kernels:
            base, adapted = self.kernels
            more["kernel"] = {"base": base.as_json(), "real_vs_real": base.real_json(), "adapted": adapted.as_json()}
        reductions = [asdict(spread) for spread in self.nearer]
        return self.record_with(
            {
                "soundfont": str(self.soundfont),
                "verdict": self.verdict()[1],
                "base": asdict(self.base),
                "adapted": asdict(self.adapted),
                "afd_reduction": reductions[0],
                "spectral_distance_reduction": reductions[1],
                **more,
            }
        )
