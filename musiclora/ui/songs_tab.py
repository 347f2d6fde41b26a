"""Tab Songs: a folder's health, the base for it, and a look at each song."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from musiclora.errors import MusicLoraError
from musiclora.ui.commands import CommandState
from musiclora.ui.music_view import piece_player, piece_roll, view_piece
from musiclora.ui.songs import (
    BASE_HEADINGS,
    FolderHealth,
    add_songs,
    examine_folder,
    list_songs,
)
from musiclora.ui.state import Page
from musiclora.ui.status import error_status, status_text

if TYPE_CHECKING:
    from gradio.components import Component


def build_songs_tab(page: Page) -> tuple[Component, Component]:
    """Add the components of the tab to the page that is being built.

    Returns:
        The chosen folder, and the base that fits the folder examined last.
    """
    import gradio as gr

    workspace = page.workspace
    folders = workspace.music_folders()
    with gr.Accordion("Add songs", open=not folders):
        drop = gr.File(
            label="Drop a folder of songs here, or click to choose one",
            file_count="directory",
            height=140,
            elem_id="drop-songs",
        )
        with gr.Row():
            name = gr.Textbox(label="Name of the folder", value="my songs", max_lines=1, elem_id="songs-name")
            add = gr.Button("Add to the page's folder", elem_id="add-songs")
    with gr.Row(equal_height=True):
        folder = gr.Dropdown(
            folders,
            value=folders[0] if folders else None,
            label="Folder of songs or recordings",
            allow_custom_value=True,
            scale=4,
            elem_id="songs-folder",
        )
        refresh = gr.Button("Look again for folders", scale=1, elem_id="refresh-folders")
    examine = gr.Button("Examine", variant="primary", elem_id="examine")
    status = gr.HTML(status_text(""), elem_id="songs-status")
    best = gr.State("")
    bases = gr.Dataframe(
        headers=BASE_HEADINGS, label="Bases", interactive=False, visible=False, wrap=True, elem_id="bases"
    )
    with gr.Accordion("Details", open=False, visible=False) as details:
        remarks = gr.Markdown(elem_id="songs-remarks")
    table = gr.Dataframe(headers=["file"], label="Songs", interactive=False, visible=False, wrap=True, elem_id="health")
    with gr.Row(equal_height=True):
        song = gr.Dropdown([], label="Song to look at", scale=4, elem_id="song")
        show = gr.Button("Show", scale=1, elem_id="show-song")
    roll = piece_roll("Piano roll", "song-roll", visible=False)
    sound = piece_player("Sound", "song-sound", visible=False)

    def add_files(files: list[str] | None, wanted: str) -> tuple[Any, ...]:
        try:
            label, line = add_songs(workspace, files or [], wanted)
        except (MusicLoraError, OSError) as error:
            return gr.update(), gr.update(), error_status(error)
        return gr.update(choices=workspace.music_folders(), value=label), None, status_text(line)

    def look_again() -> tuple[Any, ...]:
        found = workspace.music_folders()
        return gr.update(choices=found), status_text(f"{len(found)} folders with music below {workspace.root}")

    def examine_songs(label: str | None) -> Iterator[tuple[Any, ...]]:
        stay = (gr.update(),) * 6
        try:
            for found in examine_folder(workspace, label or ""):
                if isinstance(found, CommandState):
                    yield (status_text(f"reading the songs, {found.seconds:.0f} s. {found.line}"), *stay)
                    continue
                songs = gr.update(choices=list_songs(workspace, label or ""), value=None)
                yield (*_show_health(found), songs, found.best)
        except (MusicLoraError, OSError) as error:
            yield (error_status(error), *stay)

    def show_song(label: str | None) -> tuple[Any, ...]:
        try:
            view = view_piece(workspace.inside(label, "song"), page.cache)
        except (MusicLoraError, OSError) as error:
            return error_status(error), gr.update(), gr.update()
        line = error_status(view.problem) if view.problem else status_text("")
        return line, gr.update(value=view.roll, visible=bool(view.roll)), gr.update(value=view.sound, visible=True)

    outputs = [status, bases, table, details, remarks, song, best]
    add.click(add_files, [drop, name], [folder, drop, status], api_visibility="private").then(
        examine_songs, folder, outputs, api_visibility="private"
    )
    refresh.click(look_again, None, [folder, status], api_visibility="private")
    examine.click(examine_songs, folder, outputs, api_visibility="private", concurrency_limit=1)
    show.click(show_song, song, [status, roll, sound], api_visibility="private")
    song.select(show_song, song, [status, roll, sound], api_visibility="private")
    return folder, best


def _show_health(found: FolderHealth) -> tuple[Any, ...]:
    """Return the updates of status, bases, table, details and remarks."""
    import gradio as gr

    line = found.lines[0] if found.lines else ""
    if found.best:
        line += f"; begin with the base {found.best}"
    remarks = "\n".join(f"* {text}" for text in found.lines[1:])
    return (
        status_text(line),
        gr.update(value=list(found.bases), visible=bool(found.bases)),
        gr.update(value={"headers": list(found.headings), "data": list(found.rows)}, visible=bool(found.rows)),
        gr.update(visible=bool(remarks)),
        remarks,
    )
