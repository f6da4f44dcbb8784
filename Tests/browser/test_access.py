"""Taking access away on a page, and what its holder sees of it; one's passport."""

import journey
import pytest

BOTH = pytest.mark.parametrize("language", ["en", "ja"])


@BOTH
def test_a_passport_that_is_none_is_refused_with_its_reason(visit, language):
    alice = visit("alice", language=language)
    alice.go("/passport")
    alice.check("passport" + ("-ja" if language == "ja" else ""))
    alice.page.locator("#passport").fill("no passport")
    alice.click("passport.send")
    alice.page.locator("#problem").wait_for()
    alice.check()


def test_access_is_shown_and_ended_with_a_reason_that_its_holder_sees(visit):
    bob = visit("bob")
    request = journey.file_request(bob)
    dai = visit("dai")
    dai.go(f"/requests/{request}")
    dai.page.locator("a[href='/access/bob']").click()
    assert request in dai.page.locator("main").inner_text()
    dai.check("access")
    dai.click("access.send")
    dai.page.locator("#problem").wait_for()
    assert dai.words("access.reason.missing") in dai.page.locator("#problem").inner_text()
    dai.check()
    dai.page.locator("#reason").select_option("left-organisation")
    dai.click("access.send")
    dai.page.locator("#revoked").wait_for()
    assert dai.page.locator("#reason").count() == 0
    dai.check("access-revoked")
    japanese = visit("dai", language="ja")
    japanese.go("/access/bob")
    japanese.check("access-revoked-ja")
    bob.go(f"/requests/{request}")
    assert "access.revoked" in bob.page.locator("main").inner_html()
    assert bob.go("/access/bob").status == 403
