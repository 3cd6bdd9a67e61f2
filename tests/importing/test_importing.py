"""Released poisons of every form give the noise that was put into them; what does not fit is told, with what would."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.importing import Found, ImportFault, fingerprint, known_layouts, layout_of, poison_of, read
from engine.importing.pickles import Inert, load
from engine.protocols import ImageSet, Poison
from tests.importing import releases
from tests.importing.releases import COUNT, EPSILON, FORMS, clean_images, levels, released


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def take(
    source: Path, layout: str = "", *, clean: ImageSet | None = None, epsilon: float = EPSILON, **how: object
) -> Poison:
    images = clean or clean_images()
    found = read(source, layout or layout_of(source), images)
    return poison_of(found, images, epsilon=epsilon, **how)  # type: ignore[arg-type]


def fault(source: Path, layout: str = "", **how: object) -> str:
    with pytest.raises(ImportFault) as raised:
        take(source, layout, **how)  # type: ignore[arg-type]
    return str(raised.value)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_noise_that_is_in_it(form: str) -> None:
    layout, name, write = FORMS[form]
    source = write(Path(name))
    assert layout_of(source) == layout
    poison = take(source)
    assert (poison.granularity, poison.unit, poison.withheld) == ("sample", 1 / 255, None)
    assert torch.equal(poison.noise, levels())


def test_the_forms_cover_all_layouts() -> None:
    assert {layout for layout, _, _ in FORMS.values()} == set(known_layouts())


def test_class_wise_noise_stays_class_wise() -> None:
    poison = take(releases.official(Path("c.pth"), levels(4).float() / 8))
    assert poison.granularity == "class"
    assert torch.equal(poison.noise, levels(4))


def test_a_part_of_the_images_withholds_the_rest() -> None:
    kept = torch.arange(0, COUNT, 3)
    np.savez("part.npz", images=released()[kept].permute(0, 2, 3, 1).numpy(), index=kept.numpy())
    assert "holds 14 images, the clean data set 40; where the others are not released, say so with --partial" in fault(
        Path("part.npz")
    )
    poison = take(Path("part.npz"), partial=True)
    assert poison.withheld is not None
    assert (~poison.withheld).nonzero().squeeze(1).tolist() == kept.tolist()
    assert torch.equal(poison.noise[kept], levels()[kept])
    np.savez("unsaid.npz", images=released()[kept].permute(0, 2, 3, 1).numpy())
    assert "nothing says which are missing; match them by --match nearest" in fault(Path("unsaid.npz"), partial=True)
    assert torch.equal(take(Path("unsaid.npz"), match="nearest", partial=True).noise, poison.noise)


def test_files_are_matched_by_the_names_of_their_originals() -> None:
    clean = clean_images(names=True)
    for row, pixels in enumerate(released()):
        file = Path("out") / clean.names[row].replace(".jpg", ".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    assert torch.equal(take(Path("out"), clean=clean).noise, levels())


def test_another_order_is_told_and_nearest_mends_it() -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    torch.save(released()[order].clone(), "mixed.pt")
    said = fault(Path("mixed.pt"))
    assert "they are in another order than the clean data set; match them by --match nearest" in said
    assert torch.equal(take(Path("mixed.pt"), match="nearest").noise, levels())


def test_labels_in_another_order_are_told() -> None:
    labels = clean_images().labels.roll(1).numpy()
    labels[0] = labels[1]
    np.savez("p.npz", images=released().permute(0, 2, 3, 1).numpy(), labels=labels)
    said = fault(Path("p.npz"))
    assert "40 of 40 labels" in said or "39 of 40 labels" in said
    assert "images or labels are in another order" in said


def test_classes_that_are_numbered_otherwise_are_named() -> None:
    labels = torch.tensor([2, 1, 0, 3])[clean_images().labels].numpy()
    np.savez("p.npz", images=released().permute(0, 2, 3, 1).numpy(), labels=labels)
    assert "its classes are numbered otherwise (0 is 2, 2 is 0)" in fault(Path("p.npz"))
    names = np.array(["tree", "dog", "cat", "car"])
    np.savez("q.npz", images=released().permute(0, 2, 3, 1).numpy(), labels=labels, class_names=names)
    assert torch.equal(take(Path("q.npz")).noise, levels())  # their names say what the numbers mean


def test_a_budget_that_is_missed_is_told_with_the_worst() -> None:
    pixels = released()
    pixels[7, 0, 0, 0] = (pixels[7, 0, 0, 0].int() + 100) % 256
    torch.save(pixels, "p.pt")
    said = fault(Path("p.pt"))
    assert said.startswith("1 of 40 images of p.pt differ from the clean ones by more than 8 grey levels")
    assert "(rows 7)" in said
    assert "truncation misses the budget by one level" in fault(releases.images(Path("q.pt")), epsilon=7 / 255)


def test_exchanged_channels_are_told() -> None:
    torch.save(released().flip(1).contiguous(), "p.pt")
    assert "blue, green, red" in fault(Path("p.pt"))


@pytest.mark.parametrize(
    ("values", "layout", "said"),
    [
        (levels().float() / 8, "tensor", "it is in units of the budget (--layout official)"),
        (levels().float() / 255, "official", "changes no eight-bit image"),
        (levels().float(), "tensor", "beyond the budget"),
        (levels().float() * torch.nan, "tensor", "not finite"),
        (levels()[:7].float() / 255, "tensor", "has 7 rows; expected 40, one an image, or 4, one a class"),
        (levels()[..., :5].float() / 255, "tensor", "the clean images have (3, 8, 9)"),
        (levels()[0].float() / 255, "tensor", "has the shape (3, 8, 9)"),
        (levels(), "tensor", "expected floats (noise) or uint8 (images)"),
        ({"delta": levels()}, "tensor", "holds a OrderedDict, expected one tensor"),
        ({"weights": levels().float()}, "official", "with one at ['model']['delta']"),
        ("text", "official", "neither a tensor of floats"),
    ],
)
def test_ranges_shapes_and_types_that_do_not_fit_are_told(values: object, layout: str, said: str) -> None:
    torch.save(values, "p.pt")
    found = fault(Path("p.pt"), layout)
    assert said.replace("OrderedDict", "dict") in found


def test_duplicates_make_the_nearest_image_ambiguous() -> None:
    clean = clean_images()
    twins = dataclasses.replace(clean, images_u8=clean.images_u8[[0, 0, *range(2, COUNT)]])
    torch.save(twins.images_u8.clone(), "p.pt")
    assert "are the nearest to several released ones" in fault(Path("p.pt"), clean=twins, match="nearest")


def test_places_out_of_the_data_set_or_twice_are_told() -> None:
    pixels = released().permute(0, 2, 3, 1).numpy()
    for index, said in (([*range(39), 40], "has the places 0 to 39"), ([*range(39), 3], "twice")):
        np.savez("p.npz", images=pixels, index=np.array(index))
        assert said in fault(Path("p.npz"))


def test_lossy_and_broken_images_are_told() -> None:
    place = releases.flat(Path("out"))
    Image.open(place / "img_003.png").save(place / "img_003.jpg")
    (place / "img_003.png").unlink()
    assert "is a JPEG: part of the perturbation is lost" in fault(place)
    (place / "img_003.jpg").unlink()
    (place / "img_003.png").write_bytes(b"no image")
    assert "img_003.png cannot be read" in fault(place)


def test_missing_and_unknown_sources_are_told(tmp_path: Path) -> None:
    with pytest.raises(ImportFault, match="there is no file or folder"):
        layout_of(Path("nothing.pth"))
    Path("poison.bin").touch()
    with pytest.raises(ImportFault, match=r"--layout \(imagefolder, npz, official, tensor, webdataset\)"):
        layout_of(Path("poison.bin"))


def test_another_content_has_another_fingerprint() -> None:
    folder = releases.folder(Path("out"))
    before = fingerprint(folder)
    assert before == fingerprint(folder)
    (folder / "cat/000000.png").rename(folder / "cat/000001.png")
    assert fingerprint(folder) != before
    assert fingerprint(folder / "cat/000001.png") != fingerprint(folder / "dog/000001.png")


class Evil:
    """What a hostile file asks for: it leaves a file behind when it is obeyed."""

    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize(
    "evil",
    [
        Evil(os.system, "touch owned"),
        Evil(eval, "open('owned', 'w')"),
        Evil(exec, "open('owned', 'w')"),
        Evil(Path, "owned"),
        Evil(getattr, Evil(__import__, "os"), "system"),
        [Evil(os.makedirs, "owned")],
        {"model": {"delta": Evil(os.mkdir, "owned")}},
        {Evil(os.mkdir, "owned"): 1},
        Evil(torch.hub.load, "owner/repository", "model"),
        Evil(torch.load, "owned"),
    ],
    ids=str,
)
def test_nothing_that_a_file_asks_for_is_done(evil: object) -> None:
    torch.save({"opt": evil, "model": {"delta": levels().float() / 8}} if isinstance(evil, Evil) else evil, "p.pth")
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (("os", "system"), ("os", "mkdir"), ("builtins", "eval"), ("builtins", "exec")):
            patch.setattr(f"{module}.{name}", lambda *_: pytest.fail("it was done"))
        content = load(Path("p.pth"))
    assert not Path("owned").exists()
    if isinstance(evil, Evil):
        assert isinstance(content["opt"], Inert)
        assert torch.equal(take(Path("p.pth")).noise, levels())


def repickled(file: Path, content: bytes) -> Path:
    """Put another pickle into a file of torch."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile("changed.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
    return Path("changed.pth")


