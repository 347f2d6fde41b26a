"""A/B player: one position, two recordings, and a switch between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from gradio.components import Component

_TEMPLATE = """
<div class="ab" role="group" aria-label="Player that switches between base and adapted">
  <button type="button" class="ab-play">Play</button>
  <button type="button" class="ab-base" aria-pressed="false">A: base</button>
  <button type="button" class="ab-adapted" aria-pressed="true">B: adapted</button>
  <input type="range" class="ab-seek" min="0" max="1" step="0.01" value="0" aria-label="Position in seconds">
  <span class="ab-time">0:00</span>
  <small class="ab-keys">Keys in this player: A base, B adapted, P plays and pauses</small>
</div>
"""

_STYLE = """
.ab { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; padding: 8px 0; }
.ab button { padding: 6px 14px; border: 1px solid #78716c; border-radius: 6px; color: inherit; }
.ab button[aria-pressed="true"] { background: #92400e; border-color: #92400e; color: #fff; font-weight: 600; }
.ab .ab-seek { flex: 1 1 160px; min-width: 120px; accent-color: #b45309; }
.ab .ab-time { font-variant-numeric: tabular-nums; }
.ab .ab-keys { flex-basis: 100%; opacity: 0.85; }
"""

_SCRIPT = """
const find = name => element.querySelector('.ab-' + name);
const sounds = { base: new Audio(), adapted: new Audio() };
let side = 'adapted';
const current = () => sounds[side];
const clock = s => Math.floor(s / 60) + ':' + String(Math.floor(s % 60)).padStart(2, '0');
const show = () => {
  const length = current().duration || 0;
  find('seek').max = length || 1;
  find('seek').value = current().currentTime;
  find('seek').setAttribute('aria-valuetext', clock(current().currentTime) + ' of ' + clock(length));
  find('time').textContent = clock(current().currentTime) + ' / ' + clock(length);
  find('play').textContent = current().paused ? 'Play' : 'Pause';
  for (const name of ['base', 'adapted']) find(name).setAttribute('aria-pressed', String(name === side));
};
const choose = name => {
  if (name === side) return;
  const old = current(), playing = !old.paused;
  old.pause();
  side = name;
  current().currentTime = Math.min(old.currentTime, current().duration || old.currentTime);
  if (playing) current().play();
  show();
};
const toggle = () => (current().paused ? current().play() : current().pause());
const load = () => {
  for (const name in sounds) {
    sounds[name].pause();
    sounds[name].preload = 'auto';
    if (props.value && props.value[name]) sounds[name].src = props.value[name];
    else sounds[name].removeAttribute('src');
  }
  show();
};
for (const name in sounds)
  for (const event of ['timeupdate', 'loadedmetadata', 'play', 'pause', 'ended'])
    sounds[name].addEventListener(event, show);
find('play').onclick = toggle;
find('base').onclick = () => choose('base');
find('adapted').onclick = () => choose('adapted');
find('seek').oninput = event => { current().currentTime = Number(event.target.value); };
element.addEventListener('keydown', event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const act = { a: () => choose('base'), b: () => choose('adapted'), p: toggle }[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});
element.sounds = sounds;
watch('value', load);
load();
"""


def ab_player(elem_id: str) -> Component:
    """Build the player inside the page that is being built; its value is that of `player_value`, or None."""
    import gradio as gr

    return gr.HTML(
        None, html_template=_TEMPLATE, css_template=_STYLE, js_on_load=_SCRIPT, visible=False, elem_id=elem_id
    )


def player_value(base: Path, adapted: Path) -> Mapping[str, str]:
    """Return the addresses of two recordings that lie in Gradio's cache."""
    return {name: f"/gradio_api/file={quote(str(path))}" for name, path in (("base", base), ("adapted", adapted))}
