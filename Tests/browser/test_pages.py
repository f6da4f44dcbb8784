"""Single pages: bad input, double sending, reviewers at once, ended sessions, live runs, what nobody may see."""

import re

import journey
import pytest
from service import PASSWORD, SPECIFICATION

BOTH = pytest.mark.parametrize("language", ["en", "ja"])


def csrf(visitor):
    return visitor.page.locator("input[name=csrf]").first.get_attribute("value")


def post(visitor, path, **fields):
    """Sends a form as a browser does, with any values, also such as no page lets anybody type."""
    return visitor.context.request.post(
        path, form={"csrf": csrf(visitor), **fields}, headers={"origin": visitor.service.url}, max_redirects=0)


def faults(visitor):
    return visitor.page.locator("#problem li a").all_inner_texts()


# MARK: Bad input

@BOTH
def test_an_empty_request_names_every_missing_field_and_keeps_the_rest(visit, language):
    alice = visit("alice", language=language)
    alice.go("/requests/new")
    alice.page.locator("#project").fill("keeps this")
    alice.page.locator("#ancestry").select_option("yes")
    alice.click("request-new.send")
    alice.page.locator("#problem").wait_for()
    found = faults(alice)
    for key in ["request.dataset", "request.purpose", "request-new.term"]:
        assert any(alice.words(key) in fault for fault in found), found
    assert len(found) == 3
    assert alice.page.locator("#project").input_value() == "keeps this"
    assert alice.page.locator("#ancestry").input_value() == "yes"
    assert alice.page.locator("#dataset").get_attribute("aria-invalid") == "true"
    assert alice.page.evaluate("document.activeElement.id") == "problem"
    alice.check("request-faults" + ("-ja" if language == "ja" else ""))


@pytest.mark.parametrize("field,value,key", [
    ("dataset", "データ", "request-new.no-dataset"),
    ("dataset", "x" * 5000, "request-new.no-dataset"),
    ("purpose", "DUO:9999999", "form.choose"),
    ("ancestry", "maybe", "form.choose"),
    ("diseases", "MONDO:x", "request-new.diseases.wrong"),
    ("diseases", "糖尿病", "request-new.diseases.wrong"),
    ("termMonths", "six", "form.number"),
    ("termMonths", "-1", "form.number"),
    ("termMonths", "99999999999999999999", "form.number"),
    ("termMonths", "六", "form.number"),
    ("country", "JPN", "request-new.country.wrong"),
    ("country", "日本", "request-new.country.wrong"),
    ("institution", "大" * 201, "form.too-long"),
    ("project", "<script>alert(1)</script>" * 10, "form.too-long"),
    ("ethicsDigest", "abc", "request-new.digest.wrong"),
    ("ethicsExpires", "soon", "form.date"),
    ("ethicsExpires", "2027-13-45", "form.date"),
])
def test_a_wrong_field_of_a_request_is_named_and_kept(visit, service, field, value, key):
    alice = visit("alice")
    alice.go("/requests/new")
    fields = {"dataset": "demo:kg1-ancestry", "purpose": "DUO:0000011", "termMonths": "6", "ethicsDigest": "a" * 64,
              field: value}
    answer = post(alice, "/requests", **fields)
    assert answer.status == 400
    alice.page.set_content(answer.text())
    assert len(faults(alice)) == 1
    assert alice.words.pattern(key).search(faults(alice)[0])
    if alice.page.locator(f"input#{field}").count():
        assert alice.page.locator(f"#{field}").get_attribute("value") == value


@pytest.mark.parametrize("field,value,key", [
    ("grant", "", "form.choose"), ("grant", "grant-999", "form.choose"), ("grant", "許可", "form.choose"),
    ("specification", "", "form.empty"), ("specification", "  \n ", "form.empty"),
    ("specification", "a" * 20000, "form.too-long"), ("id", "私の実行", "form.id"), ("id", "-x", "form.id"),
    ("id", "x" * 200, "form.id"), ("memory", "much", "form.number"), ("memory", "0", "form.number"),
])
def test_a_wrong_field_of_a_run_is_named_and_kept(visit, granted, field, value, key):
    alice = visit("alice")
    alice.go("/runs/new")
    fields = {"grant": granted, "specification": SPECIFICATION.format(epochs=2), "id": "", "memory": "", field: value}
    answer = post(alice, "/runs", **fields)
    assert answer.status == 400
    alice.page.set_content(answer.text())
    assert len(faults(alice)) == 1
    assert alice.words.pattern(key).search(faults(alice)[0])


def test_a_specification_that_makes_no_sense_is_told_with_its_place_and_kept(visit, granted):
    alice = visit("alice")
    alice.go("/runs/new")
    alice.page.locator("#grant").select_option(granted)
    alice.page.locator("#specification").fill("model: gcn\nhidden: [lots]\n")
    alice.click("run-new.send")
    problem = alice.page.locator("#problem")
    problem.wait_for()
    assert "hidden" in problem.inner_text()
    assert alice.page.locator("#specification").input_value() == "model: gcn\nhidden: [lots]\n"
    alice.check()


