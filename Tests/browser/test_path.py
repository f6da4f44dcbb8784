"""The whole path, request to export, in every language and colour scheme, by keyboard alone and without a script."""

import subprocess

import journey
import pytest
from service import DATASET, PASSWORD, SPECIFICATION

LOOKS = [("en", "light"), ("en", "dark"), ("ja", "light"), ("ja", "dark")]


def verify(service, folder, archive):
    """An export, fetched at the page, verifies offline."""
    folder.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    told = service.sekisho("audit", "verify", folder, "--trail", service.trail, "--key", service.folder / "auditor.key")
    assert "Verified" in told


@pytest.mark.parametrize("language,scheme", LOOKS)
def test_the_path_with_axe_on_every_page(visit, service, tmp_path, language, scheme):
    look = {"language": language, "scheme": scheme}
    suffix = "-ja" if language == "ja" else ""
    run = f"path-{language}-{scheme}"
    guest = visit(None, **look)
    guest.go("/")
    guest.check("sign-in" + suffix)
    alice, dai, chika, aoi = (visit(person, **look) for person in ["alice", "dai", "chika", "aoi"])

    alice.go("/requests/new")
    alice.check("request-new" + suffix)
    request = journey.file_request(alice)
    assert alice.page.get_by_role("status").filter(has_text=alice.words("request.filed")).is_visible()
    assert alice.page.evaluate("document.activeElement.id") == "heading"
    alice.check()
    alice.go("/requests")
    assert alice.page.get_by_text(alice.words.pattern("request.holder.waiting")).first.is_visible()
    alice.check("requests" + suffix)

    dai.go("/reviews")
    dai.check("reviews" + suffix)
    dai.go(f"/requests/{request}")
    assert dai.page.locator(".verdict code", has_text="approvals.waiting").is_visible()
    dai.check("review" + suffix)
    journey.review_request(dai, request, comment="Fits the consent. 同意の範囲内です。")
    dai.check()
    journey.review_request(chika, request)
    alice.go(f"/requests/{request}")
    assert alice.page.get_by_text("Fits the consent. 同意の範囲内です。").first.is_visible()
    alice.check("request" + suffix)

    alice.go("/runs/new")
    alice.check("run-new" + suffix)
    journey.start_run(alice, run)
    alice.check()
    journey.wait_for_review(alice, run)
    # Policy shows the researcher rounded figures before the release.
    assert alice.page.locator(".pictures svg").count() == 4
    assert alice.page.locator("figure > p", has_text=alice.words("picture.rounded")).first.is_visible()
    alice.check("run-waits" + suffix)
    alice.go("/runs")
    alice.check("runs" + suffix)

    dai.go(f"/runs/{run}")
    assert dai.page.locator(".pictures svg").count() == 2, "a reviewer sees stages and memory, no figures"
    dai.check()
    dai.go(f"/runs/{run}/release")
    dai.check("release" + suffix)
    journey.review_release(dai, run)
    dai.check()
    journey.review_release(chika, run)
    journey.wait_for_release(alice, run)
    alice.check("run" + suffix)
    # What the release obliges to is accepted first; the browser asks for it, and so does the server.
    assert alice.page.locator(".files button").count() == 4 and not alice.page.locator("#accept").is_checked()
    alice.page.locator("#accept").check()
    with alice.page.expect_download() as download:
        alice.page.locator(".files button").first.click()
    assert download.value.path().stat().st_size > 0

    aoi.go("/audit")
    aoi.page.locator("#what").select_option("release.taken")
    aoi.click("audit.search")
    aoi.page.wait_for_url("**/audit?*what=release.taken*")
    assert aoi.page.locator("tbody tr").count() >= 1
    aoi.go("/audit")
    aoi.check("audit" + suffix)
    aoi.page.locator("tbody a").first.click()
    aoi.page.wait_for_url("**/audit/records/*")
    aoi.check("record" + suffix)
    aoi.go("/audit/export")
    aoi.check()
    aoi.click("export.send")
    aoi.page.locator("#made").wait_for()
    aoi.check("export" + suffix)
    with aoi.page.expect_download() as download:
        aoi.page.get_by_role("link", name=aoi.words("export.download")).click()
    verify(service, tmp_path / "export", download.value.path())


