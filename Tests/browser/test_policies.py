"""The whole life of a policy change at the pages: edited, checked, proposed, signed by two people with keys that stay with
them, activated; the next decision is made by it. Then what the pages show of it, and the way back."""

import json
import re
import subprocess

import pytest
from service import BIN

LOOKS = [("en", "light"), ("en", "dark"), ("ja", "light"), ("ja", "dark")]
FILE = "kg1-health.yaml"
COHORT = re.compile(r"(release:\n  cohort_min: )(\d+)")


def question(cohort):
    return json.dumps({
        "ask": "release", "now": "2026-11-21T09:30:00.000Z", "dataset": "demo:kg1-health", "run": "run-1",
        "researcher": "alice", "candidate": "0" * 64, "cohort": cohort, "votes": [],
        "checks": [{"check": check, "passed": True} for check in ["artefact", "shape", "cohort"]]})


def ask(visitor, cohort):
    """A dry run of the policies in force; what the answer's badge says."""
    visitor.go("/policies/decide?start=release")
    visitor.page.locator("#question").fill(question(cohort))
    visitor.click("policies.decide-send")
    visitor.page.locator("#answer").wait_for()
    return visitor.page.locator(".holder .badge").first.inner_text()


def make_narrower(visitor):
    """Asks for one person more in a release of one data set; returns how many that is."""
    text = visitor.page.get_by_label(visitor.words("policies.text-of", name=FILE), exact=True)
    before = text.input_value()
    cohort = int(COHORT.search(before).group(2)) + 1
    text.fill(COHORT.sub(rf"\g<1>{cohort}", before))
    return cohort


