"""Upload of an adapter or a model to the Hugging Face Hub, in one commit."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiclora.conversion.push_card import hub_card
from musiclora.conversion.push_files import CARD, PushFolder, collect_folder, find_secrets
from musiclora.convert.files.temporary import scratch_folder
from musiclora.errors import ConfigError, DataError
from musiclora.families import FamilySpec, spec_of_folder, spec_of_modules
from musiclora.formats import MUSIC_SUFFIXES
from musiclora.progress import Reporter

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelCard

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_TEXTS = (".json", ".md", ".txt")
_KINDS = {"adapter": "adapter_config.json", "model": "config.json"}
_OWN_FILES = {".gitattributes", CARD}  # of a repository in which nobody put anything yet


@dataclass(frozen=True)
class PushResult:
    """Result of a push, or of its dry run.

    Attributes:
        repository: OWNER/NAME.
        files: name and size in bytes of each file, the card among them.
        metadata: of the card.
        remarks: what the user should know.
        url: page of the repository; None for a dry run.
    """

    repository: str
    files: tuple[tuple[str, int], ...]
    metadata: dict[str, Any]
    remarks: tuple[str, ...]
    url: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the values for --json."""
        files = [{"path": name, "bytes": size} for name, size in self.files]
        facts = {"repository": self.repository, "files": files, "metadata": self.metadata}
        return {**facts, "remarks": list(self.remarks), "url": self.url}


def push_folder(
    name: str,
    repository: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    sample: Path | None = None,
    reporter: Reporter | None = None,
) -> PushResult:
    """Send an adapter or a model to the Hub; nothing is sent before everything is checked.

    Args:
        name: folder of the adapter or model, or a run folder.
        repository: OWNER/NAME; it is made where there is none, and updated where it holds an earlier push.
        private: make a new repository private.
        dry_run: list what would be sent, and send nothing.
        sample: a piece to show on the card; None takes the last sample of the run.
        reporter: told what happens.

    Raises:
        ConfigError: the names, the rights or the connection do not allow it.
        ConvertError: the folder is damaged.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"{repository}: give the repository as OWNER/NAME, of letters, digits, -, _ and .")
    out = reporter or Reporter()
    folder = collect_folder(name)
    spec = _spec_of(folder)
    with scratch_folder() as scratch:
        media, remarks = _make_media(folder, sample, scratch)
        card = hub_card(folder, spec, repository, tuple(media))
        contents: dict[str, Path | bytes] = {**folder.files, **media, CARD: card.content.encode()}
        _refuse_secrets(contents, folder.songs)
        sizes = tuple((file, _size(content)) for file, content in sorted(contents.items()))
        result = PushResult(repository, sizes, card.data.to_dict(), tuple(remarks))
        if dry_run:
            return result
        url = _upload(repository, folder.kind, contents, card, private, out)
    return PushResult(repository, sizes, result.metadata, result.remarks, url)


def _spec_of(folder: PushFolder) -> FamilySpec:
    if folder.kind == "model":
        return spec_of_folder(folder.path)
    from musiclora.convert.adapters.lora import state_modules
    from musiclora.convert.adapters.peft import read_peft

    return spec_of_modules(state_modules(read_peft(folder.path).state), str(folder.path))


def _make_media(folder: PushFolder, sample: Path | None, scratch: Path) -> tuple[dict[str, Path | bytes], list[str]]:
    """Draw and render the piece of the card.

    Returns:
        Files by their names in the repository, and remarks.
    """
    piece = sample or next(iter(folder.samples), None)
    if piece is None:
        return {}, ["no sample is on the card: train with --sample-every, or give one with --sample FILE"]
    if not piece.is_file():
        raise ConfigError(f"--sample {piece}: there is no such file")
    if piece.suffix.lower() not in MUSIC_SUFFIXES:
        return {f"sample{piece.suffix.lower()}": piece}, []
    from musiclora.symbolic.render import render_file

    found: dict[str, Path | bytes] = {}
    remarks = []
    for suffix in (".mid", ".png", ".wav"):
        target = scratch / f"sample{suffix}"
        try:
            render_file(piece, target)
        except DataError as error:  # such as no synthesiser
            remarks.append(str(error))
            continue
        found[target.name] = target.read_bytes()
    return found, remarks


def _refuse_secrets(contents: dict[str, Path | bytes], songs: tuple[str, ...]) -> None:
    texts = {
        name: (content if isinstance(content, bytes) else content.read_bytes()).decode(errors="replace")
        for name, content in contents.items()
        if Path(name).suffix in _TEXTS
    }
    if found := find_secrets(texts, songs):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(f"nothing was sent: {found[0]}{more}; take it out of the file first")


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _upload(
    repository: str, kind: str, contents: dict[str, Path | bytes], card: ModelCard, private: bool, out: Reporter
) -> str:
    """Check rights and names, then send all files in one commit."""
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if not get_token():
        raise ConfigError("no token for the Hub: run hf auth login, or set HF_TOKEN to one that may write")
    api = HfApi()
    with _one_line(repository, "nothing was sent"):
        user = api.whoami()["name"]
        out.say(f"signed in as {user}")
        _validate(card)
        _check_repository(api, repository, kind)
        url = str(api.create_repo(repository, private=private, exist_ok=True))
    operations = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in sorted(contents.items())
    ]
    out.say(f"sending {len(operations)} files, {sum(map(_size, contents.values())) / 1e6:.1f} MB")
    with _one_line(repository, "no file of it was changed; the same command tries again"):
        api.create_commit(repository, operations, commit_message=f"Upload {kind} with musiclora")
    return url


def _validate(card: ModelCard) -> None:
    """Ask the Hub whether it takes the card's metadata; `ModelCard.validate` asks a fixed host in older versions.

    Raises:
        ConfigError: it does not.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session, hf_raise_for_status

    body = {"content": card.content, "repoType": "model"}
    answer = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=body, headers={"Accept": "text/plain"})
    if answer.status_code == 400:
        raise ConfigError(f"the Hub does not take the card's metadata: {' '.join(answer.text.split())[:300]}")
    hf_raise_for_status(answer)


def _check_repository(api: HfApi, repository: str, kind: str) -> None:
    """Refuse a repository that holds something else than an earlier push of the same kind."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        files = set(api.list_repo_files(repository))
    except RepositoryNotFoundError:
        return
    if files <= _OWN_FILES or _KINDS[kind] in files:
        return
    what = "an adapter" if kind == "adapter" else "a model"
    raise ConfigError(f"{repository}: holds something else than {what}; take another name")


@contextmanager
def _one_line(repository: str, state: str) -> Iterator[None]:
    """Turn errors of the Hub and of the connection into one line."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    failures: list[type[BaseException]] = [HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError, RuntimeError]
    # huggingface_hub below 1.0 speaks through requests, whose errors are OSErrors; then came httpx, then httpx2
    failures += [sys.modules[name].HTTPError for name in ("httpx", "httpx2") if name in sys.modules]
    try:
        yield
    except ConfigError:
        raise
    except tuple(failures) as error:
        raise ConfigError(f"{repository}: {_reason(error)}; {state}") from error


def _reason(error: BaseException) -> str:
    response = getattr(error, "response", None)
    code = getattr(response, "status_code", None)
    known = {
        401: "the Hub does not know this token; run hf auth login",
        403: "this token may not write there; make one with write access, or take a name of your own",
        409: "the name exists already",
    }
    if code in known:
        return known[code]
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "the Hub is switched off by HF_HUB_OFFLINE"
    text = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())[:200]
    return f"the upload failed ({text})" if code is None else f"the Hub answered {code} ({text})"
