"""Form of a new piece: which options the page shows in front, and the command line of its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musiclora.bundled import BUNDLED_MODELS
from musiclora.errors import ConfigError
from musiclora.families import FamilySpec
from musiclora.ui.make_models import fields_for, find_architecture
from musiclora.ui.options import OptionField, choose_fields, command_arguments
from musiclora.ui.workspace import Workspace

PROMPT = ("prompt_bars", "from_end")  # beside the prompt
FRONT = ("max_new_tokens", "temperature", "seconds", "caption", "lyrics", "seed", "count")
OWN = ("output", "model", "adapters", "prompt", "init_audio", "repaint", "compare")  # controls of the page's own
HIDDEN = ("overwrite", "watched", "output_dir")
_FILE_OR_TEXT = ("style", "lyrics", "tokenizer")
_EDGE = -1.0  # of --repaint: the beginning, or the end


def prompt_fields(fields: Sequence[OptionField]) -> list[OptionField]:
    """Return the options that say how much of the prompt is used."""
    return choose_fields(fields, PROMPT)


def front_fields(fields: Sequence[OptionField]) -> list[OptionField]:
    """Return the options that are shown without unfolding."""
    return choose_fields(fields, FRONT)


def folded_fields(fields: Sequence[OptionField]) -> list[OptionField]:
    """Return the options that are shown when they are asked for."""
    return [field for field in fields if field.name not in (*PROMPT, *FRONT, *OWN, *HIDDEN)]


def form_fields(fields: Sequence[OptionField]) -> list[OptionField]:
    """Return the options that have a control built from them, in the order of the form."""
    return [*prompt_fields(fields), *front_fields(fields), *folded_fields(fields)]


@dataclass(frozen=True)
class PieceRequest:
    """Values of the form.

    Attributes:
        base: a bundled model, a folder or a Hub id; empty for the one that the adapters record.
        adapters: label and strength of each.
        prompt: label of a song to continue; empty for none.
        recording: label of a recording to continue or to repaint; empty for none.
        repaint: first and last second to generate again; None for none.
        options: values of `form_fields` by the name of the parameter.
    """

    base: str = ""
    adapters: Sequence[tuple[str, float]] = ()
    prompt: str = ""
    recording: str = ""
    repaint: tuple[float, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """Name for its pieces: that of the first adapter's run, or of the base."""
        if not self.adapters:
            return _plain_name(Path(self.base.strip()).name)
        path = Path(self.adapters[0][0])
        is_part = path.name in ("adapter-best", "adapter-last") and path.parent.name
        return _plain_name(path.parent.name if is_part else path.name)


def generation_arguments(
    workspace: Workspace, fields: Sequence[OptionField], request: PieceRequest, output: str
) -> list[str]:
    """Return the words after `musiclora generate` for the values of the form.

    Options that the model's architecture does not have are left out.

    Args:
        workspace: the page's folder, where the command runs.
        fields: options of the command.
        request: values of the form.
        output: value of `--output`, without a suffix: the command adds that of the family.

    Raises:
        ConfigError: neither adapter nor base is chosen, or a file is not in the page's folder.
    """
    if not request.adapters and not request.base.strip():
        raise ConfigError("choose an adapter, or a base to hear it alone")
    adapters = [(workspace.label(workspace.inside(label, "adapter")), strength) for label, strength in request.adapters]
    spec = find_architecture(workspace, request.base, [label for label, _ in adapters])
    own = fields_for(fields, spec)
    words = [f"--output={output}", *_base_words(workspace, request.base)]
    words += [f"--adapter-dir={label}:{strength:g}" for label, strength in adapters]
    words += ["--compare"] if adapters else []
    words += _given_words(workspace, request, spec)
    shown = [field for field in own if field.name not in (*OWN, *HIDDEN)]
    values = {field.name: _confined(workspace, field, request.options.get(field.name)) for field in shown}
    return words + command_arguments(shown, values)


def _base_words(workspace: Workspace, base: str) -> list[str]:
    name = base.strip()
    if not name:
        return []
    return [f"--model={name if name in BUNDLED_MODELS else workspace.confine(name, 'base')}"]


def _given_words(workspace: Workspace, request: PieceRequest, spec: FamilySpec | None) -> list[str]:
    """Return the words for the given music that the architecture takes."""
    words = []
    if request.prompt.strip() and (spec is None or "prompt" in spec.options):
        words.append(f"--prompt={workspace.label(workspace.inside(request.prompt, 'song'))}")
    if spec is not None and "init_audio" not in spec.options:
        return words
    if request.recording.strip():
        words.append(f"--init-audio={workspace.label(workspace.inside(request.recording, 'recording'))}")
        words += _repaint_words(request.repaint)
    return words


def _repaint_words(span: tuple[float, float] | None) -> list[str]:
    if span is None:
        return []
    start, end = span
    if _EDGE not in span and not 0 <= start < end:
        raise ConfigError(f"mark a span to generate again: {start:g} to {end:g} s is none")
    return ["--repaint", f"{start:g}", f"{end:g}"]


def _confined(workspace: Workspace, field: OptionField, value: Any) -> Any:
    """Return the value of an option; a file or folder must lie in the page's folder.

    Raises:
        ConfigError: it does not, or is not there.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return value
    if field.is_path:
        return workspace.label(workspace.inside(text, "file or folder"))
    return workspace.confine(text, "file") if field.name in _FILE_OR_TEXT else value


def _plain_name(text: str) -> str:
    """Return a name of letters, digits, - and _: a dot would pass for the beginning of a suffix."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text).strip("-")[:60] or "piece"
