"""The page as a reader uses it, in headless Chromium: `make test-browser`."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from clip_jax.scaling.analysis.analyze import Analysis, analyze
from clip_jax.scaling.laws import law_named
from clip_jax.scaling.report.figures import FIGURES
from clip_jax.scaling.report.figures.headline import AVERAGED_NAME
from clip_jax.scaling.report.page import write_page
from clip_jax.scaling.report.write import write_report

pytestmark = pytest.mark.browser
pytest.importorskip("selenium", reason="selenium is not installed (extra 'browser')")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def averaged_bands(self, grid):
    """Stand for an average over forms: their mean, and bands of a fifth and a third about it."""
    y = np.mean([f.fit.predict(np.asarray(grid, float)) for f in self.frontier.fitted.values()], axis=0)
    return {"median": y, "low": y / 1.2, "high": y * 1.2, "run_low": y / 1.3, "run_high": y * 1.3}


@pytest.fixture(scope="module")
def report(runs, curves, tmp_path_factory):
    """Write a report; return (the law as written, the folder)."""
    out = tmp_path_factory.mktemp("report")
    df = runs(curves["saturating power law"], seeds=1, noise=0.04)
    df.loc[0, "run_id"] = "<img src=x onerror=alert(1)>"
    learning = pd.concat(
        df[["run_id", "flops"]].assign(step=i, error=df["error_mean"] * worse, flops=df["flops"] * share)
        for i, (worse, share) in enumerate(((1.3, 0.25), (1.2, 0.5)))
    )
    write_report(df, out, curves=learning, title="A & B")
    unseen = dict.fromkeys(FIGURES, "not asked for")
    seeds = analyze(runs(curves["power law"], seeds=2, sizes=3), full=False)
    write_page(out / "seeds.html", seeds, {**seeds.law, "figures": unseen}, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Analysis, "averaged_bands", averaged_bands, raising=False)
        both = analyze(df)
        write_page(out / "averaged.html", both, {**both.law, "figures": unseen}, None)
    return json.loads((out / "law.json").read_text()), out


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1100,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})  # some hosts focus no window
    yield driver
    driver.quit()


@pytest.fixture
def page(report, browser):
    """Open the page from its file; check afterwards that it logged no error and asked no network."""
    browser.get("about:blank")
    browser.get_log("performance")  # of the browser's own start page
    browser.get((report[1] / "report.html").as_uri())
    yield browser
    assert browser.get_log("browser") == []
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("/report.html") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def elements(page, name):
    return page.find_element(By.ID, name)


def reading(page):
    """Return the numbers that the page shows: flops, predicted, low, high, runLow, runHigh."""
    data = page.execute_script("return {...document.getElementById('reading').dataset}")
    return {k: float(v) for k, v in data.items()}


def choose(page, name, value):
    Select(elements(page, name)).select_by_value(value)


def expected(fit, flops):
    """Predict with a fit of law.json."""
    return float(law_named(fit["law"]).curve(fit["values"], {"flops": np.log(flops)}, np))


def test_hovering_a_run_shows_its_values(page):
    dot = page.execute_script(
        """return [...document.querySelectorAll('.run')].find(d => {
        const b = d.getBoundingClientRect();
        return document.elementFromPoint((b.left + b.right) / 2, (b.top + b.bottom) / 2) === d})"""
    )
    assert not elements(page, "tip").is_displayed()
    ActionChains(page).move_to_element(dot).perform()
    assert elements(page, "tip").is_displayed()
    assert f"run_id: {dot.get_attribute('data-run')}\n" in elements(page, "tip").text
    ActionChains(page).move_to_element(elements(page, "law")).perform()
    assert not elements(page, "tip").is_displayed()


def test_arrow_keys_move_between_runs(page):
    first, second = page.find_elements(By.CSS_SELECTOR, ".run")[:2]
    page.execute_script("arguments[0].focus()", first)
    assert first.get_attribute("data-run") in elements(page, "tip").text
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    assert f"run_id: {second.get_attribute('data-run')}\n" in elements(page, "tip").text


def test_switching_the_law_switches_curve_and_forecast(page, report):
    law, seen = report[0], set()
    first = Select(elements(page, "law")).first_selected_option.text
    assert first == (AVERAGED_NAME if law.get("averaged") else law["winner"])
    for fit, ahead in zip(law["fits"], law["next_budget"], strict=True):
        choose(page, "law", fit["law"])
        seen.add(elements(page, "curve").get_attribute("d"))
        now = reading(page)
        assert now["flops"] == pytest.approx(ahead["flops"])
        assert now["predicted"] == pytest.approx(ahead["predicted"], rel=1e-3)
        assert now["low"] == pytest.approx(ahead["curve_low"], rel=5e-3)
        assert now["runHigh"] == pytest.approx(ahead["high"], rel=5e-3)
        assert f"the {fit['form']} expects" in elements(page, "reading").text
        for value in fit["values"].values():
            assert f"{value:.4g}" in elements(page, "fitted").text
    # forms that say the same (a floor of 0) share a curve
    assert len(law["fits"]) >= len(seen) >= len({f"{ahead['predicted']:.3g}" for ahead in law["next_budget"]}) > 1


def test_switching_the_frontier_looks_up_its_own_fit(page, report):
    circles, forecasts = [], []
    choose(page, "law", "power")
    for rule, frontier in report[0]["frontiers"].items():
        choose(page, "rule", rule)
        (fit,) = [f for f in frontier["fits"] if f["law"] == "power"]
        now = reading(page)
        assert now["predicted"] == pytest.approx(expected(fit, now["flops"]), rel=1e-3)
        circles.append(len(page.find_elements(By.CSS_SELECTOR, ".frontier")))
        forecasts.append(now["predicted"])
        assert circles[-1] == len(frontier["points"])
    assert len(forecasts) == 4
    assert max(forecasts) > min(forecasts) * 1.0001


@pytest.mark.parametrize("law", ["power", "saturating", "sigmoid"])
def test_dragging_the_target_shows_the_prediction_of_python(page, report, law):
    choose(page, "law", law)
    (fit,) = [f for f in report[0]["fits"] if f["law"] == law]
    before = reading(page)["flops"]
    places = [before]
    for pixels in (-333, 200, 150):
        ActionChains(page).click_and_hold(elements(page, "grip")).move_by_offset(pixels, 5).release().perform()
        now = reading(page)
        assert (now["flops"] < places[-1]) == (pixels < 0)
        assert now["predicted"] == pytest.approx(expected(fit, now["flops"]), rel=0.01)
        assert now["runLow"] < now["low"] < now["predicted"] < now["high"] < now["runHigh"]
        places.append(now["flops"])
    ActionChains(page).move_by_offset(-100, 0).perform()  # released: moving on drags nothing
    assert reading(page)["flops"] == places[-1]


def test_rivals_follow_the_target(page, report):
    choose(page, "law", "sigmoid")
    for pixels in (0, -150):
        if pixels:
            ActionChains(page).click_and_hold(elements(page, "grip")).move_by_offset(pixels, 5).release().perform()
        items = page.find_elements(By.CSS_SELECTOR, "#rivals li")
        predicted = {i.text.split(":")[0]: float(i.get_attribute("data-predicted")) for i in items}
        at = reading(page)["flops"]
        for fit in report[0]["fits"]:
            if fit["law"] != "sigmoid":
                (value,) = [v for name, v in predicted.items() if fit["form"] in name.split(" = ")]
                assert value == pytest.approx(expected(fit, at), rel=0.01)


def test_forecast_stays_inside_the_chart(page):
    slider, plot = elements(page, "target"), elements(page, "plot").rect
    for law in ("power", "sigmoid"):
        choose(page, "law", law)
        for key in (Keys.HOME, Keys.END):
            slider.send_keys(key)
            dot = elements(page, "forecast").rect
            assert plot["y"] < dot["y"]
            assert dot["y"] + dot["height"] < plot["y"] + plot["height"]


def test_frontier_points_carry_bars_of_seeds(page, report):
    assert page.find_elements(By.CSS_SELECTOR, "#plot path.bar") == []  # one seed each
    page.get((report[1] / "seeds.html").as_uri())
    bars = page.find_elements(By.CSS_SELECTOR, "#plot path.bar")
    assert len(bars) == len(page.find_elements(By.CSS_SELECTOR, "#plot circle.frontier")) > 3
    page.get((report[1] / "report.html").as_uri())


def test_averaged_bands_are_selected_first_and_follow_the_slider(page, report):
    page.get((report[1] / "averaged.html").as_uri())
    assert Select(elements(page, "law")).first_selected_option.text == AVERAGED_NAME
    assert reading(page)["low"] < reading(page)["predicted"] < reading(page)["high"]
    assert len(page.find_elements(By.CSS_SELECTOR, "#rivals li")) >= 2
    before = reading(page)["predicted"]
    elements(page, "target").send_keys(Keys.END)
    assert reading(page)["predicted"] < before
    choose(page, "rule", "hull")  # has no average
    assert Select(elements(page, "law")).first_selected_option.text != AVERAGED_NAME
    page.get((report[1] / "report.html").as_uri())


def test_slider_moves_with_the_keyboard(page):
    slider = elements(page, "target")
    assert page.find_element(By.CSS_SELECTOR, "label[for=target]").text == "Target compute"
    before = reading(page)["flops"]
    slider.send_keys(Keys.ARROW_RIGHT)
    assert reading(page)["flops"] == pytest.approx(before * 10**0.01, rel=0.03)
    slider.send_keys(Keys.HOME)
    assert "inside the data" in elements(page, "reading").text
    slider.send_keys(Keys.END)
    assert "extrapolates 100×" in elements(page, "reading").text
    assert elements(page, "flops").text in slider.get_attribute("aria-valuetext")


def test_checkboxes_hide_other_laws_and_learning_curves(page):
    for name in ("others", "curves"):
        before = len(page.find_elements(By.CSS_SELECTOR, "#plot path"))
        elements(page, name).click()
        assert len(page.find_elements(By.CSS_SELECTOR, "#plot path")) < before


def test_clicking_a_heading_sorts_runs(page):
    heading = page.find_element(By.XPATH, "//table[@class='sort']//button[text()='params']")
    column = "return [...document.querySelectorAll('table.sort tbody tr')].map(r => Number(r.cells[3].dataset.v))"
    for order in (1, -1):
        page.execute_script("arguments[0].click()", heading)
        sizes = page.execute_script(column)
        assert sizes == sorted(sizes, reverse=order < 0)


def test_text_of_a_table_is_escaped(page):
    assert "A & B" in elements(page, "data").parent.title
    assert page.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
    assert "<img src=x onerror=alert(1)>" in page.find_element(By.TAG_NAME, "main").text


def test_page_fits_a_narrow_screen(page):
    metrics = {"width": 380, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 380
        assert elements(page, "plot").size["width"] <= 380
        assert len(page.find_elements(By.CSS_SELECTOR, ".run")) > 10
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
