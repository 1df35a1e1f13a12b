"""The console in a real browser: opened, clicked, attacked, photographed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.console_installation import CHROMIUM, DRIVER, ConsoleInstallation
from tests.support.desk import desk
from tests.support.events import SIGNALS, bars
from tests.support.waiting import HANGS_AFTER_S
from trading_system.ml_refinement.storage import FeatureDatabase, Filter

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is missing")


@pytest.fixture(scope="module", autouse=True)
def _leaves(browser: Any, address: str) -> Iterator[None]:
    """No page goes on refreshing itself once its console is gone."""
    yield
    browser.get("about:blank")


def wait(browser: Any, css: str) -> Any:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions as expected
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, HANGS_AFTER_S).until(expected.presence_of_element_located((By.CSS_SELECTOR, css)))


def click(browser: Any, words: str) -> None:
    """The one link or button that says so."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions as expected
    from selenium.webdriver.support.ui import WebDriverWait

    path = f"//a[normalize-space()='{words}'] | //button[normalize-space()='{words}']"
    WebDriverWait(browser, HANGS_AFTER_S).until(expected.element_to_be_clickable((By.XPATH, path))).click()


def text_of(browser: Any) -> str:
    from selenium.webdriver.common.by import By

    text: str = browser.find_element(By.TAG_NAME, "body").text
    return text


