"""The page as people see it: in Debian's chromium, from the file system."""

from __future__ import annotations

import base64
import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.reporting.content import gather
from engine.reporting.cost_figure import draw_cost
from engine.reporting.figures import draw_accuracy
from engine.reporting.page import render_page
from engine.reporting.pictures import draw_perturbations
from engine.reporting.readings import Cost
from engine.reporting.results import FloorKey, Results
from engine.reporting.training_figures import draw_training
from engine.study import cells

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no chromium, or no chromedriver (Debian: chromium, chromium-driver)"
)

WIDE, PHONE = 1200, 400
OPEN_ALL = "document.querySelectorAll('details').forEach((details) => { details.open = true; })"
NOISE = {"byol": 92.0, "simclr": 50.0}
"""Linear accuracy of both victims on the poison called noise; byol gains, so that its drop is negative."""


VIEWS = {"noise": 12_000, "blur_10": 5_000_000, "blur_9": 900}
"""The image-views of attacks; by their first digits they would stand the other way round."""
LOOKS = [
    {"poison": "noise", "images": 4, "psnr": 30.0, "ssim": 0.9, "linf_levels": 8, "l2": 1.5}
    | {"separability": None, "chance": 0.5}
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(600)  # axe, on a busy machine
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(build_results: Callable[..., Results], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two victims on four poisons, of which one is missing, with two seeds."""
    results = build_results({}, {0: (30.0, 20.0), 1: (30.0, 20.0)}, kinds=("clean", "noise", "blur_10", "blur_9"))
    results.study = results.study.model_copy(update={"victims": ("simclr", "byol")})
    for name, views in VIEWS.items():
        facts = results.poisons[name]
        results.poisons[name] = replace(facts, manifest={**(facts.manifest or {}), "image_views": views})
    model = build_results({("clean", 0): (90.0, 80.0)}, {}).accuracies
    judged = next(iter(model.values()))
    for cell in cells(results.study):
        linear = {"clean": 90.0, "noise": NOISE[cell.victim], "blur_10": 8.5}.get(cell.poison)
        if linear is not None:
            results.accuracies[cell, "pets"] = judged.model_copy(update={"linear": linear + cell.seed})
    took = {
        "generate@noise": (7384, 512),
        "pretrain@noise-byol-none-0": (600, 1536),
        "probe@noise-byol-none-0-pets": (45, 900),
    }
    for stage, (seconds, mebibytes) in took.items():
        results.costs[stage] = Cost(seconds=seconds, peak_memory_bytes=mebibytes * 2**20, device="cpu")
    for victim, seed in itertools.product(results.study.victims, (0, 1)):
        results.floors[FloorKey(victim, seed, "pets")] = judged.model_copy(update={"linear": 30.0, "knn": 20.0})
    provenance = {
        "command": "dvc repro",
        "dataset_checksum": "5eed" * 16,
        "revision": {"commit": "c0ffee" * 6, "dirty": False},
        "python": "3.11",
        "packages": {"torch": "2"},
        "device": "a machine",
    }
    about = {"specs": {"attacks": {"noise": {"kind": "noise", "epsilon": 0.1}}}, "provenance": provenance}
    content = gather(results, LOOKS, about)
    sheets = {
        "accuracy": draw_accuracy(results, content.summaries),
        "cost": draw_cost(results, content.summaries),
        "training": draw_training(results),
        "perturbations": draw_perturbations(results),
    }
    file = tmp_path_factory.mktemp("page") / "index.html"
    file.write_text(render_page(content, sheets, None), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the page afresh in a window of some width."""

    def opened(width: int = WIDE, *, dark: bool = False, scripts: bool = True) -> Any:
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        browser.get(address)
        return browser

    yield opened
    assert browser.get_log("browser") == []


def table_under(page: Any, heading: str) -> Any:
    return page.find_element(By.CSS_SELECTOR, f"section[aria-labelledby={heading}] table")


def button_of(table: Any, title: str) -> Any:
    return next(b for b in table.find_elements(By.CSS_SELECTOR, "thead button") if b.text.split("\n")[0] == title)


def rows_of(table: Any) -> list[str]:
    """Return the first words of the rows that are shown, from above."""
    rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    return [row.find_element(By.TAG_NAME, "th").text for row in rows if row.is_displayed()]


def field_of(table: Any) -> Any:
    return table.find_element(By.XPATH, "ancestor::div[contains(@class, 'scroll')]/preceding-sibling::div//input")


def hidden_rows(table: Any) -> str:
    return field_of(table).find_element(By.XPATH, "../../output").text


def type_into(field: Any, text: str) -> None:
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.BACKSPACE, text)


def test_every_image_loads_and_nothing_else_does(visit: Callable[..., Any]) -> None:
    page = visit()
    widths = page.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert (
        len(widths) == 2 + 2 + 1 + 3 * 2 * 3
    )  # a panel a victim, twice; the cost; three attacks on two classes, three pictures each
    assert min(widths) >= 4
    assert page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []


def test_numbers_sort_by_value_missing_last_and_back_to_what_was_written(visit: Callable[..., Any]) -> None:
    table = table_under(visit(), "worst_case")
    written = rows_of(table)
    heading = button_of(table, "best (%)").find_element(By.XPATH, "..")
    assert heading.get_attribute("aria-sort") == "none"
    button_of(table, "best (%)").click()
    assert rows_of(table) == ["blur_10", "clean", "noise", "blur_9"]  # 9 < 90.5 < 92.5: not as text
    assert heading.get_attribute("aria-sort") == "ascending"
    button_of(table, "best (%)").click()
    assert rows_of(table) == ["noise", "clean", "blur_10", "blur_9"]
    assert heading.get_attribute("aria-sort") == "descending"
    button_of(table, "best (%)").click()
    assert rows_of(table) == written
    assert heading.get_attribute("aria-sort") == "none"


def test_thousands_sort_by_value_too(visit: Callable[..., Any]) -> None:
    table = table_under(visit(), "cost")
    button_of(table, "image-views").click()
    assert rows_of(table) == ["clean", "blur_9", "noise", "blur_10"]


def test_times_and_sizes_sort_by_what_they_are(visit: Callable[..., Any]) -> None:
    table = table_under(visit(), "time")
    assert rows_of(table) == ["generate", "pretrain", "probe", "floor"]
    button_of(table, "time in all").click()  # 2 h 03 min, 10 min 00 s, 45.0 s, unknown
    assert rows_of(table) == ["probe", "pretrain", "generate", "floor"]
    button_of(table, "peak memory").click()  # 512.0 MiB, 1.50 GiB, 900.0 MiB, unknown
    assert rows_of(table) == ["generate", "probe", "pretrain", "floor"]


def test_text_sorts_as_people_count_and_by_the_keyboard_too(visit: Callable[..., Any]) -> None:
    table = table_under(visit(), "worst_case")
    button = button_of(table, "poison")
    button.send_keys(Keys.ENTER)
    assert rows_of(table) == ["blur_9", "blur_10", "clean", "noise"]
    button.send_keys(Keys.SPACE)
    assert rows_of(table) == ["noise", "clean", "blur_10", "blur_9"]
    other = button_of(table, "cost")
    other.click()
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "none"
    assert rows_of(table)[-1] == "clean"  # no attack, no rank


def test_the_groups_of_a_table_are_sorted_each_by_itself(visit: Callable[..., Any]) -> None:
    table = table_under(visit(), "accuracy")
    button_of(table, "linear").click()
    up = ["blur_10", "untrained", "noise", "clean", "blur_9"]
    assert rows_of(table) == ["victim simclr", *up, "victim byol", "blur_10", "untrained", "clean", "noise", "blur_9"]
    button_of(table, "drop").click()  # of byol on noise it is negative
    assert rows_of(table)[-5:-3] == ["noise", "blur_10"]


def test_a_filter_hides_rows_says_how_many_and_lives_with_sorting(visit: Callable[..., Any]) -> None:
    table = table_under(visit(), "accuracy")
    everything = rows_of(table)
    assert (len(everything), hidden_rows(table)) == (12, "")
    type_into(field_of(table), "  BLUR")
    assert rows_of(table) == ["victim simclr", "blur_10", "blur_9", "victim byol", "blur_10", "blur_9"]
    assert hidden_rows(table) == "6 of 10 rows hidden"
    button_of(table, "poison").click()
    assert rows_of(table)[:3] == ["victim simclr", "blur_9", "blur_10"]
    button_of(table, "poison").click()
    button_of(table, "poison").click()
    type_into(field_of(table), "victim byol")  # of the heading, which speaks for its rows
    assert rows_of(table) == everything[6:]
    type_into(field_of(table), "-2.0")  # a minus sign as it is typed
    assert rows_of(table) == ["victim byol", "noise"]
    type_into(field_of(table), "no such thing")
    assert (rows_of(table), hidden_rows(table)) == ([], "10 of 10 rows hidden")
    type_into(field_of(table), "")
    assert (rows_of(table), hidden_rows(table)) == (everything, "")


def test_every_table_sorts_and_has_one_named_filter(visit: Callable[..., Any]) -> None:
    page = visit()
    page.execute_script(OPEN_ALL)
    tables = page.find_elements(By.TAG_NAME, "table")
    names = [field_of(table).accessible_name for table in tables]
    assert len(names) == len(set(names)) == len(page.find_elements(By.CSS_SELECTOR, "input[type=search]")) == 7
    assert all(name.startswith("Filter") for name in names)
    for table in tables:
        headings = table.find_elements(By.CSS_SELECTOR, "thead th")
        assert len(headings) == len(table.find_elements(By.CSS_SELECTOR, "thead th[aria-sort=none] > button")) >= 3


def greys(element: Any) -> list[int]:
    """Return the grey levels of a picture on the screen, at a quarter and at three quarters of its width."""
    page = element.parent
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    box = page.execute_script("return arguments[0].getBoundingClientRect()", element)
    clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": box["height"], "scale": 1}
    clip["y"] += page.execute_script("return scrollY")
    shot = page.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("L"))
    height, width = pixels.shape
    return [int(pixels[height // 2, width * part // 4]) for part in (1, 3)]


def test_the_slider_wipes_from_clean_to_poisoned(visit: Callable[..., Any]) -> None:
    page = visit()
    article = page.find_element(By.CSS_SELECTOR, ".pictures")
    slider, pictures = article.find_element(By.CSS_SELECTOR, "input"), article.find_elements(By.CSS_SELECTOR, ".wipe")
    assert slider.accessible_name == "noise: how much of every image is shown poisoned"
    assert len(pictures) == 2
    assert [greys(picture) for picture in pictures] == [[108, 100], [108, 100]]  # eight levels
    slider.send_keys(Keys.END)
    assert [greys(picture) for picture in pictures] == [[108, 108], [108, 108]]
    slider.send_keys(Keys.HOME)
    assert [greys(picture) for picture in pictures] == [[100, 100], [100, 100]]
    slider.send_keys(Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuetext") == "1 % poisoned"
    others = page.find_elements(By.CSS_SELECTOR, ".pictures:not(:first-of-type) .wipe")
    assert greys(others[0]) == [108, 100]  # each poison has its own


@pytest.mark.parametrize("width", [PHONE, 700])
def test_the_page_never_scrolls_sideways(visit: Callable[..., Any], width: int) -> None:
    page = visit(width)
    page.execute_script(OPEN_ALL)
    inner, scroll = page.execute_script("return [innerWidth, document.scrollingElement.scrollWidth]")
    assert inner == width
    assert scroll <= inner


def test_on_a_phone_a_table_is_a_list_and_nothing_of_it_is_out_of_sight(visit: Callable[..., Any]) -> None:
    page = visit(PHONE)
    page.execute_script(OPEN_ALL)
    boxes = page.find_elements(By.CSS_SELECTOR, ".folds")
    assert len(boxes) == 7
    for box in boxes:
        scroll, client = page.execute_script("return [arguments[0].scrollWidth, arguments[0].clientWidth]", box)
        assert scroll <= client, box.accessible_name
    code = "return getComputedStyle(arguments[0], '::before').content"
    cells = boxes[0].find_elements(By.CSS_SELECTOR, "tbody tr:first-child td")
    labels = [page.execute_script(code, cell).strip('"') for cell in cells]
    assert labels[:2] == ["attack", "best (%)"]
    assert len({cell.location["y"] for cell in cells}) > 1


def test_one_click_takes_a_whole_command(visit: Callable[..., Any]) -> None:
    page = visit()
    page.execute_script(OPEN_ALL)
    commands = page.find_elements(By.CSS_SELECTOR, "td.command code")
    texts = [command.text for command in commands]
    assert len(set(texts)) == len(texts) == 4 * 2 * 2 + 2 * 2 + 4  # cells, untrained networks, poisons
    assert {"dvc repro probe@noise-byol-none-1-pets", "dvc repro floor@byol-0-pets", "dvc repro generate@noise"} < {
        *texts
    }
    for command in (commands[0], commands[-1]):
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", command)
        command.click()
        assert page.execute_script("return getSelection().toString().trim()") == command.text


def test_it_is_dark_where_the_reader_wants_it(visit: Callable[..., Any]) -> None:
    code = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    for dark in (False, True):
        background, text = (
            sum(int(level) for level in colour.removeprefix("rgb(").removesuffix(")").split(",")) / 3
            for colour in visit(dark=dark).execute_script(code)
        )
        assert (background < 60 and text > 200) if dark else (background > 200 and text < 60)


def test_on_a_phone_headings_still_sort(visit: Callable[..., Any]) -> None:
    table = table_under(visit(PHONE), "worst_case")
    button_of(table, "best (%)").click()
    assert rows_of(table) == ["blur_10", "clean", "noise", "blur_9"]
    type_into(field_of(table), "blur")
    assert rows_of(table) == ["blur_10", "blur_9"]


def test_without_scripts_all_is_there_and_nothing_pretends_to_work(visit: Callable[..., Any]) -> None:
    page = visit(scripts=False)
    assert page.find_elements(By.CSS_SELECTOR, "button, input[type=search]") == []
    assert not page.find_element(By.CSS_SELECTOR, ".slider").is_displayed()
    clean, poisoned = page.find_elements(By.CSS_SELECTOR, ".wipe")[0].find_elements(By.TAG_NAME, "img")
    assert (greys(clean), greys(poisoned)) == ([100, 100], [108, 108])
    assert len(rows_of(table_under(page, "accuracy"))) == 12


@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (PHONE, True)])
def test_axe_finds_no_serious_fault(visit: Callable[..., Any], width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_core_python.selenium", reason="axe-core-python is not installed")
    page = visit(width, dark=dark)
    page.execute_script(OPEN_ALL)
    found = axe.Axe().run(page)
    assert len(found["passes"]) > 20
    faults = [
        (fault["id"], fault["impact"], node["html"], node["failureSummary"])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert faults == []
