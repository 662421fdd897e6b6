"""A headless Chromium, and the results pages that it opens; without a Chromium these tests are skipped."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from analysis.frames import large_study, make_study
from sparseft.analysis.figures import write_figures
from sparseft.analysis.pages import write_pages

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip
STUDIES = {"small": make_study, "large": large_study}
HEIGHT = 900  # pixels


@dataclass
class Browser:
    """Open pages in Chromium, and read what they show."""

    driver: object

    def open(self, page: Path, width: int, *, scheme: str = "light", medium: str = "screen") -> None:
        """Open a page in a window of this width, with nothing in the log of an earlier page."""
        self.messages()
        size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": [scheme]})
        self.driver.get(page.as_uri())

    def ask(self, script: str) -> object:
        """Return what a script returns on the page."""
        return self.driver.execute_script(script)

    def messages(self) -> list[dict]:
        """Return what the console said since the last call."""
        return self.driver.get_log("browser")


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """Start a Chromium with a folder of its own."""
    why = "selenium is not installed: pip install -e '.[browser]'"
    webdriver = pytest.importorskip("selenium.webdriver", reason=why)
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium here: install chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield Browser(started)
    started.quit()


@pytest.fixture(params=STUDIES, scope="session")
def page(request, browser, tmp_path_factory) -> Path:
    """Write the results page of each study and return it. Skip the tests if there is no browser."""
    folder, study = tmp_path_factory.mktemp(request.param), STUDIES[request.param]()
    (folder / "plots").mkdir()
    figures = write_figures(folder / "plots", study)
    write_pages(folder, folder / "plots", study, figures, {"again": ["make again"], "check": ["check"]})
    return folder / "report.html"
