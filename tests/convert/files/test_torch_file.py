"""Files of torch, read without torch and without running their code."""

import io
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from require import require

from musiclora.convert.errors import ConvertError
from musiclora.convert.files.safetensors_file import checksum
from musiclora.convert.files.torch_file import TorchFile
from musiclora.convert.files.torch_pickle import load_pickle
from musiclora.convert.models.gpt2 import Gpt2Config, read_checkpoint, write_checkpoint


def archive(path: Path, data: bytes, entries: dict[str, bytes] | None = None, compress: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", data)
        for name, content in (entries or {}).items():
            file.writestr(f"archive/{name}", content)
    return path


def tensor_pickle(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, count: int = 6, key: str = "0"
) -> bytes:
    """Write by hand the pickle that torch writes for {"w": tensor}."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def sizes(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(number(value) for value in values) + b"t"

    name = struct.pack("<I", len(key)) + key.encode()
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX" + name + b"X\x03\0\0\0cpu" + number(count) + b"tQ"
    arguments = b"(" + storage + number(offset) + sizes(shape) + sizes(strides) + b"\x89ccollections\nOrderedDict\n)Rt"
    return b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_tensors_of_every_dtype_and_stride_read_as_torch_saved_them(zipped: bool, tmp_path: Path) -> None:
    torch = require("torch")
    base = torch.arange(48.0).reshape(6, 8)
    state = {
        "half": torch.randn(2, 3).half(),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "brain": torch.randn(3).bfloat16(),
        "count": torch.tensor(3),
        "flags": torch.tensor([True, False]),
        "transposed": base.t(),
        "window": base[2:4, 1:5],
        "empty": torch.zeros(0, 3),
    }
    saved = {"model_state_dict": state, "step": 5, "loss": 1.5, "nested": [1, {"x": (2, None)}]}
    torch.save(saved, tmp_path / "f.pt", _use_new_zipfile_serialization=zipped)
    file = TorchFile(tmp_path / "f.pt")
    assert (file.tree["step"], file.tree["loss"], file.tree["nested"]) == (5, 1.5, [1, {"x": (2, None)}])
    found = dict(file.read(file.tensors(file.tree["model_state_dict"]).items()))
    assert list(found) == list(state)
    for name, tensor in state.items():
        expected = tensor.detach().float().numpy() if name == "brain" else tensor.detach().numpy()
        assert found[name].shape == expected.shape
        assert np.array_equal(found[name].astype(expected.dtype), expected)
        assert found[name].dtype.name == str(tensor.dtype).removeprefix("torch.")


def test_a_torchscript_archive_reads_as_its_state_dict(tmp_path: Path) -> None:
    torch = require("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Conv1d(2, 4, 3))

        def forward(self, x: Any) -> Any:
            return self.blocks[0](x)

    import warnings

    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and files made with it are still around
        torch.jit.trace(net, torch.zeros(1, 3)).save(tmp_path / "net.pt")
    file = TorchFile(tmp_path / "net.pt")
    assert file.is_script
    found = dict(file.read(file.tensors().items()))
    assert {name: array.tolist() for name, array in found.items()} == {
        name: tensor.tolist() for name, tensor in net.state_dict().items()
    }


class _Runs:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "function",
    [os.system, os.open, eval, getattr, __import__, pickle.loads, print],
    ids=lambda function: function.__name__,
)
@pytest.mark.parametrize("script", [False, True], ids=["plain", "script"])
def test_a_pickle_that_asks_for_anything_else_is_refused_and_nothing_runs(
    function: Callable[..., Any], script: bool, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    data = pickle.dumps({"w": _Runs(function, f"touch {mark}")}, protocol=2)
    path = archive(tmp_path / "f.pt", data, {"constants.pkl": b""} if script else None)
    with pytest.raises(ConvertError, match=rf"asks for \w+\.{function.__name__}.*nothing was run"):
        TorchFile(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"garbage",
        b"\x80\x02}X\x01\0\0\0wq\0",
        b"\x80\x02(Uxt.",
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x02}p2000000000\n.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\0\0\0aK\x01sb.",
        tensor_pickle((3, 3), (3, 1)),
        tensor_pickle((2, 3), (4, 1)),
        tensor_pickle((2, 3), (3, 1), offset=1),
        tensor_pickle((2**40,), (0,)),
        tensor_pickle((-2, -3), (3, 1)),
        tensor_pickle((6,), (1,), count=-6),
        tensor_pickle((2,), (1, 1)),
    ],
    ids=[
        "empty",
        "cut",
        "garbage",
        "cut later",
        "bad string",
        "giant memo",
        "giant text memo",
        "giant string",
        "build on a class",
        "too large a shape",
        "too large a stride",
        "offset past the end",
        "expanded to terabytes",
        "negative shape",
        "negative storage",
        "strides missing",
    ],
)
def test_damaged_pickles_are_one_clear_error(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ConvertError):
        TorchFile(archive(tmp_path / "f.pt", data, {"data/0": bytes(24)}))


@pytest.mark.parametrize("compress", [False, True], ids=["stored", "deflated"])
def test_the_handmade_archive_reads_by_value(compress: bool, tmp_path: Path) -> None:
    content = {"data/0": np.arange(6, dtype=np.float32).tobytes()}
    file = TorchFile(archive(tmp_path / "f.pt", tensor_pickle((2, 2), (1, 3), 1), content, compress))
    assert dict(file.read(file.tensors().items()))["w"].tolist() == [[1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("entries", "named"),
    [({}, "w is damaged"), ({"data/0": bytes(20)}, "20 bytes, expected 24"), ({"data/0": bytes(28)}, "28 bytes")],
    ids=["missing", "short", "long"],
)
def test_a_storage_that_does_not_fit_names_its_tensor(entries: dict[str, bytes], named: str, tmp_path: Path) -> None:
    file = TorchFile(archive(tmp_path / "f.pt", tensor_pickle((2, 3), (3, 1)), entries))
    with pytest.raises(ConvertError, match=named):
        list(file.read(file.tensors().items()))


def test_a_storage_that_claims_terabytes_is_compared_before_it_is_allocated(tmp_path: Path) -> None:
    data = tensor_pickle((2, 3), (3, 1), count=2**47)
    file = TorchFile(archive(tmp_path / "f.pt", data, {"data/0": bytes(24)}))
    with pytest.raises(ConvertError, match=f"w is damaged .24 bytes, expected {2**49}"):
        list(file.read(file.tensors().items()))


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, 97, "encrypted"])
def test_members_that_torch_does_not_write_are_refused(kind: int | str, tmp_path: Path) -> None:
    path = archive(tmp_path / "f.pt", tensor_pickle((2, 3), (3, 1)), {"data/0": bytes(24)})
    raw = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = raw.index(signature)
        if isinstance(kind, str):
            raw[start + flags] |= 1
        else:
            raw[start + flags + 2] = kind
    path.write_bytes(raw)
    with pytest.raises(ConvertError, match=r"data.pkl.* is encrypted, or compressed in a way that torch does not use"):
        TorchFile(path)


@pytest.mark.parametrize("name", [b"n" * 600, "\ud800".encode("utf-8", "surrogatepass")], ids=["long", "surrogate"])
def test_a_name_that_no_output_can_hold_is_refused(name: bytes, tmp_path: Path) -> None:
    data = tensor_pickle((2, 3), (3, 1)).replace(b"X\x01\0\0\0w", b"X" + struct.pack("<I", len(name)) + name)
    file = TorchFile(archive(tmp_path / "f.pt", data, {"data/0": bytes(24)}))
    with pytest.raises(ConvertError, match="a tensor's name has more than 500 characters, or is no valid text"):
        file.tensors()


def test_a_mutated_archive_raises_our_own_errors_only(tmp_path: Path) -> None:
    data = archive(tmp_path / "f.pt", tensor_pickle((2, 3), (3, 1)), {"data/0": bytes(24)}).read_bytes()
    draw = random.Random(1)
    refused = 0
    for _ in range(300):
        raw = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            raw[draw.randrange(len(raw))] = draw.choice([0, 1, 14, 255, draw.randrange(256)])
        (tmp_path / "m.pt").write_bytes(raw)
        try:
            file = TorchFile(tmp_path / "m.pt")
            list(file.read(file.tensors().items()))
        except ConvertError:
            refused += 1
    assert refused > 100


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    content = np.arange(6, dtype=np.float32).tobytes()
    path = archive(tmp_path / "f.pt", tensor_pickle((2, 3), (3, 1)), {"data/0": content})
    raw = bytearray(path.read_bytes())
    raw[raw.index(content) + 9] ^= 1
    path.write_bytes(raw)
    file = TorchFile(path)
    with pytest.raises(ConvertError, match="w is damaged"):
        list(file.read(file.tensors().items()))


def test_the_stated_checksum_is_that_of_a_tensor_which_is_its_whole_storage_in_order(tmp_path: Path) -> None:
    torch = require("torch")
    base = torch.arange(48.0).reshape(6, 8)
    whole = {"matrix": base.clone(), "brain": torch.randn(1, 5, 1).bfloat16(), "scalar": torch.tensor(3)}
    others = {"transposed": base.t(), "rows": base[1:], "first rows": base[:2]}
    torch.save(whole | others, tmp_path / "f.pt")
    torch.save(whole, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    file, old = TorchFile(tmp_path / "f.pt"), TorchFile(tmp_path / "old.pt")
    refs = file.tensors()
    assert file.checksums(refs) == {name: checksum(array) for name, array in file.read(refs.items()) if name in whole}
    assert old.checksums(old.tensors()) == {}


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99], ids=str)
def test_a_truncated_archive_is_one_clear_error(cut: float, tmp_path: Path) -> None:
    path = archive(tmp_path / "f.pt", tensor_pickle((2, 3), (3, 1)), {"data/0": bytes(24)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(ConvertError, match=r"f\.pt"):
        TorchFile(path)


def test_an_archive_that_unpacks_to_far_more_than_itself_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "f.pt", tensor_pickle((6,), (1,)), {"data/0": bytes(2**27)}, compress=True)
    with pytest.raises(ConvertError, match="claims to unpack"):
        TorchFile(path)


def test_references_that_unfold_without_end_are_refused() -> None:
    level: Any = {}
    for _ in range(40):
        level = {"a": level, "b": level}
    file = TorchFile.__new__(TorchFile)
    file.path, file.tree = Path("f.pt"), load_pickle(io.BytesIO(pickle.dumps(level, 2)), "f.pt")
    with pytest.raises(ConvertError, match="without end"):
        file.tensors()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_gpt2_folder_with_pytorch_model_bin_reads_like_its_safetensors(zipped: bool, tmp_path: Path) -> None:
    torch, transformers = require("torch"), require("transformers")
    config = Gpt2Config(29, 16, 12, 2, 3, 48)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config.to_json()))
    model.config.save_pretrained(tmp_path / "bin")
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    first = read_checkpoint(tmp_path / "bin")
    assert "lm_head.weight" in first.dropped
    write_checkpoint(tmp_path / "st", config, first.tensors(), "hf")
    second = read_checkpoint(tmp_path / "st").load()
    assert all(np.array_equal(second[n], t.numpy()) for n, t in model.state_dict().items() if n != "lm_head.weight")


def test_an_unknown_escape_in_an_old_pickle_is_read_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_pickle(io.BytesIO(b"S'\\z'\n."), "f.pt") == "\\z"