def shows(browser: Any, words: str) -> bool:
    """Whether the page comes to say so: a click does not always wait for the next page."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = WebDriverWait(browser, HANGS_AFTER_S, ignored_exceptions=[StaleElementReferenceException])
    return bool(waiting.until(lambda _: words in text_of(browser), words))


def letters(place: ConsoleInstallation, **wanted: Any) -> list[Any]:
    with FeatureDatabase(place.settings.store_place, read_only=True) as store:
        return store.dead_letters.find(Filter(status=None, **wanted), payloads=True)


def every_path(place: ConsoleInstallation) -> list[str]:
    return [
        "/", "/dead-letters?status=any", "/models", f"/models/{place.models[1]}", "/signals", "/signals/s-200",
        "/monitoring", "/jobs", *(f"/dead-letters/{row.id}" for row in letters(place)),
        f"/models/compare?a={place.models[0]}&b={place.models[1]}",
    ]  # fmt: skip


def test_every_page_opens_without_an_error_or_a_refused_part(
    browser: Any, address: str, place: ConsoleInstallation
) -> None:
    browser.get_log("browser")
    for path in every_path(place):
        browser.get(address + path)
        assert wait(browser, "main")
        assert browser.title.endswith("Signal Refinery"), path
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_markup_in_symbol_reason_exception_and_job_description_does_not_run(
    browser: Any, address: str, place: ConsoleInstallation
) -> None:
    jobs = ["/jobs/rq/0/view/job/evil-job", "/jobs/rq/0/view/jobs/refinery-retrain/failed/8/asc/1", "/jobs/rq/"]
    for path in [*every_path(place), *jobs, *(f"/dead-letters/{row.id}/edit" for row in letters(place))]:
        browser.get(address + path)
        if path.endswith("evil-job"):
            wait(browser, "#job-data .exc_info")
            assert shows(browser, "<script>")
        elif "failed" in path:
            wait(browser, "#jobs [data-role=job]")
        assert browser.title != "OWNED", path


def test_diagrams_of_a_part_come_after_the_page(browser: Any, address: str) -> None:
    browser.get(address + "/monitoring?symbol=ACME&days=365")
    for name in ("reliability", "deciles", "log_loss", "calibration", "lift"):
        assert wait(browser, f"#diagram-{name} svg.chart")
    assert not browser.find_elements("css selector", "[data-later]")


def test_a_page_refreshes_itself(browser: Any, address: str, place: ConsoleInstallation) -> None:
    browser.get(address + "/dead-letters")
    before = wait(browser, "#letters-open").text
    with FeatureDatabase(place.settings.store_place) as store:
        from trading_system.ml_refinement.storage import NewDeadLetter

        store.dead_letters.add([NewDeadLetter(SIGNALS, "2-2", "bad_json", "planted", b"{", 1, "0", "planted")])
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    # A refresh may put another element in the place of the one just found.
    waits = WebDriverWait(browser, HANGS_AFTER_S, ignored_exceptions=[StaleElementReferenceException])
    waits.until(lambda _: wait(browser, "#letters-open").text == str(int(before) + 1))


def test_a_dead_letter_is_replayed_by_clicking(browser: Any, address: str, place: ConsoleInstallation) -> None:
    row = letters(place, reason="no_market_data")[0]
    browser.get(f"{address}/dead-letters/{row.id}")
    click(browser, "Replay…")
    assert shows(browser, "Replay 1 dead letter?")
    click(browser, "Replay 1")
    assert shows(browser, "1 sent:")
    assert letters(place, signal_id=row.signal_id)[0].status == "replayed"
    newest: Any = place.client.xrevrange(SIGNALS, count=1)
    assert newest[0][1][b"data"] == row.payload


def test_an_edit_made_by_clicking_is_applied_by_the_worker(
    browser: Any, address: str, place: ConsoleInstallation
) -> None:
    row = letters(place, reason="lookahead")[0]
    browser.get(f"{address}/dead-letters/{row.id}")
    click(browser, "Edit")
    event = orjson.loads(row.payload)
    event["bars"] = bars()
    area = wait(browser, "textarea")
    browser.execute_script("arguments[0].value = arguments[1]", area, orjson.dumps(event).decode())
    click(browser, "Save and replay")
    assert shows(browser, "was edited and sent")
    assert letters(place, signal_id=row.signal_id)[0].payload == row.payload
    with desk(place.settings) as world:
        world.drain()
        assert world.store.get_feature_vector(row.signal_id) is not None
    browser.get(f"{address}/signals/{row.signal_id}")
    assert shows(browser, "P(win)")


def test_discarding_asks_why_and_the_audit_keeps_it(browser: Any, address: str, place: ConsoleInstallation) -> None:
    row = letters(place, reason="outcome_conflict")[0]
    browser.get(f"{address}/dead-letters/{row.id}")
    click(browser, "Discard…")
    wait(browser, "[name=why]").send_keys("a test of the tracker")
    click(browser, "Discard 1")
    assert shows(browser, "1 of 1 discarded.")
    browser.get(f"{address}/dead-letters/{row.id}")
    assert shows(browser, "a test of the tracker")
    assert shows(browser, "console (operator)")


def test_a_model_is_rolled_back_by_clicking(browser: Any, address: str, place: ConsoleInstallation) -> None:
    browser.get(address + "/models")
    click(browser, "Roll back…")
    assert shows(browser, place.models[0])
    click(browser, "Roll back")
    assert shows(browser, f"{place.models[0]} serves from the next batch on")
    with FeatureDatabase(place.settings.store_place) as store:
        assert store.models.active_id("signal_quality") == place.models[0]
        pin, entry = store.models.promotions(2)
        assert entry.previous_model_id == place.models[1]
        assert (pin.action, pin.actor, entry.actor) == ("pin", "console (operator)", "console (operator)")
    browser.get(f"{address}/models/{place.models[0]}")
    assert shows(browser, "pinned by console (operator)")
    click(browser, "Unpin")
    assert shows(browser, f"{place.models[0]} is not pinned any more")


def test_it_works_without_javascript(browser: Any, address: str, place: ConsoleInstallation) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        row = letters(place, reason="no_market_data")[1]
        browser.get(f"{address}/dead-letters?fingerprint={row.fingerprint}")
        browser.find_elements("css selector", "input[name=id]")[0].click()
        click(browser, "Discard selected…")
        wait(browser, "[name=why]").send_keys("without scripts")
        click(browser, "Discard 1")
        assert shows(browser, "1 of 1 discarded.")
        assert f"fingerprint={row.fingerprint}" in browser.current_url
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_no_page_is_wider_than_the_window(
    browser: Any, address: str, place: ConsoleInstallation, width: int, scheme: str, tmp_path: Path
) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        for path in every_path(place)[:8]:
            browser.get(address + path)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, (path, wide)
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(16, 20, 24)"}[scheme]
        shot = tmp_path / "shot.png"
        assert browser.save_screenshot(str(shot))
        assert shot.stat().st_size > 5_000
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
