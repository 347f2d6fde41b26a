"""View of the pieces that were made: base and adapted side by side, A/B player, downloads."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiclora.errors import MusicLoraError
from musiclora.ui.make_downloads import piece_formats, prepare_download
from musiclora.ui.make_pieces import MadeFile, Pair, Piece, list_pieces, read_piece
from musiclora.ui.make_player import ab_player, player_value
from musiclora.ui.music_view import PieceView, piece_player, piece_roll, view_piece
from musiclora.ui.state import Page
from musiclora.ui.status import error_status, status_text

if TYPE_CHECKING:
    from gradio.components import Component

_QUIET = {"api_visibility": "private", "show_progress": "hidden"}
_SIDES = {"adapted": "with the adapters", "base": "the base alone"}


@dataclass(frozen=True)
class _Side:
    """Controls of one side of a pair."""

    column: Any
    line: Component
    roll: Component
    sound: Component

    @property
    def controls(self) -> list[Any]:
        return [self.column, self.line, self.roll, self.sound]


class PiecesView:
    """View of one piece, and the list of all that were made on the page.

    Attributes:
        piece: list of the pieces; a piece is shown by choosing it here.
    """

    def __init__(self, page: Page) -> None:
        """Add the view to the page that is being built."""
        import gradio as gr

        self._page = page
        # Gradio serves the files of its own cache, which serve.py has put here
        self._cache = page.cache / "gradio" / "pieces"
        labels = list_pieces(page.workspace)
        self.piece = gr.Dropdown(labels, value=None, label="Pieces made so far", elem_id="piece", visible=bool(labels))
        self._number = gr.Radio([], label="Piece of the series", visible=False, elem_id="piece-number")
        self._status = gr.HTML(status_text(""), elem_id="piece-status")
        self._player = ab_player("ab-player")
        with gr.Row():
            self._base = _build_side("base", "The base alone")
            self._adapted = _build_side("adapted", "With the adapters")
        self._notes = gr.Markdown(visible=False, elem_id="piece-notes")
        self._build_downloads()
        columns = [self._player, self._base.column, self._adapted.column]
        series = [self._number, self._notes, self._downloads, self._status, *columns]
        self.piece.change(self._show_piece, self.piece, series, **_QUIET).then(
            self._show_pair, [self.piece, self._number], self._pair_controls, **_QUIET
        )
        self._number.input(self._show_pair, [self.piece, self._number], self._pair_controls, **_QUIET)
        self.piece.focus(lambda: gr.update(choices=list_pieces(page.workspace)), None, self.piece, **_QUIET)
        gr.on([gr.context.Context.root_block.load], self.find_latest, None, self.piece, **_QUIET)

    def find_latest(self) -> Any:
        """Return the update of the list that chooses the latest piece."""
        import gradio as gr

        labels = list_pieces(self._page.workspace)
        return gr.update(choices=labels, value=next(iter(labels), None), visible=bool(labels))

    @property
    def _pair_controls(self) -> list[Any]:
        return [self._status, self._player, *self._base.controls, *self._adapted.controls, *self._choices, self._file]

    @property
    def _choices(self) -> list[Any]:
        """Lists of the sides and of the formats of a download."""
        return [self._side, self._format]

    def _build_downloads(self) -> None:
        import gradio as gr

        with gr.Group(visible=False) as self._downloads:
            with gr.Row(equal_height=True):
                self._side = gr.Radio([], label="Download", elem_id="download-side")
                self._format = gr.Radio([], label="As", elem_id="download-format")
                button = gr.Button("Prepare the file", elem_id="download")
            self._file = gr.File(label="File to download", interactive=False, visible=False, elem_id="download-file")
        inputs = [self.piece, self._number, self._side, self._format]
        button.click(self._download, inputs, [self._status, self._file], api_visibility="private")

    def _show_piece(self, label: str | None) -> tuple[Any, ...]:
        """Return the updates of series, remarks, downloads, status, and of the pair, which is not drawn yet."""
        import gradio as gr

        hidden = (gr.update(visible=False),) * 3
        no_series = gr.update(choices=[], value=None, visible=False)
        if not label:
            return no_series, *hidden[:2], status_text(""), *hidden
        try:
            piece = read_piece(self._page.workspace, label)
        except (MusicLoraError, OSError) as error:
            return no_series, *hidden[:2], error_status(error), *hidden
        numbers = list(range(1, len(piece.pairs) + 1))
        series = gr.update(choices=numbers, value=1, visible=len(numbers) > 1)
        remarks = gr.update(value=_remarks(piece), visible=True)
        return series, remarks, gr.update(visible=True), status_text("drawing and playing the piece"), *hidden

    def _show_pair(self, label: str | None, number: int | None) -> tuple[Any, ...]:
        """Return the updates of `_pair_controls`."""
        import gradio as gr

        if not label:
            return (gr.skip(),) * len(self._pair_controls)
        try:
            pair = self._pair(label, number)
            views = {name: self._view(file) for name, file in _files(pair).items()}
        except (MusicLoraError, OSError) as error:
            empty = (gr.update(visible=False), "", None, None)
            gone = gr.update(visible=False)
            return error_status(error), gone, *empty, *empty, *(gr.update(choices=[], value=None),) * 2, gone
        problem = "; ".join(dict.fromkeys(view.problem for view in views.values() if view.problem))
        base, adapted = (views[name].sound if name in views else None for name in ("base", "adapted"))
        both = player_value(base, adapted) if base and adapted else None
        sides = [(_SIDES[name], name) for name in reversed(views)]
        formats = piece_formats(self._page.fields["render"], next(iter(_files(pair).values())).path)
        return (
            error_status(problem) if problem else status_text(""),
            gr.update(value=both, visible=both is not None),
            *_side_updates(pair.base, views.get("base")),
            *_side_updates(pair.adapted, views.get("adapted")),
            gr.update(choices=sides, value=sides[0][1]),
            gr.update(choices=formats, value=formats[0]),
            gr.update(value=None, visible=False),
        )

    def _pair(self, label: str | None, number: int | None) -> Pair:
        pairs = read_piece(self._page.workspace, label).pairs
        return pairs[min(max(int(number or 1), 1), len(pairs)) - 1]

    def _view(self, file: MadeFile) -> PieceView:
        return view_piece(file.path, self._cache)

    def _download(self, label: str | None, number: int | None, side: str | None, name: str | None) -> tuple[Any, ...]:
        import gradio as gr

        try:
            file = _files(self._pair(label, number)).get(side or "")
            if file is None:
                return error_status("choose a piece first"), gr.update(visible=False)
            target, remarks = prepare_download(self._page.workspace, file.path, name, self._cache)
        except (MusicLoraError, OSError) as error:
            return error_status(error), gr.update(visible=False)
        line = "; ".join([f"{target.name} is ready", *remarks])
        return status_text(line), gr.update(value=str(target), visible=True)


def _build_side(name: str, title: str) -> _Side:
    import gradio as gr

    with gr.Column(min_width=300, visible=False) as column:
        gr.Markdown(f"**{title}**")
        line = gr.HTML("", elem_id=f"{name}-line")
        roll = piece_roll(f"Piano roll: {title}", f"piece-{name}-roll")
        sound = piece_player(title, f"piece-{name}-sound")
    return _Side(column, line, roll, sound)


def _files(pair: Pair) -> dict[str, MadeFile]:
    return {name: file for name, file in (("base", pair.base), ("adapted", pair.adapted)) if file}


def _side_updates(file: MadeFile | None, view: PieceView | None) -> tuple[Any, ...]:
    """Return the updates of column, line, roll and sound."""
    import gradio as gr

    if file is None or view is None:
        return gr.update(visible=False), "", None, None
    return (
        gr.update(visible=True),
        status_text(file.line),
        gr.update(value=_text(view.roll), visible=view.roll is not None),
        gr.update(value=_text(view.sound), visible=view.sound is not None),
    )


def _text(path: Path | None) -> str | None:
    return str(path) if path else None


def _remarks(piece: Piece) -> str:
    """Format the remarks of the command, and the command itself, as Markdown."""
    lines = [f"* {' '.join(note.split())}" for note in piece.notes]
    command = f"The same on the command line:\n\n    musiclora generate {shlex.join(piece.arguments)}\n"
    return "\n".join([*lines, "", command])
