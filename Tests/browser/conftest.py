import os
import pathlib
import shutil
import tempfile

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from service import PASSWORD, Service, Words

# Rules of WCAG 2.0 to 2.2 at A and AA, and axe's own good practice.
AXE = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]},
       "resultTypes": ["violations"]}
PICTURES = os.environ.get("SEKISHO_PICTURES")


@pytest.fixture(scope="session")
def service():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sekisho-pages-"))
    service = Service(folder)
    try:
        service.start()
        yield service
    finally:
        service.stop()
        if not os.environ.get("SEKISHO_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("SEKISHO_CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """Somebody at a browser of their own."""

    def __init__(self, service, browser, person, language="en", scheme="light", script=True, width=1180):
        self.service, self.person, self.scheme = service, person, scheme
        self.words = Words(language)
        self.context = browser.new_context(
            base_url=service.url, ignore_https_errors=True, color_scheme=scheme, java_script_enabled=script,
            locale="ja-JP" if language == "ja" else "en-GB", viewport={"width": width, "height": 900},
            reduced_motion="reduce")
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        # The policy for content forbids inline code and other places; a page that breaks it says so here.
        self.complaints = []
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error"
                     and "status of 4" not in message.text else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if person:
            self.sign_in()

    def sign_in(self):
        self.go("/sign-in")
        self.type_sign_in()
        self.page.wait_for_url(lambda url: "/sign-in" not in url)

    def type_sign_in(self):
        words, page = self.words, self.page
        page.get_by_label(words("sign-in.name"), exact=True).fill(self.person)
        page.get_by_label(words("sign-in.password"), exact=True).fill(PASSWORD)
        page.get_by_role("button", name=words("sign-in.send")).click()

    def go(self, path):
        return self.page.goto(path)

    def click(self, key, role="button", **values):
        self.page.get_by_role(role, name=self.words(key, **values), exact=True).click()

    def heading(self):
        return self.page.locator("h1").inner_text()

    def check(self, name=None):
        """axe finds nothing on the page as it is, and the browser has complained of nothing."""
        assert self.page.locator("html").get_attribute("lang") == self.words.language
        assert not self.complaints, self.complaints
        if name and PICTURES:
            self.picture(name)
        found = Axe().run(self.page, options=AXE).response["violations"]
        assert not found, "\n".join(
            f"{item['id']}: {item['help']}: {[node['html'][:160] for node in item['nodes'][:4]]}" for item in found)

    def picture(self, name):
        folder = pathlib.Path(PICTURES)
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}-{self.scheme}.png", full_page=True)

    def close(self):
        self.context.close()


@pytest.fixture
def visit(service, browser):
    visitors = []

    def visit(person, **options):
        visitor = Visitor(service, browser, person, **options)
        visitors.append(visitor)
        return visitor

    yield visit
    for visitor in visitors:
        visitor.close()
