"""The page in a real browser: no error, no request, tables that sort by mouse and by keyboard."""

import json
import shutil

import made_results
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(report):
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no chromium with its chromedriver (Debian: chromium and chromium-driver)")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for (
        argument
    ) in "headless=new no-sandbox disable-gpu disable-dev-shm-usage force-prefers-reduced-motion".split():
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.get((report / "report.html").as_uri())
        yield driver
    finally:
        driver.quit()


def test_no_error_and_no_request(browser):
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    (page,) = [url for url in asked if not url.startswith("data:")]
    assert page.startswith("file://")


def run(browser, expression, *arguments):
    """The value of an expression of JavaScript in the page."""
    return browser.execute_script(f"return {expression}", *arguments)


def test_no_name_ran(browser):
    assert run(browser, "document.querySelectorAll('script, img, iframe, object').length") == 1
    names = run(browser, "[...document.querySelectorAll('.name')].map(e => e.textContent)")
    assert set(made_results.HOSTILE[:4]) <= set(names)


def test_figures_are_drawn(browser):
    drawn = "[...document.querySelectorAll('figure svg[role=img]')].filter(s => !s.closest('details'))"
    heights = run(browser, f"{drawn}.map(s => s.getBoundingClientRect().height)")
    assert len(heights) > 10 and min(heights) > 80


def column(browser, name, place):
    rows = "[...document.getElementById(arguments[0]).querySelectorAll('tbody tr')]"
    return run(browser, f"{rows}.map(r => r.cells[arguments[1]].textContent.trim())", name, place)


def heads(browser, name):
    found = "[...document.getElementById(arguments[0]).querySelectorAll('th[scope=col]')]"
    return run(browser, f"{found}.map(h => h.getAttribute('aria-sort'))", name)


def button(browser, name, place):
    return browser.find_elements("css selector", f"[id='{name}'] thead button")[place]


def test_tables_sort_on_click(browser):
    methods = run(browser, "document.querySelector('.table[id$=methods-table]').id")
    before = column(browser, methods, 1)
    numbers = [float(text.split("±")[0].strip(" *")) for text in before]
    ascending = [before[k] for k in sorted(range(len(before)), key=lambda k: numbers[k])]
    assert len(set(numbers)) == len(numbers)
    assert set(heads(browser, methods)) == {"none"}
    button(browser, methods, 1).click()
    assert column(browser, methods, 1) == ascending[::-1]
    assert heads(browser, methods)[:3] == ["none", "descending", "none"]
    button(browser, methods, 1).click()
    assert column(browser, methods, 1) == ascending
    button(browser, methods, 0).click()
    assert column(browser, methods, 0) == sorted(column(browser, methods, 0))
    assert heads(browser, methods)[:3] == ["ascending", "none", "none"]


def test_tables_sort_by_keyboard_and_what_has_no_number_stays_last(browser):
    from selenium.webdriver.common.keys import Keys

    name = run(browser, "document.querySelector('.table[id$=encoders-table]').id")
    place = next(k for k in range(1, 9) if any("n/a" in text for text in column(browser, name, k)))
    head = button(browser, name, place)
    for direction, key in (("descending", Keys.ENTER), ("ascending", Keys.SPACE)):
        browser.execute_script("arguments[0].focus()", head)
        browser.switch_to.active_element.send_keys(key)
        assert heads(browser, name)[place] == direction
        assert "n/a" in column(browser, name, place)[-1]
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert run(browser, "document.activeElement.tagName") in ("BUTTON", "DIV")
    assert run(browser, "getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser, scheme):
    """Contrast of at least 4.5 (WCAG AA) for text of the page and of figures outside coloured cells."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    colours = browser.execute_script(
        "const of = (q, p) => getComputedStyle(document.querySelector(q))[p];"
        "return {ground: of('section', 'backgroundColor'), ink: of('h2', 'color'), muted: of('figcaption', 'color'),"
        "link: of('nav a', 'color'), label: of('figure svg text', 'fill')}"
    )
    ground = luminance(colours.pop("ground"))
    assert (ground > 0.5) == (scheme == "light")
    for what, colour in colours.items():
        low, high = sorted((ground, luminance(colour)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (what, colour)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2 from "rgb(r, g, b)"."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(browser, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert run(browser, "document.documentElement.scrollWidth") <= width


def test_no_title_of_a_figure_is_cut_on_a_phone(browser):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    shown = "[...document.querySelectorAll('.figure-title')].filter(t => t.getClientRects().length)"
    boxes = run(
        browser, f"{shown}.map(t => [t.getBoundingClientRect().right, t.scrollWidth - t.clientWidth])"
    )
    assert boxes
    assert all(right <= 390 and beyond <= 0 for right, beyond in boxes)
