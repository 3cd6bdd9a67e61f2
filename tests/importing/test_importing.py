"""Released poisons of every form give the noise that was put into them; what does not fit is told, with what would."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

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
        (levels().float() * 0, "tensor", "changes no eight-bit image"),
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


def test_an_image_that_is_a_program_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    place = releases.flat(Path("out"))
    (place / "img_003.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 8\n%%EndComments\nshowpage\n")
    with Image.open(place / "img_003.png") as image:
        assert (image.format, image.size) == ("EPS", (9, 8))  # Pillow itself would take it
    assert "img_003.png cannot be read (UnidentifiedImageError" in fault(place)


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
    ids=lambda evil: getattr(getattr(evil, "call", None), "__name__", type(evil).__name__),
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


SIZES = {4: struct.pack("<BB", 0x4B, 4), 8640: struct.pack("<Bi", 0x4A, 8640)}


def pickled_tensor(numel: int) -> bytes:
    """The part of a pickle that makes a flat tensor of the storage of ``releases.bare``."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + SIZES[8640] + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + SIZES[numel] + b"\x85K\x01\x85\x89NtR"


def test_a_tensor_s_state_is_not_set() -> None:
    # torch.Tensor.__setstate__ would take any sizes: here a view of the whole data set in the first number.
    shape = b"(" + b"".join(b"K" + bytes([length]) for length in (40, 3, 8, 9)) + b"t"
    state = b"(" + pickled_tensor(4) + b"K\0" + shape + b"(K\0K\0K\0K\0tt"
    file = repickled(releases.bare(Path("p.pth")), b"\x80\x02" + pickled_tensor(4) + state + b"b.")
    assert load(file).shape == (4,)
    assert "has the shape (4,)" in fault(file, "official")


@pytest.mark.parametrize("name", ["_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_tensor"])
def test_what_rebuilds_tensors_cannot_be_changed(name: str) -> None:
    evil = b"\x80\x02ctorch._utils\n" + name.encode() + b"\nN}X\x0c\0\0\0__defaults__)s\x86b."
    with pytest.raises(ImportFault, match=r"changed\.pth is damaged"):
        load(repickled(releases.bare(Path("p.pth")), evil))
    assert torch.equal(take(releases.official(Path("q.pth"))).noise, levels())


def test_tuples_within_tuples_do_not_exhaust_the_stack() -> None:
    evil = b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns."  # as a key of a dictionary, it would be hashed
    with pytest.raises(ImportFault, match="absurd number of objects"):
        load(repickled(releases.bare(Path("p.pth")), evil))


def test_only_the_tensor_that_is_wanted_is_read() -> None:
    torch.save({"optimizer": torch.zeros(9), "model": {"delta": levels().float() / 8}}, "p.pth")
    with zipfile.ZipFile("p.pth") as old, zipfile.ZipFile("less.pth", "w") as new:
        for name in old.namelist():
            if not name.endswith("data/0"):
                new.writestr(name, old.read(name))
    assert torch.equal(take(Path("less.pth")).noise, levels())


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


def test_arrays_of_the_other_byte_order_are_read() -> None:
    np.savez("p.npz", noise=(levels().float() / 255).numpy().astype(">f4"))
    assert torch.equal(take(Path("p.npz")).noise, levels())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"noise": levels().numpy().astype(np.longdouble)}, "expected uint8 (images) or floats (noise)"),
        ({"index": np.zeros(0, dtype=int)}, "names 0 places for 40 images"),
        ({"index": np.zeros((40, 1), dtype=int)}, "expected integers, one an image"),
        ({"labels": np.zeros(40)}, "expected integers, one an image"),
        ({"class_names": np.array(7)}, "expected text, one a class"),
        ({"class_names": np.arange(4)}, "expected text, one a class"),
    ],
)
def test_arrays_of_other_types_are_told(arrays: dict[str, np.ndarray], said: str) -> None:
    values = {} if "noise" in arrays else {"images": released().permute(0, 2, 3, 1).numpy()}
    np.savez("p.npz", **values, **arrays)  # type: ignore[arg-type]
    assert said in fault(Path("p.npz"))