def test_words_in_another_script_are_kept_as_they_are(visit):
    alice = visit("alice")
    request = journey.file_request(alice, project="祖先研究 <b>№1</b> — κεφάλαιο")
    assert alice.page.get_by_text("祖先研究 <b>№1</b> — κεφάλαιο").is_visible()
    dai = visit("dai", language="ja")
    journey.review_request(dai, request, verdict="reject", comment="目的が広すぎます。\n<i>再提出</i>してください。")
    alice.go(f"/requests/{request}")
    assert alice.page.get_by_text("<i>再提出</i>してください。").first.is_visible()
    assert alice.page.locator(".badge.bad", has_text=alice.words("request.state.refused")).is_visible()
    alice.check()


@pytest.mark.parametrize("query", ["?who=%E5%A4%AA%E9%83%8E", "?from=soon", "?from=2027-01-02&to=2027-01-01",
                                   "?what=nothing", "?who=" + "x" * 300])
def test_a_search_that_makes_no_sense_is_told_and_kept(visit, query):
    aoi = visit("aoi")
    answer = aoi.go("/audit" + query)
    assert answer.status == 400
    assert aoi.page.locator("#problem").is_visible()
    aoi.check()


@BOTH
def test_a_review_without_a_verdict_keeps_its_comment(visit, language):
    request = journey.file_request(visit("alice"))
    dai = visit("dai", language=language)
    dai.go(f"/requests/{request}")
    dai.page.locator("#comment").fill("half a thought")
    dai.click("review.send")
    dai.page.locator("#problem").wait_for()
    assert dai.words("review.verdict.missing") in faults(dai)[0]
    assert dai.page.locator("#comment").input_value() == "half a thought"
    dai.check()


def test_too_much_is_refused_whole(visit):
    alice = visit("alice")
    alice.go("/requests/new")
    answer = post(alice, "/requests", project="x" * (300 << 10))
    assert answer.status == 413
    alice.page.set_content(answer.text())
    assert alice.heading() == alice.words("problem.too-large")


# MARK: Twice, and at once

def test_a_form_that_is_sent_twice_is_done_once(visit):
    alice = visit("alice")
    alice.go("/requests/new")
    fields = {"dataset": "demo:kg1-ancestry", "purpose": "DUO:0000011", "termMonths": "6", "project": "twice",
              "form": alice.page.locator("input[name=form]").get_attribute("value")}
    answers = [post(alice, "/requests", **fields) for _ in range(3)]
    assert [answer.status for answer in answers] == [303] * 3
    assert len({answer.headers["location"] for answer in answers}) == 1


def test_a_second_click_sends_nothing(visit):
    alice = visit("alice")
    alice.go("/requests/new")
    journey.fill_request(alice, project="double-click")
    sent = []
    alice.page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    alice.page.get_by_role("button", name=alice.words("request-new.send")).dblclick()
    alice.page.wait_for_url("**/requests/request-*")
    assert len(sent) == 1


@BOTH
def test_of_two_reviewers_at_once_the_second_is_told_and_keeps_the_words(visit, language):
    request = journey.file_request(visit("alice"))
    dai, chika = visit("dai"), visit("chika", language=language)
    for reviewer in [dai, chika]:
        reviewer.go(f"/requests/{request}")
    chika.page.locator("#verdict-approve").check()
    chika.page.locator("#comment").fill("長い理由です")
    journey.review_request(dai, request, verdict="reject", comment="no")
    chika.click("review.send")
    problem = chika.page.locator("#problem")
    problem.wait_for()
    assert chika.words("review.too-late") in problem.inner_text()
    assert "長い理由です" in problem.inner_text()
    chika.check()


# MARK: Sessions

@BOTH
def test_what_was_typed_outlives_the_session(visit, language):
    alice = visit("alice", language=language)
    alice.go("/requests/new")
    journey.fill_request(alice, project="typed before the end")
    assert post(alice, "/sign-out").status == 303
    alice.click("request-new.send")
    alice.page.locator("#password").wait_for()
    assert alice.page.get_by_text(alice.words("sign-in.kept")).is_visible()
    alice.check("session-ended" + ("-ja" if language == "ja" else ""))
    alice.type_sign_in()
    alice.page.get_by_role("button", name=alice.words("again.send")).wait_for()
    assert alice.page.get_by_label(alice.words("request.project")).input_value() == "typed before the end"
    alice.check("kept" + ("-ja" if language == "ja" else ""))
    alice.click("again.send")
    alice.page.wait_for_url("**/requests/request-*")
    assert alice.page.get_by_text("typed before the end").is_visible()


@BOTH
def test_a_wrong_password_is_told_and_the_name_is_kept(visit, language):
    guest = visit(None, language=language)
    guest.go("/sign-in")
    guest.page.locator("#name").fill("bob")
    guest.page.locator("#password").fill("not the password")
    guest.click("sign-in.send")
    guest.page.get_by_text(guest.words("sign-in.wrong")).wait_for()
    assert guest.page.locator("#name").input_value() == "bob"
    assert guest.page.locator("#password").input_value() == ""
    guest.check()


