"""Every page held to axe-core's rules, light and dark, on a screen and on a telephone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.test_browser import every_path, letters, wait
from tests.support.console_installation import CHROMIUM, DRIVER, ConsoleInstallation

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is missing")

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")
RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ['violations']}).then(
  (found) => done(found.violations.map((rule) => [rule.impact, rule.id, rule.nodes.map((at) => String(at.target))])),
  (error) => done([['critical', String(error), []]]));
"""
OF_RQ = [
    "/jobs/rq/",
    "/jobs/rq/0/view/jobs/refinery-retrain/failed/8/asc/1",
    "/jobs/rq/0/view/workers",
    "/jobs/rq/0/view/job/evil-job",
]


@pytest.fixture(scope="module", autouse=True)
def _leaves(browser: Any, address: str) -> Iterator[None]:
    """The browser is as others expect it, and no page goes on refreshing itself once its console is gone."""
    browser.set_script_timeout(120)
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get("about:blank")


def seen(browser: Any, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def violations(browser: Any, url: str) -> list[Any]:
    browser.get(url)
    wait(browser, "body")
    browser.execute_script(AXE)
    found: list[Any] = browser.execute_async_script(RUN)
    return found


def our_pages(place: ConsoleInstallation) -> list[str]:
    number = letters(place, reason="lookahead")[0].id
    return [
        *every_path(place)[:8], "/signals/s-3", f"/dead-letters/{number}", f"/dead-letters/{number}/edit",
        f"/dead-letters/confirm?action=replay&id={number}", f"/dead-letters/confirm?action=discard&id={number}",
        f"/models/{place.models[0]}/activate", "/models/rollback", "/dead-letters?since=yesterday", "/nowhere",
        f"/models/compare?a={place.models[0]}&b={place.models[1]}",
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_no_page_of_ours_violates_a_rule(
    browser: Any, address: str, place: ConsoleInstallation, width: int, scheme: str
) -> None:
    seen(browser, width, scheme)
    found = {path: broken for path in our_pages(place) if (broken := violations(browser, address + path))}
    assert found == {}


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_no_page_of_rq_violates_a_critical_rule(browser: Any, address: str, width: int, scheme: str) -> None:
    seen(browser, width, scheme)
    found = {path: violations(browser, address + path) for path in OF_RQ}
    critical = {path: [rule for rule in rules if rule[0] == "critical"] for path, rules in found.items()}
    assert critical == {path: [] for path in OF_RQ}


def test_a_page_that_breaks_a_rule_is_noticed(browser: Any) -> None:
    browser.get("data:text/html,<html><body><img src=x><input></body></html>")
    browser.execute_script(AXE)
    broken = {rule for _, rule, _ in browser.execute_async_script(RUN)}
    assert {"image-alt", "label", "html-has-lang"} <= broken
