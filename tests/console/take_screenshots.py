"""Photographs a running console: `python tests/console/take_screenshots.py http://127.0.0.1:8700 docs/screenshots`."""

from __future__ import annotations

import io
import re
import shutil
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service


def main(address: str, into: Path) -> None:
    """Every page, 1280 wide in both schemes, the two that are looked at on a telephone 400 wide."""
    listing = urllib.request.urlopen(f"{address}/models").read().decode()  # noqa: S310 - our own console
    newest = re.search(r'href="(/models/signal_quality[^"/]+)"', listing)
    letters = urllib.request.urlopen(f"{address}/dead-letters").read().decode()  # noqa: S310
    letter = re.search(r'href="(/dead-letters/\d+)"', letters)
    signals = urllib.request.urlopen(f"{address}/signals").read().decode()  # noqa: S310
    signal = re.findall(r'href="(/signals/[^"?]+)"', signals)[-1]
    pages = {
        "overview": "/",
        "dead-letters": "/dead-letters",
        "dead-letter": letter[1] if letter else "/dead-letters",
        "models": "/models",
        "model": newest[1] if newest else "/models",
        "signals": "/signals",
        "signal": signal,
        "monitoring": "/monitoring",
        "jobs": "/jobs",
    }
    into.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        for name, path in pages.items():
            if width == 400 and name not in ("overview", "dead-letters", "monitoring"):
                continue
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get(address + path)
            time.sleep(1.5 if name == "jobs" else 0.3)
            tall = browser.execute_script("return document.documentElement.scrollHeight")
            most = 1500 if width == 1280 else 2200
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics | {"height": min(tall, most)})
            picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
            small = picture.quantize(96, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            small.save(into / f"{name}-{width}-{scheme}.png", optimize=True)
    browser.quit()


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), Path(sys.argv[2]))