def test_labels_that_are_no_classes_are_told() -> None:
    file = releases.tar(Path("p.tar"))
    with tarfile.open(file) as archive:
        place = archive.getmember("000007.cls").offset_data
    content = bytearray(file.read_bytes())
    content[place - 512 : place] = _header("000007.cls", 20)
    content[place : place + 20] = b"9" * 20
    file.write_bytes(content)
    assert f"a label is {'9' * 20}, which is no class" in fault(file)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf()


@pytest.mark.parametrize("change", [lambda u8: u8 / 255, lambda u8: u8 / 127.5 - 1, lambda u8: u8.flip(0) / 127.5 - 1])
@pytest.mark.parametrize("layout", ["official", "tensor"])
def test_images_in_floats_are_not_taken_for_noise(layout: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.save(change(released().float()), "p.pt")
    assert "holds images in floats, not noise" in fault(Path("p.pt"), layout)


def test_official_noise_beyond_one_is_in_another_unit() -> None:
    torch.save(levels().float(), "p.pth")
    assert "this is in another unit" in fault(Path("p.pth"))
    torch.save((levels().float() / 8).index_fill(0, torch.tensor([3]), torch.inf), "q.pth")
    assert "not finite" in fault(Path("q.pth"))


def test_folders_of_some_classes_or_of_numbers_are_classes() -> None:
    kept = releases.folder(Path("some"))
    shutil.rmtree(kept / "cat")
    assert take(kept, partial=True).withheld is not None
    numbered = releases.folder(Path("numbers"))
    for label, name in enumerate(releases.CLASSES):
        (numbered / name).rename(numbered / f"{label}")
    assert torch.equal(take(numbered).noise, levels())
    (numbered / "0").rename(numbered / "10")
    assert "numbered otherwise (10 is 0)" in fault(numbered)


def test_an_image_that_may_be_of_two_clean_ones_is_not_matched() -> None:
    clean = clean_images()
    pixels = clean.images_u8.clone()
    pixels[1] = pixels[0] + 6
    np.savez("p.npz", images=pixels[1:].permute(0, 2, 3, 1).numpy())
    close = dataclasses.replace(clean, images_u8=pixels)
    said = fault(Path("p.npz"), clean=close, match="nearest", partial=True)
    assert "1 images may be of several clean ones, for example row 0 of [1, 0]" in said


def test_noise_in_another_order_is_refused() -> None:
    np.savez("p.npz", noise=(levels().float() / 255).numpy(), index=np.arange(COUNT)[::-1])
    assert "noise in another order" in fault(Path("p.npz"))


def test_found_says_what_it_is() -> None:
    found = read(releases.arrays(Path("p.npz")), "npz", clean_images())
    assert isinstance(found, Found)
    assert (found.what, found.class_names) == ("images", releases.CLASSES)


def test_a_negative_length_does_not_pass_the_limit_of_bytes(tmp_path: Path) -> None:
    header = str({"descr": "|u1", "fortran_order": False, "shape": (-1, 8, 9, 3)}).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "poison.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        archive.writestr("images.npy", start + released().permute(0, 2, 3, 1).numpy().tobytes())
    with pytest.raises(ImportFault, match=r"impossible shape \(-1, 8, 9, 3\)"):
        read(tmp_path / "poison.npz", "npz", clean_images())


@pytest.mark.parametrize("most", [8, 16, 32])
def test_noise_in_pixel_units_is_not_taken_for_noise_in_units_of_the_budget(most: int, tmp_path: Path) -> None:
    torch.save(levels().float() * (most / 8) / 255, tmp_path / "poison.pth")
    found = read(tmp_path / "poison.pth", "official", clean_images())
    with pytest.raises(ImportFault, match="--layout tensor"):
        poison_of(found, clean_images(), epsilon=most / 255)


def test_every_flipped_bit_among_the_pixels_of_a_png_is_told() -> None:
    place = releases.flat(Path("out"))
    file = place / "img_005.png"
    good = file.read_bytes()
    start = good.index(b"IDAT") + 4
    for at in range(start, good.index(b"IEND") - 8, 7):
        file.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        assert "img_005.png cannot be read" in fault(place)
