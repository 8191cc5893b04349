"""The page in a browser: what moves moves, what is hostile stays text, and nothing is asked of any network.

Needs Debian's chromium and chromium-driver, or their like; skipped where there are none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from sparsedit.records import Record
from sparsedit.report.page import PICTURES, write_page
from tests.sample_records import ENVIRONMENT, failed, fidelity, record

HOSTILE = "</p></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & \"x\""

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    switches = "headless no-sandbox disable-gpu disable-dev-shm-usage disable-background-networking no-first-run"
    for switch in (*switches.split(), "window-size=1200,900"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def run_of(folder: Path, count: int) -> list[Record]:
    """A run whose edits grow slower and better one after the other; the first has a hostile prompt, the last failed."""
    for number in range(count):
        place = folder / "images" / "meadow" / f"v{number}"
        place.mkdir(parents=True)
        for level, name in enumerate(PICTURES):
            Image.fromarray(np.full((24, 32, 3), 40 * level, dtype=np.uint8)).save(place / f"{name}.png")
    records = [
        record(
            variant=f"v{number}",
            edit_type=("add object", "change colour")[number % 2],
            edit_ratio=0.01 * (number + 1),
            fidelity=fidelity(30.0 + number, 50.0),
            total={"dense_s": 8.0, "record_s": 9.0, "sparse_s": 1.0 + number},
            size=[32, 24],
        )
        for number in range(count)
    ]
    records[0] |= {"edit_prompt": HOSTILE, "edit_type": HOSTILE, "prompt_changed": True}
    return [*records, failed(HOSTILE, variant="broken")]


@pytest.fixture(scope="module", params=["inside", "beside"])
def page(browser: webdriver.Chrome, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("run")
    path = write_page(folder, run_of(folder, 4), ENVIRONMENT, embed=request.param == "inside")
    browser.get(path.as_uri())
    return browser


def shown(page: webdriver.Chrome) -> list[str]:
    rows = page.find_elements(By.CSS_SELECTOR, ".edits tbody.cases tr")
    return [
        row.find_element(By.TAG_NAME, "a").text.removeprefix("meadow/").rstrip(" *")
        for row in rows
        if row.is_displayed()
    ]


def column(page: webdriver.Chrome, heading: str) -> WebElement:
    [button] = [
        one for one in page.find_elements(By.CSS_SELECTOR, ".edits th button") if one.text.rstrip(" ▲▼") == heading
    ]
    return button


def viewer(page: webdriver.Chrome, place: int) -> WebElement:
    article = page.find_element(By.ID, f"edit-{place}")
    page.execute_script("arguments[0].scrollIntoView()", article)
    WebDriverWait(page, 10).until(lambda _: article.find_elements(By.CSS_SELECTOR, ".viewer input"))
    return article


def test_the_table_is_sorted_both_ways_and_what_has_no_value_stays_last(page: webdriver.Chrome) -> None:
    column(page, "n-th edit").click()
    assert shown(page) == ["v3", "v2", "v1", "v0", "broken"]
    column(page, "n-th edit").send_keys(Keys.ENTER)
    assert shown(page) == ["v0", "v1", "v2", "v3", "broken"]
    articles = [one.get_attribute("id") for one in page.find_elements(By.CSS_SELECTOR, "#edits article")]
    assert articles == [f"edit-{place}" for place in range(1, 6)]


def test_the_table_is_filtered_by_words_type_and_way(page: webdriver.Chrome) -> None:
    words = page.find_element(By.ID, "filter")
    words.send_keys("colour v3")
    assert shown(page) == ["v3"]
    assert page.find_element(By.ID, "shown").text == "1 of 5"
    assert not page.find_element(By.ID, "edit-1").is_displayed()
    words.clear()
    words.send_keys(Keys.SPACE)
    page.find_element(By.ID, "type").send_keys("change")
    assert shown(page) == ["v1", "v3"]
    page.find_element(By.ID, "type").send_keys(Keys.HOME)
    assert len(shown(page)) == 5


def test_the_slider_moves_the_border_between_two_pictures(page: webdriver.Chrome) -> None:
    article = viewer(page, 2)
    over, slider = (article.find_element(By.CSS_SELECTOR, f".viewer {name}") for name in (".over", "input"))
    before = over.value_of_css_property("clip-path")
    slider.send_keys(Keys.ARROW_RIGHT * 5)
    assert over.value_of_css_property("clip-path") != before
    names = [over.get_attribute("alt"), article.find_element(By.CSS_SELECTOR, ".under").get_attribute("alt")]
    assert names == [PICTURES["original"], PICTURES["sparse"]]
    article.find_element(By.CSS_SELECTOR, ".choice select").send_keys("dense")
    assert over.get_attribute("alt") == PICTURES["dense"]
    assert page.execute_script("return arguments[0].naturalWidth", over) == 32


def test_a_picture_zooms_and_the_keys_change_it(page: webdriver.Chrome) -> None:
    article = viewer(page, 3)
    article.find_elements(By.CSS_SELECTOR, ".pictures button")[0].send_keys(Keys.ENTER)
    dialog, caption = page.find_element(By.ID, "zoom"), page.find_element(By.ID, "caption")
    assert dialog.is_displayed()
    active = page.switch_to.active_element
    active.send_keys(Keys.ARROW_RIGHT, "+")
    assert caption.text == f"{PICTURES['edited']} · 2 of 6 · 150 %"
    active.send_keys("0", Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert caption.text == f"{PICTURES['heat']} · 6 of 6 · 100 %"
    active.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_j_and_k_walk_through_the_edits(page: webdriver.Chrome) -> None:
    page.execute_script("document.activeElement.blur()")
    body = page.find_element(By.TAG_NAME, "body")
    body.send_keys("j")
    page.switch_to.active_element.send_keys("j")
    assert page.switch_to.active_element.get_attribute("id") == "edit-2"
    page.switch_to.active_element.send_keys("k")
    assert page.switch_to.active_element.get_attribute("id") == "edit-1"
    page.switch_to.active_element.send_keys("/")
    assert page.switch_to.active_element.get_attribute("id") == "filter"


def test_the_zoom_is_worked_by_its_buttons_alone(page: webdriver.Chrome) -> None:
    """As on a screen that is touched, where there are no keys and no wheel."""
    viewer(page, 3).find_elements(By.CSS_SELECTOR, ".pictures button")[0].click()
    tools = {one.get_attribute("aria-label"): one for one in page.find_elements(By.CSS_SELECTOR, "#zoom .tools button")}
    for name in ("next picture", "next picture", "previous picture", "larger", "larger", "smaller"):
        tools[name].click()
    assert page.find_element(By.ID, "caption").text == f"{PICTURES['edited']} · 2 of 6 · 150 %"
    page.find_element(By.ID, "close").click()
    assert not page.find_element(By.ID, "zoom").is_displayed()


def test_a_link_shows_its_edit_though_the_filter_hides_it(page: webdriver.Chrome) -> None:
    words = page.find_element(By.ID, "filter")
    words.send_keys("v3")
    assert not page.find_element(By.ID, "edit-2").is_displayed()
    page.execute_script("location.hash = 'edit-2'")
    WebDriverWait(page, 10).until(lambda _: page.find_element(By.ID, "edit-2").is_displayed())
    assert words.get_attribute("value") == ""
    assert len(shown(page)) == 5


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_the_page_is_no_wider_than_the_window(width: int, browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Whatever long words there are; and text that runs from the right keeps its place among the rest."""
    records = run_of(tmp_path, 3)
    records[1] |= {"edit_type": "x" * 90, "edit_prompt": "word" * 200, "original_prompt": "בית ורוד", "case": "a" * 90}
    records[2] |= {"edit_prompt": "בית (אדום) 3"}
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.get(write_page(tmp_path, records, ENVIRONMENT).as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        prompt = browser.find_element(By.CSS_SELECTOR, "#edit-3 .prompt bdi")
        assert browser.execute_script("return arguments[0].matches(':dir(rtl)')", prompt)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_is_read_in_dark_and_in_light(page: webdriver.Chrome) -> None:
    colours = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        body, text = page.find_element(By.TAG_NAME, "body"), page.find_element(By.CSS_SELECTOR, ".plots svg text")
        ink = page.execute_script("return getComputedStyle(arguments[0]).fill", text)
        colours.append((body.value_of_css_property("background-color"), ink))
    (light, ink_on_light), (dark, ink_on_dark) = colours
    assert light != dark
    assert ink_on_light != ink_on_dark


def test_hostile_text_stays_text_and_nothing_leaves_the_page(page: webdriver.Chrome) -> None:
    """Last: it looks at everything that the tests above made the page do."""
    viewer(page, 1)
    assert HOSTILE in page.find_element(By.CSS_SELECTOR, "#edit-1 .prompt").text
    assert page.title.startswith("sparsedit")
    assert page.execute_script("return document.scripts.length") == 1
    # The performance log starts anew with each reading, and holds what was asked for since the last one.
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert page.get_log("browser") == []


def test_seven_hundred_edits_are_shown_lazily(browser: webdriver.Chrome, tmp_path: Path) -> None:
    records = run_of(tmp_path, 700)
    path = write_page(tmp_path, records, ENVIRONMENT)
    assert path.stat().st_size < 8_000_000
    browser.get(path.as_uri())
    loaded = "return [...document.images].filter((one) => one.complete && one.naturalWidth).length"
    assert browser.execute_script("return document.images.length") > 700 * len(PICTURES)
    assert browser.execute_script(loaded) < 200
    browser.execute_script("location.hash = 'edit-600'")
    top = "return document.getElementById('edit-600').getBoundingClientRect().top"
    WebDriverWait(browser, 10).until(lambda _: 0 <= browser.execute_script(top) < 40)
    assert browser.execute_script(loaded) < 200
    # The table scrolls in its own place, under its headings, so that the plots are not 700 lines away.
    assert browser.execute_script("return document.querySelector('.tall').offsetHeight < innerHeight")
    browser.find_element(By.ID, "filter").send_keys("v699")
    assert shown(browser) == ["v699"]