def sign(service, visitor, number, folder):
    """Takes the bundle's archive, signs where nothing of the gateway is, and pastes the signature."""
    page = visitor.page
    page.goto(f"/policies/bundles/{number}")
    with page.expect_download() as download:
        page.locator("#sign ~ ol a[download]").click()
    bundle = folder / f"{visitor.person}-{number}"
    bundle.mkdir(parents=True)
    subprocess.run(["tar", "-xf", download.value.path(), "-C", bundle], check=True)
    told = subprocess.run(
        [BIN / "sekisho", "policy", "sign", str(number), "--key", service.folder / f"policy-{visitor.person}.key",
         "--statement", bundle / "statement.json", "--folder", bundle], capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    page.locator("#signature").fill(told.stdout)
    visitor.click("policies.sign-send")
    page.wait_for_url(f"**/policies/bundles/{number}?done=signed")


def life(service, visit, folder, picture=None, **look):
    def check(visitor, name=None):
        if picture is not None:
            visitor.check(name and name + picture)

    pia, dai, chika = (visit(person, **look) for person in ["pia", "dai", "chika"])
    pia.go("/policies")
    check(pia, "policies")
    pia.click("policies.propose", role="link")
    pia.page.wait_for_url("**/policies/propose")
    check(pia)
    cohort = make_narrower(pia)
    pia.click("policies.check-send")
    pia.page.locator("#check").wait_for()
    assert pia.page.get_by_text(pia.words("policies.narrows")).is_visible()
    assert pia.page.get_by_text(pia.words("policies.check-valid")).is_visible()
    check(pia, "policy-check")
    pia.click("policies.propose-send")
    pia.page.wait_for_url("**/policies/bundles/*?done=proposed")
    number = int(pia.page.url.split("/")[-1].split("?")[0])
    assert ask(pia, cohort - 1) == pia.words("answer.needs-human")

    pia.go(f"/policies/bundles/{number}")
    pia.click("policies.activate")
    pia.page.locator("#problem").wait_for()
    assert "0 of 2" in pia.page.locator("#problem").inner_text()
    dai.go(f"/policies/bundles/{number}")
    check(dai, "policy-sign")
    sign(service, dai, number, folder)
    check(dai)
    sign(service, chika, number, folder)
    pia.go(f"/policies/bundles/{number}")
    check(pia, "policy-bundle")
    pia.click("policies.activate")
    pia.page.wait_for_url(f"**/policies/bundles/{number}?done=activated")
    assert pia.page.locator(".badge.good", has_text=pia.words("bundle.active")).first.is_visible()
    # The next decision is made by it, and says by which rule.
    assert ask(pia, cohort - 1) == pia.words("answer.refuse")
    assert pia.page.get_by_text("demo:kg1-health/release.cohort_min").first.is_visible()
    check(pia, "policy-decide")
    return number


@pytest.mark.parametrize("language,scheme", LOOKS)
def test_the_life_of_a_policy_change_with_axe_on_every_page(visit, service, tmp_path, language, scheme):
    suffix = "-ja" if language == "ja" else ""
    look = {"language": language, "scheme": scheme}
    number = life(service, visit, tmp_path, picture=suffix, **look)
    aoi = visit("aoi", **look)
    for path, name in [
            ("matrix", "policy-matrix"), ("cedar", None), ("bundles", "policy-history"), ("decide", None),
            (f"bundles/{number}/files/{FILE}", "policy-file"), ("bundles/1/replay", "policy-replay")]:
        assert aoi.go(f"/policies/{path}").status == 200
        aoi.check(name and name + suffix)
    aoi.go(f"/policies/bundles/{number}/files/{FILE}")
    assert aoi.page.get_by_text("health or medical or biomedical research").first.is_visible()
    assert aoi.page.get_by_text("健康/医療/生物医学研究").first.is_visible()


def test_the_life_of_a_policy_change_without_a_script(visit, service, tmp_path):
    life(service, visit, tmp_path, script=False)


def test_going_back_widens_again_and_needs_three(visit, service, tmp_path):
    pia = visit("pia")
    pia.go("/policies/bundles/1")
    pia.click("policies.return")
    pia.page.wait_for_url("**/policies/bundles/*?done=proposed")
    assert pia.page.get_by_text(pia.words("policies.widens")).is_visible()
    assert pia.page.locator("#changes ~ ul .badge.bad").count() >= 1
    pia.check()


def test_what_is_wrong_is_told_at_its_line_and_kept(visit):
    pia = visit("pia")
    pia.go("/policies/propose")
    text = pia.page.get_by_label(pia.words("policies.text-of", name=FILE), exact=True)
    text.fill(text.input_value().replace("level: standard", "level: &a standard"))
    pia.click("policies.propose-send")
    pia.page.locator("#check").wait_for()
    assert pia.page.get_by_text(pia.words("lint.yaml.anchor")).first.is_visible()
    assert "level: &a standard" in pia.page.get_by_label(
        pia.words("policies.text-of", name=FILE), exact=True).input_value()
    pia.check("policy-wrong")


def test_files_are_read_into_the_form(visit, tmp_path):
    pia = visit("pia")
    pia.go("/policies/propose")
    for name in ["one.yaml", "two.yaml", "three.yaml", FILE]:
        (tmp_path / name).write_text(f"# {name}\n")
    pia.page.locator("input[type=file]").set_input_files(
        [tmp_path / name for name in ["one.yaml", "two.yaml", "three.yaml", FILE]])
    pia.page.wait_for_function(
        "text => [...document.querySelectorAll('textarea')].some((one) => one.value === text)", arg=f"# {FILE}\n")
    texts = pia.page.locator("fieldset.file").evaluate_all(
        "all => all.map((one) => [one.querySelector('[name=name]').value, one.querySelector('textarea').value])")
    for name in ["one.yaml", "two.yaml", "three.yaml", FILE]:
        assert [name, f"# {name}\n"] in texts
    ids = pia.page.locator("[id]").evaluate_all("all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))


def test_nobody_else_sees_policies(visit):
    alice = visit("alice")
    for path in ["", "/matrix", "/bundles", "/propose", "/bundles/1", "/bundles/1/download"]:
        assert alice.go(f"/policies{path}").status == 403
    assert alice.page.locator("nav a[href='/policies']").count() == 0
    dai = visit("dai")
    assert dai.go("/policies/propose").status == 403
    assert dai.go("/policies/bundles/1/replay").status == 403
