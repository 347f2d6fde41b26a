"""What all tests share: the backend under test, a small base with our tokenizer, a folder of tunes."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path

import pytest
from require import REQUIRED

from musiclora.backends import registry
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint

os.environ.setdefault("MUSICLORA_COMPILE", "off")  # compiling a toy takes longer than every test of it
os.environ.setdefault("HF_HUB_OFFLINE", "1")
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg==")
TUNES = Path(__file__).parents[1] / "musiclora" / "bundled" / "tunes"


def usable(name: str) -> bool:
    """Whether a backend runs here; one that MUSICLORA_TEST_BACKENDS names must."""
    reason = registry.why_not(name)
    if reason and name in REQUIRED:
        pytest.fail(f"{name}: {reason}")
    return not reason


@pytest.fixture(scope="session", params=registry.BACKENDS)
def backend_name(request):
    """Every backend that is installed, one after the other."""
    if not usable(request.param):
        pytest.skip(f"{request.param}: {registry.why_not(request.param)}")
    return request.param


@pytest.fixture(scope="session")
def any_backend():
    """The first backend that is installed, for what does not depend on it."""
    names = [name for name in ("torch", "mlx") if usable(name)]
    if not names:
        pytest.skip("no backend is installed")
    return names[0]


@pytest.fixture(scope="session")
def both_backends():
    """Skips where one of the two is missing, unless it is required."""
    missing = [name for name in registry.BACKENDS if not usable(name)]
    if missing:
        pytest.skip(f"needs both backends; missing: {', '.join(missing)}")


@pytest.fixture(scope="module")
def plain_pictures():
    """Save every figure as one white pixel: laying out the text of a report takes longer than a short training.

    Figures are still composed. Reports, plots and demos are tested with real pictures.
    """
    from matplotlib.figure import Figure

    def save(self, target, **_settings):
        target.write(PIXEL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A GPT-2 of 100 k parameters with our tokenizer, as an HF folder; it knows nothing."""
    from musiclora.symbolic.tokens.tokenizers import own_tokenizer

    tokenizer = own_tokenizer()
    shape = Gpt2Config(
        tokenizer.vocab_size, 160, 32, 2, 2, 64, bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id
    )
    folder = tmp_path_factory.mktemp("base") / "tiny"
    extra = {"tokenizer.json": tokenizer.to_json().encode()}
    write_checkpoint(folder, shape, fresh_tensors(shape, 3), "hf", extra_files=extra)
    return folder


@pytest.fixture(scope="session")
def tunes(tmp_path_factory):
    """Eight bundled tunes in a folder."""
    folder = tmp_path_factory.mktemp("tunes")
    for path in sorted(TUNES.glob("*.abc"))[:8]:
        shutil.copy(path, folder)
    return folder