def test_after_signing_out_nothing_is_open(visit):
    alice = visit("alice")
    alice.go("/requests")
    alice.click("frame.sign-out")
    alice.page.wait_for_url("**/sign-in*")
    alice.go("/requests")
    assert "/sign-in" in alice.page.url


def test_a_form_of_another_session_does_nothing(visit):
    alice = visit("alice")
    alice.go("/requests/new")
    answer = alice.context.request.post(
        "/requests", form={"csrf": "0" * 64, "dataset": "demo:hpo"}, headers={"origin": alice.service.url},
        max_redirects=0)
    assert answer.status == 403
    alice.page.set_content(answer.text())
    assert alice.heading() == alice.words("problem.form-expired")


# MARK: Who sees what

@BOTH
def test_what_is_not_yours_is_not_there(visit, language):
    request = journey.file_request(visit("alice"))
    bob = visit("bob", language=language)
    assert bob.go(f"/requests/{request}").status == 404
    bob.check("not-found" + ("-ja" if language == "ja" else ""))
    assert bob.go("/audit").status == 403
    assert bob.heading() == bob.words("problem.role-missing")
    bob.check()
    assert bob.page.locator("nav a[href='/audit']").count() == 0
    bob.go("/requests")
    bob.check("empty" + ("-ja" if language == "ja" else ""))


def test_pages_carry_no_inline_code_and_no_secret_in_an_address(visit, service):
    urls = []
    alice = visit(None)
    alice.page.on("request", lambda request: urls.append(request.url))
    alice.person = "alice"
    alice.sign_in()
    secret = csrf(alice)
    for path in ["/requests", "/requests/new", "/runs", "/runs/new", "/nothing-here"]:
        answer = alice.go(path)
        text, headers = answer.text(), answer.headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", text), path
    assert not [url for url in urls if secret in url or PASSWORD.split()[0] in url]


# MARK: The frame

@BOTH
def test_the_skip_link_is_first_and_moves_the_focus_to_the_heading(visit, language):
    alice = visit("alice", language=language)
    alice.go("/requests")
    alice.page.keyboard.press("Tab")
    assert alice.page.evaluate("document.activeElement.className") == "skip"
    alice.page.keyboard.press("Enter")
    assert alice.page.evaluate("document.activeElement.id") == "heading"


def test_the_language_can_be_changed_on_every_page_and_stays(visit):
    alice = visit("alice")
    alice.go("/runs/new")
    alice.page.get_by_role("link", name="日本語").click()
    alice.page.wait_for_url("**/runs/new")
    assert alice.page.locator("html").get_attribute("lang") == "ja"
    alice.go("/requests")
    assert alice.page.locator("html").get_attribute("lang") == "ja"
    assert alice.go("/language/ja?back=https://elsewhere.example/").url.startswith(alice.service.url)


@pytest.mark.parametrize("language,scheme", [("en", "light"), ("ja", "dark")])
def test_pages_fit_a_narrow_screen(visit, language, scheme):
    alice = visit("alice", language=language, scheme=scheme, width=320)
    aoi = visit("aoi", language=language, scheme=scheme, width=320)
    for visitor, paths in [(alice, ["/requests", "/requests/new", "/runs", "/runs/new"]), (aoi, ["/audit", "/audit/export"])]:
        for path in paths:
            visitor.go(path)
            wide = visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, path
            visitor.check()
    alice.go("/requests")
    alice.check("narrow" + ("-ja" if language == "ja" else ""))


# MARK: Live

@BOTH
def test_a_run_is_followed_as_it_happens_with_figures_only_for_its_researcher(visit, granted, language):
    alice, chika = visit("alice", language=language), visit("chika", language=language)
    run = f"live-{language}"
    journey.start_run(alice, run, epochs=4000)
    progress = alice.page.locator("[data-live=progress]")
    progress.get_by_text(alice.words.pattern("run.progress.words")).wait_for()
    first = progress.inner_text()
    alice.page.wait_for_function("first => document.querySelector('[data-live=progress]')?.textContent !== first", arg=first)
    figures = alice.page.locator("[data-live=figures]")
    figures.get_by_text(alice.words("run.figure.loss")).wait_for()
    alice.check("run-live" + ("-ja" if language == "ja" else ""))
    chika.go(f"/runs/{run}")
    chika.page.locator("[data-live=progress]").get_by_text(chika.words.pattern("run.progress.words")).wait_for()
    assert chika.page.locator("[data-live=figures]").inner_text() == ""
    chika.check()

    alice.page.locator("summary", has_text=alice.words("cancel.title")).click()
    alice.click("cancel.send")
    alice.page.wait_for_url("**?done=cancelled")
    # The page tells of the end by itself.
    alice.page.locator(".badge", has_text=alice.words("end.cancelled")).wait_for()
    alice.check("run-cancelled" + ("-ja" if language == "ja" else ""))


@pytest.fixture
def granted(visit, service):
    """A grant of Alice's; made once."""
    if not hasattr(service, "grant"):
        alice = visit("alice")
        request = journey.file_request(alice, project="for-runs")
        journey.review_request(visit("dai"), request)
        journey.review_request(visit("chika"), request)
        service.grant = f"grant-{request.split('-')[1]}"
    return service.grant