class Keyboard:
    """A visitor who has no mouse: Tab, Enter, Space, arrows and letters only."""

    def __init__(self, visitor):
        self.visitor, self.page, self.words = visitor, visitor.page, visitor.words

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def tab_to(self, selector, most=80):
        """Moves the focus on until it is on `selector`; every stop shows where it is."""
        for _ in range(most):
            self.press("Tab")
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                seen = self.page.evaluate(
                    "() => getComputedStyle(document.activeElement).outlineStyle !== 'none'")
                assert seen, f"the focus on {selector} cannot be seen"
                return
        raise AssertionError(f"{selector} cannot be reached by keyboard at {self.page.url}")

    def type(self, selector, text):
        self.tab_to(selector)
        self.press("Control+A")
        self.page.keyboard.type(text)

    def choose(self, selector, steps):
        self.tab_to(selector)
        self.press(*["ArrowDown"] * steps)

    def enter(self, selector):
        self.tab_to(selector)
        with self.page.expect_navigation():
            self.press("Enter")

    def send(self, selector="main form .button"):
        self.enter(selector)


def test_the_path_by_keyboard_alone(visit, service, tmp_path):
    def person(name):
        visitor = visit(None)
        keyboard = Keyboard(visitor)
        visitor.go("/sign-in")
        keyboard.type("#name", name)
        keyboard.press("Tab")
        keyboard.page.keyboard.type(PASSWORD)
        with keyboard.page.expect_navigation():
            keyboard.press("Enter")
        return keyboard

    alice = person("alice")
    alice.enter("a.button[href='/requests/new']")
    datasets = alice.page.locator("#dataset option").evaluate_all("all => all.map(one => one.value)")
    alice.choose("#dataset", datasets.index(DATASET))
    alice.choose("#purpose", 3)
    for fact, steps in [("ancestry", 1), ("methods", 2), ("commercial", 2), ("notForProfit", 1), ("genetic", 1)]:
        alice.choose(f"#{fact}", steps)
    alice.type("#termMonths", "6")
    alice.type("#country", "JP")
    alice.type("#institution", "demo-university")
    alice.type("#project", "by-keyboard")
    alice.tab_to("#agreements-19")
    alice.press("Space")
    alice.type("#ethicsDigest", journey.ETHICS)
    alice.send()
    assert "done=filed" in alice.page.url, alice.page.locator("main").inner_text()
    request = alice.page.url.split("/")[-1].split("?")[0]

    reviewers = [person("dai"), person("chika")]
    for reviewer in reviewers:
        reviewer.enter("nav a[href='/reviews']")
        reviewer.enter(f"a[href='/requests/{request}']")
        reviewer.tab_to("#verdict-approve")
        reviewer.press("Space")
        reviewer.type("#comment", "fits")
        reviewer.send()
        assert "done=reviewed" in reviewer.page.url

    alice.enter("nav a[href='/requests']")
    alice.enter(f"a[href='/requests/{request}']")
    alice.enter("a.button[href^='/runs/new']")
    alice.tab_to("#specification")
    alice.press("Control+A")
    alice.page.keyboard.insert_text(SPECIFICATION.format(epochs=5))
    alice.type("#id", "by-keyboard")
    alice.send()
    assert "done=started" in alice.page.url
    journey.wait_for_review(alice.visitor, "by-keyboard")

    for reviewer in reviewers:
        reviewer.enter("nav a[href='/reviews']")
        reviewer.enter("a[href='/runs/by-keyboard/release']")
        reviewer.tab_to("#verdict-approve")
        reviewer.press("Space")
        reviewer.send()
        assert "done=released" in reviewer.page.url
    journey.wait_for_release(alice.visitor, "by-keyboard")
    alice.tab_to("#accept")
    alice.press("Space")
    alice.tab_to(".files button")
    with alice.page.expect_download() as download:
        alice.press("Enter")
    assert download.value.path().stat().st_size > 0

    aoi = person("aoi")
    aoi.enter("nav a[href='/audit']")
    aoi.enter("a.button[href='/audit/export']")
    aoi.send()
    aoi.page.locator("#made").wait_for()
    aoi.tab_to("a[download]")
    with aoi.page.expect_download() as download:
        aoi.press("Enter")
    verify(service, tmp_path / "export", download.value.path())


def test_the_path_without_a_script(visit, service, tmp_path):
    alice, dai, chika, aoi = (visit(person, script=False) for person in ["alice", "dai", "chika", "aoi"])
    request = journey.file_request(alice, project="no-script")
    journey.review_request(dai, request)
    journey.review_request(chika, request)
    journey.start_run(alice, "no-script", epochs=5)
    journey.wait_for_review(alice, "no-script")
    journey.review_release(dai, "no-script")
    journey.review_release(chika, "no-script")
    journey.wait_for_release(alice, "no-script")
    alice.page.locator("#accept").check()
    with alice.page.expect_download() as download:
        alice.page.locator(".files button").first.click()
    assert download.value.path().stat().st_size > 0
    aoi.go("/audit/export")
    aoi.click("export.send")
    aoi.page.locator("#made").wait_for()
    with aoi.page.expect_download() as download:
        aoi.page.get_by_role("link", name=aoi.words("export.download")).click()
    verify(service, tmp_path / "export", download.value.path())
