"""An encoder survives its way to disk, and what cannot be read says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.artifacts import ArtifactError
from engine.artifacts.encoder import read_classifier, read_encoder, write_encoder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def state() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7)}


def test_what_is_read_is_what_was_written() -> None:
    write_encoder(Path("e.safetensors"), state(), {"seed": 3, "victim": {"name": "x"}})
    back, about = read_encoder(Path("e.safetensors"))
    assert {name: tensor.tolist() for name, tensor in back.items()} == {
        name: tensor.tolist() for name, tensor in state().items()
    }
    assert (about["seed"], about["victim"]) == (3, {"name": "x"})


def test_a_classifier_lies_beside_the_encoder_and_its_absence_changes_no_byte() -> None:
    head = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    write_encoder(Path("with"), state(), {"seed": 3}, head)
    back, about = read_encoder(Path("with"))
    assert (set(back), about["seed"]) == (set(state()), 3)
    assert torch.equal(back["weight"], state()["weight"])
    found = read_classifier(Path("with"))
    assert found is not None
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in head.items()
    }
    write_encoder(Path("without"), state(), {"seed": 3})
    write_encoder(Path("none"), state(), {"seed": 3}, None)
    assert read_classifier(Path("without")) is None
    assert Path("without").read_bytes() == Path("none").read_bytes()


def test_the_same_inputs_give_the_same_bytes() -> None:
    about = {"b": 1, "a": {"d": 2, "c": 3}, "seed": 0}
    for name in ("one", "two"):
        write_encoder(Path(name), state(), about)
    assert Path("one").read_bytes() == Path("two").read_bytes()


def test_one_flipped_bit_of_the_weights_or_of_their_description_is_noticed() -> None:
    write_encoder(Path("e"), state(), {"seed": 3})
    whole = Path("e").read_bytes()
    for place in (len(whole) - 1, whole.index(b"seed") + len(b'seed\\": ')):
        content = bytearray(whole)
        content[place] ^= 1
        Path("e").write_bytes(content)
        with pytest.raises(ArtifactError, match="its checksum is another"):
            read_encoder(Path("e"))


def test_an_encoder_that_was_written_without_a_checksum_is_read() -> None:
    from safetensors.torch import save_file

    save_file(state(), "e", metadata={"engine": '{"format": 1, "seed": 3}'})
    assert read_encoder(Path("e"))[1] == {"format": 1, "seed": 3}


def test_missing_damaged_and_foreign_files_are_refused() -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        read_encoder(Path("e"))
    Path("e").write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(ArtifactError, match="damaged"):
        read_encoder(Path("e"))
    from safetensors.torch import save_file

    save_file(state(), "e")
    with pytest.raises(ArtifactError, match="format None"):
        read_encoder(Path("e"))
