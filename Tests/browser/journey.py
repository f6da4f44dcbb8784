"""What people do at the pages, step by step; the tests put the steps together."""

from service import DATASET, SPECIFICATION

ETHICS = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def fill_request(visitor, project="ancestry-groups"):
    page = visitor.page
    page.locator("#dataset").select_option(DATASET)
    page.locator("#purpose").select_option("DUO:0000011")
    for fact, said in {"ancestry": "yes", "methods": "no", "commercial": "no", "notForProfit": "yes",
                       "genetic": "yes"}.items():
        page.locator(f"#{fact}").select_option(said)
    page.locator("#termMonths").fill("6")
    page.locator("#country").fill("JP")
    page.locator("#institution").fill("demo-university")
    page.locator("#project").fill(project)
    page.locator("#agreements-19").check()
    page.locator("#ethicsDigest").fill(ETHICS)
    page.locator("#ethicsExpires").fill("2099-12-31")


def file_request(visitor, **fields):
    """Files a request and returns its id."""
    visitor.go("/requests/new")
    fill_request(visitor, **fields)
    visitor.click("request-new.send")
    visitor.page.wait_for_url("**/requests/request-*")
    return visitor.page.url.split("/")[-1].split("?")[0]


def review_request(visitor, request, verdict="approve", comment="in scope"):
    visitor.go(f"/requests/{request}")
    visitor.page.locator(f"#verdict-{verdict}").check()
    visitor.page.locator("#comment").fill(comment)
    visitor.click("review.send")
    visitor.page.wait_for_url("**/requests/*?done=reviewed")


def start_run(visitor, run, epochs=30):
    """Starts a run under the newest grant."""
    visitor.go("/runs/new")
    grant = visitor.page.locator("#grant")
    grant.select_option(index=1)
    visitor.page.locator("#specification").fill(SPECIFICATION.format(epochs=epochs))
    visitor.page.locator("#id").fill(run)
    visitor.click("run-new.send")
    visitor.page.wait_for_url(f"**/runs/{run}?done=started")


def wait_for_review(visitor, run):
    """Looks at the run until it waits for its reviewers; with a script the page tells by itself."""
    for _ in range(120):
        visitor.go(f"/runs/{run}")
        if visitor.page.locator(".badge.waiting").count():
            return
        assert not visitor.page.locator(".badge.bad").count(), visitor.page.locator("main").inner_text()
        visitor.page.wait_for_timeout(250)
    raise AssertionError("the run never came to its review: " + visitor.page.locator("main").inner_text())


def review_release(visitor, run, verdict="approve"):
    visitor.go(f"/runs/{run}/release")
    visitor.page.locator(f"#verdict-{verdict}").check()
    visitor.click("review.send")
    visitor.page.wait_for_url("**/release?done=released")


def wait_for_release(visitor, run):
    for _ in range(80):
        visitor.go(f"/runs/{run}")
        if visitor.page.locator(".files").count():
            return
        visitor.page.wait_for_timeout(250)
    raise AssertionError("the run was never released: " + visitor.page.locator("main").inner_text())
