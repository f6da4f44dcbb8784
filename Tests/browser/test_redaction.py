"""What the service logged while all the other tests ran; this file comes last."""

import json

from service import PASSWORD, PEOPLE


def test_the_log_of_the_whole_run_names_nobody_and_holds_no_secret_and_no_path(visit, service):
    alice = visit("alice")
    alice.go("/requests")
    cookies = [cookie["value"] for cookie in alice.context.cookies() if len(cookie["value"]) > 8]
    token = alice.page.locator("input[name=csrf]").first.get_attribute("value")
    assert cookies and token
    log = (service.folder / "serve.log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert any("/requests/:request" in json.dumps(line) for line in lines), "routes are logged, not addresses"
    for secret in [PASSWORD, token, *cookies, str(service.folder), service.folder.name, "/tmp/", "home.key",
                   (service.folder / "home.key").read_bytes().hex(), "祖先", "demo-university", "ancestry-groups"]:
        assert secret not in log, "something that must not be logged is in the log"
    words = set(log.replace('"', " ").replace("/", " ").replace(":", " ").split())
    assert not words & set(PEOPLE), words & set(PEOPLE)