def rebuilt(numel: int, size: tuple[object, ...], stride: tuple[object, ...], offset: object = 0) -> bytes:
    """A pickle of a tensor with any numbers."""

    here = Inert()

    class Fake(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if value is here else None

    buffer = io.BytesIO()
    Fake(buffer, protocol=2).dump(Evil(torch._utils._rebuild_tensor_v2, here, offset, size, stride, False, None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("numel", "size", "stride", "offset"),
    [
        (10**12, (10**6, 10**6), (10**6, 1), 0),
        (8640, (40, 3, 8, 9), (216, 72, 9, 1), 8000),
        (8640, (40, 3, 8, 9), (10**9, 72, 9, 1), 0),
        (8640, (10**6, 10**6), (0, 0), 0),
        (8640, (-1, 3), (3, 1), 0),
        (8640, (40, 3, 8, 9), (216, 72, 9, -1), 0),
        (8640, ("forty", 3), (3, 1), 0),
        (8640, (40, 3, 8, 9), (216, 72), 0),
        (8640, (40, 3, 8, 9), (216, 72, 9, 1), -4),
    ],
)
def test_sizes_that_lie_allocate_nothing(
    numel: int, size: tuple[object, ...], stride: tuple[object, ...], offset: int
) -> None:
    file = repickled(releases.bare(Path("p.pth")), rebuilt(numel, size, stride, offset))
    with pytest.raises(ImportFault, match=r"changed\.pth"):
        load(file)


def test_a_pickle_that_asks_for_room_is_refused_before_it_gets_it() -> None:
    file = repickled(releases.bare(Path("p.pth")), b"\x80\x02N" + b"r" + (2**31 - 1).to_bytes(4, "little") + b".")
    with pytest.raises(ImportFault, match="absurd number of objects"):
        load(file)


def test_arrays_that_lie_about_their_size_or_hold_objects_are_refused() -> None:
    np.savez("objects.npz", images=np.array([{}], dtype=object))
    assert "pickled objects, which are not read" in fault(Path("objects.npz"))
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
    with zipfile.ZipFile("huge.npz", "w") as archive, archive.open("images.npy", "w") as stream:
        np.lib.format.write_array_header_2_0(stream, header)
    assert "would take 1e+03 GB" in fault(Path("huge.npz"))


def test_noise_in_another_order_is_refused() -> None:
    np.savez("p.npz", noise=(levels().float() / 255).numpy(), index=np.arange(COUNT)[::-1])
    assert "noise in another order" in fault(Path("p.npz"))


def test_found_says_what_it_is() -> None:
    found = read(releases.arrays(Path("p.npz")), "npz", clean_images())
    assert isinstance(found, Found)
    assert (found.what, found.class_names) == ("images", releases.CLASSES)
