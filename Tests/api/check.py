"""Holds the API to its description, at a real service with a real node.

A home is made and served; the journey is walked through the command line as the service's client; every answer of the
reading commands is compared with the embedded mode's; schemathesis asks with a token of each role.

usage: check.py WORK-FOLDER BIN-FOLDER [--schemathesis PROGRAM] [--examples N] [--seed N] [--roles ROLE,...]
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import clinic

PEOPLE = {
    "olga": "operator", "alice": "researcher", "rin": "researcher", "dai": "dac", "chika": "data-custodian",
    "mika": "data-custodian", "pia": "policy-administrator", "aoi": "compliance-officer", "oto": "output-checker",
    "sei": "security-officer",
}
SCOPES = ["read", "request", "run", "review", "audit", "policy", "administer", "observe"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGURATION = pathlib.Path(__file__).with_name("schemathesis.toml")


def fail(words):
    sys.exit(f"check: {words}")


class Enclave:
    """A home, its node and its service; everything that is started here is stopped here."""

    def __init__(self, work, binaries):
        self.work, self.binaries = pathlib.Path(work), pathlib.Path(binaries)
        self.home, self.key = self.work / "home", self.work / "home.key"
        self.processes = []
        self.url = None
        if self.work.exists():
            shutil.rmtree(self.work)
        self.work.mkdir(parents=True)

    def run(self, *arguments, status=0, environment=None, parse=True):
        """A command's answer; `--json` where it is parsed."""
        command = [self.binaries / "sekisho", *map(str, arguments)] + (["--json"] if parse else [])
        done = subprocess.run(
            command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=600)
        if done.returncode != status:
            fail(f"{' '.join(map(str, arguments))}: status {done.returncode}, not {status}: {done.stderr[-2000:]}")
        return json.loads(done.stdout) if parse and done.stdout else done.stdout

    def embedded(self, person, *arguments, **options):
        own = ["--home", self.home, "--key-file", self.key] + (["--as", person] if person else [])
        return self.run(*arguments, *own, **options)

    def client(self, person, *arguments, **options):
        environment = {
            "SEKISHO_SERVER": self.url, "SEKISHO_TOKEN_FILE": str(self.token_file(person)),
            "SEKISHO_SERVER_CA": str(self.authority), "SEKISHO_HOME": "",
        }
        return self.run(*arguments, environment=environment, **options)

    def token_file(self, person):
        return self.work / "tokens" / person

    def token(self, person):
        return self.token_file(person).read_text().strip()

    # Making it

    def make(self, epochs):
        clinic.write(self.work / "data", epochs)
        self.key.write_bytes(os.urandom(32))
        self.key.chmod(0o600)
        for name in ("auditor", "recovery"):
            self.run("audit", "keygen", "--out", self.work / f"{name}.key")
        self.trail = self.embedded(
            None, "init", "--anchor", self.work / "anchor", "--auditor", self.work / "auditor.key.pub", "--recovery",
            self.work / "recovery.key.pub")["trail"]
        for number, (person, role) in enumerate(PEOPLE.items()):
            self.embedded("olga" if number else None, "person", "add", person, "--role", role)
        self.embedded("olga", "pki", "init")
        bundle = self.embedded("pia", "policy", "propose", self.work / "data" / "policies")["number"]
        for person in ("dai", "chika"):
            key = self.work / f"policy-{person}.key"
            self.run("policy", "keygen", "--out", key)
            self.embedded(person, "policy", "key", f"{key}.pub")
            self.embedded(person, "policy", "sign", bundle, "--key", key)
        self.embedded("pia", "policy", "activate", bundle)
        data = self.work / "data"
        self.embedded(
            "mika", "dataset", "import", clinic.DATASET, "--nodes", data / "nodes.tsv", "--edges", data / "edges.tsv",
            "--features", data / "features.npy", "--consent", data / "consent.tsv")
        self.start_node("campus-1")
        (self.work / "tokens").mkdir(mode=0o700)
        scopes = [word for scope in SCOPES for word in ("--scope", scope)]
        for person in PEOPLE:
            self.embedded(person, "token", "create", *scopes, "--days", 1, "--out", self.token_file(person))

    def start(self, name, command):
        log = open(self.work / f"{name}.log", "a")
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def wait_for(self, file, process, what):
        for _ in range(600):
            if file.exists() and file.read_text().strip():
                return file.read_text().strip()
            if process.poll() is not None:
                fail(f"{what} ended: {(self.work / f'{what}.log').read_text()[-2000:]}")
            time.sleep(0.1)
        fail(f"{what} did not open its port")

    def start_node(self, name):
        identity, port_file = self.work / name, self.work / f"{name}.port"
        self.embedded("olga", "pki", "node", name, "--out", identity)
        options = [
            "--identity", identity, "--state", self.work / f"{name}.state", "--device-memory", "256MiB", "--threads", 1]
        node = self.binaries / "sekisho-node"
        measured = subprocess.run(
            list(map(str, [node, *options, "--measure"])), capture_output=True, text=True, check=True).stdout
        measurements = self.work / f"{name}.measurements"
        measurements.write_text(measured)
        process = self.start(name, [node, *options, "--listen", "127.0.0.1:0", "--port-file", port_file])
        port = self.wait_for(port_file, process, name)
        self.embedded(
            "olga", "fabric", "add", name, "--address", f"127.0.0.1:{port}", "--pool", "campus", "--measurements",
            measurements)

    def serve(self):
        port_file = self.work / "service.port"
        port_file.unlink(missing_ok=True)
        self.service = self.start("service", [
            self.binaries / "sekisho", "serve", "--home", self.home, "--key-file", self.key, "--host", "127.0.0.1",
            "--port", 0, "--port-file", port_file, "--set", "limits.account-per-second=100000", "--set",
            "limits.address-per-second=100000", "--set", "limits.failures-per-address=100000"])
        port = self.wait_for(port_file, self.service, "service")
        self.url = f"https://127.0.0.1:{port}"
        self.authority = self.home / "pki" / "door" / "ca.pem"

    def stop_service(self):
        self.service.terminate()
        if self.service.wait(timeout=60) != 0:
            fail(f"the service ended with {self.service.returncode}: {(self.work / 'service.log').read_text()[-2000:]}")

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            if process.poll() is None:
                process.kill()


def journey(enclave):
    """Request, reviews, run, release, export: all through the service. Also what must be refused, with its status."""
    data = enclave.work / "data"
    ask = enclave.client
    assert ask("alice", "person", "list") == [{"person": "alice", "roles": ["researcher"]}]
    assert len(ask("olga", "person", "list")) == len(PEOPLE)
    # A custodian sends a second version; what is wrong with a file is told by its line, and leaves nothing.
    version = ["--edges", data / "edges.tsv", "--features", data / "features.npy", "--consent", data / "consent.tsv"]
    sent = ask("mika", "dataset", "import", "test:sent", "--nodes", data / "nodes.tsv", *version)
    assert sent["version"] == "v1" and sent["nodes"] == clinic.PEOPLE, sent
    (enclave.work / "bad.tsv").write_text("id\tcategory\tlabel\nP:1\tbiolink:Case\tmany\n")
    ask("mika", "dataset", "import", "test:sent", "--nodes", enclave.work / "bad.tsv", *version, status=2, parse=False)
    ask("alice", "dataset", "import", "test:sent", "--nodes", data / "nodes.tsv", *version, status=3, parse=False)
    assert [v["version"] for v in ask("rin", "dataset", "list") if v["dataset"] == "test:sent"] == ["v1"]
    filed = ask("alice", "request", "file", data / "form.json", "--once-key", "first")
    request = filed["request"]
    assert filed["state"] == "waiting" and filed["missing"]["count"] == 2, filed
    again = ask("alice", "request", "file", data / "form.json", "--once-key", "first")
    assert again["request"] == request, "the same key filed a second request"
    assert ask("rin", "request", "list") == [], "a researcher sees another's request"
    ask("rin", "request", "show", request, status=4, parse=False)
    ask("alice", "request", "review", request, "approve", status=3, parse=False)
    ask("dai", "request", "review", request, "approve", "--comment", "in scope")
    granted = ask("chika", "request", "review", request, "approve")
    grant = granted["grant"]
    ask("alice", "run", "start", data / "form.json", "--grant", grant, status=2, parse=False)
    run = ask("alice", "run", "start", data / "spec.yaml", "--grant", grant, "--id", "first")
    assert run["run"] == "first" and run["stage"] == "review" and run["missing"]["count"] == 2, run
    ask("alice", "release", "take", "first", "--out", enclave.work / "none", status=3, parse=False)
    candidate = ask("dai", "release", "show", "first")["candidate"]
    ask("dai", "release", "review", "first", "approve", "--candidate", candidate)
    assert ask("chika", "release", "review", "first", "approve")["end"] == "released"
    taken = ask("alice", "release", "take", "first", "--out", enclave.work / "taken")
    assert sorted(file["name"] for file in taken) == [
        "figures.json", "model-card.json", "model-card.md", "model.safetensors", "release.json"], taken
    for file in taken:
        assert (enclave.work / "taken" / file["name"]).stat().st_size == file["bytes"]
    ask("alice", "run", "report", "first", "--out", enclave.work / "report.html", parse=False)
    ask("mika", "consent", "P:9", "--dataset", clinic.DATASET, "--state", "withdrawn")
    assert ask("mika", "subject", "history", "P:9", "--dataset", clinic.DATASET) == [{"run": "first", "used": True}]
    ask("aoi", "audit", "export", "--out", enclave.work / "export")
    verified = enclave.run(
        "audit", "verify", enclave.work / "export", "--trail", enclave.trail, "--key", enclave.work / "auditor.key")
    assert verified["verified"] is True and any(r["run"] == "first" and r["complete"] for r in verified["runs"])
    # The same of a part, sealed: what the client fetches opens with the auditor's key.
    for number, part in enumerate([["--dataset", clinic.DATASET], ["--run", "first"], ["--from", "2020-01-01"]]):
        sealed, opened = enclave.work / f"{number}.age", enclave.work / f"opened-{number}"
        ask("aoi", "audit", "export", "--out", sealed, *part)
        enclave.run("audit", "open", sealed, "--key", enclave.work / "auditor.key", "--out", opened)
        enclave.run("audit", "verify", opened, "--trail", enclave.trail, "--key", enclave.work / "auditor.key")
    # Exit statuses that only a client has.
    ask("alice", "run", "list", "--server", "https://127.0.0.1:1", status=69, parse=False)
    ask("alice", "run", "list", "--server-pin", "0" * 64, status=5, parse=False)
    ask("alice", "pki", "init", "--server", enclave.url, "--as", "olga", status=2, parse=False)
    wrong = enclave.work / "wrong-token"
    wrong.write_text(re.sub(r"[0-9a-f]{8}$", "00000000", enclave.token("alice")))
    ask("alice", "run", "list", "--token-file", wrong, status=3, parse=False)
    return request


READING = [
    ("person", "list"), ("dataset", "list"), ("request", "list"), ("grant", "list"), ("run", "list"),
    ("release", "list"), ("policy", "show"), ("request", "show", "request-1"),
    ("run", "show", "first"), ("run", "times", "first"), ("run", "plan", "first"), ("release", "show", "first"),
    ("release", "report", "first"), ("release", "report", "first", "--as-text", "html", "--language", "ja"),
    ("token", "list"), ("run", "show", "nothing"), ("grant", "list", "--nonsense"),
]


# The researcher, another one, a reviewer, an operator, an auditor, and somebody who may see next to nothing.
READERS = [
    ("alice", True), ("alice", False), ("rin", True), ("dai", True), ("olga", False), ("aoi", True), ("oto", True)]


def reading_answers(ask):
    """What each kind of reader gets from every reading command: status, and the answer as JSON or as lines for people."""
    return {
        (person, *command, parse): ask(person, command, parse)
        for person, parse in READERS for command in READING}


def compare(enclave, served):
    def ask(person, command, parse):
        return outcome(enclave, [*command, "--home", enclave.home, "--key-file", enclave.key, "--as", person], {}, parse)

    embedded = reading_answers(ask)
    different = [key for key in served if served[key] != embedded[key]]
    for key in different[:5]:
        print(f"  {key}:\n    served   {served[key]}\n    embedded {embedded[key]}")
    if different:
        fail(f"{len(different)} of {len(served)} answers differ between the service and the embedded mode")
    return len(served)


def outcome(enclave, arguments, environment, parse):
    done = subprocess.run(
        [str(enclave.binaries / "sekisho"), *map(str, arguments)] + (["--json"] if parse else []),
        env={**os.environ, "SEKISHO_HOME": "", **environment}, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


def redacted(enclave):
    """Holds every log of the programs to what must not stand in one: who, what about whom, secrets, places."""
    secrets = [enclave.token(person) for person in PEOPLE]
    secrets += [secret.rsplit("-", 1)[-1] for secret in secrets]
    secrets += [str(enclave.work), enclave.work.name + "/", "home.key", enclave.key.read_bytes().hex(), "127.0.0.1"]
    secrets += [clinic.DATASET, "test-university", "test-project", "P:9", "in scope", "/tmp/"]
    names, lines = set(PEOPLE), 0
    for name in ("service", "campus-1"):
        text = (enclave.work / f"{name}.log").read_text()
        lines += text.count("\n")
        for secret in secrets:
            if secret in text:
                fail(f"the log of {name} holds what must not be logged: {secret[:4]}…")
        found = names & set(re.split(r"[^A-Za-z0-9_.-]+", text))
        if found:
            fail(f"the log of {name} names {sorted(found)}")
    return lines


def schemathesis(enclave, program, person, arguments):
    """One person's run; returns its summary."""
    report = enclave.work / f"schemathesis-{person}.json"
    log = enclave.work / f"schemathesis-{person}.log"
    command = [
        program, "--config-file", CONFIGURATION, "run", f"{enclave.url}/api/v1/openapi.yaml", "--tls-verify",
        enclave.authority, "--header", f"Authorization: Bearer {enclave.token(person)}", "--max-examples",
        arguments.examples, "--seed", arguments.seed, "--report-json-path", report, "--report", "json", "--no-color",
        "--workers", 1]
    with open(log, "w") as out:
        # It keeps notes of its own where it stands.
        done = subprocess.run(
            list(map(str, command)), stdout=out, stderr=out, cwd=enclave.work, env={
                **os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(pathlib.Path(__file__).parent),
                "CLINIC_DATA": str(enclave.work / "data")})
    text = log.read_text()
    summary = text[text.rfind("SUMMARY"):] if "SUMMARY" in text else text[-1500:]
    return done.returncode, summary, text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    parser.add_argument("binaries")
    parser.add_argument("--schemathesis")
    parser.add_argument("--examples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--people", default=",".join(["olga", "alice", "dai", "chika", "pia", "aoi", "oto", "sei"]))
    arguments = parser.parse_args()
    enclave = Enclave(pathlib.Path(arguments.work).resolve(), pathlib.Path(arguments.binaries).resolve())
    try:
        enclave.make(epochs=3)
        enclave.serve()
        started = time.monotonic()
        journey(enclave)
        print(f"the journey through the command line as a client: done in {time.monotonic() - started:.1f} s")

        def ask(person, command, parse):
            environment = {
                "SEKISHO_SERVER": enclave.url, "SEKISHO_TOKEN_FILE": str(enclave.token_file(person)),
                "SEKISHO_SERVER_CA": str(enclave.authority)}
            return outcome(enclave, command, environment, parse)

        served = reading_answers(ask)
        enclave.stop_service()
        print(f"{compare(enclave, served)} answers are the same from the service and from the embedded mode")
        if arguments.schemathesis:
            enclave.serve()
            failed = []
            for person in arguments.people.split(","):
                status, summary, text = schemathesis(enclave, pathlib.Path(arguments.schemathesis).absolute(), person, arguments)
                cases = re.search(r"(\d+) generated", text)
                print(f"schemathesis as {PEOPLE[person]}: status {status}, {cases.group(1) if cases else '?'} calls")
                if status:
                    failed.append(person)
                    print(text[-4000:])
            enclave.stop_service()
            if failed:
                fail(f"schemathesis found something as {', '.join(failed)}; see {enclave.work}/schemathesis-*.log")
        print(f"{redacted(enclave)} lines of logs name nobody and hold no token, key, path or address")
    finally:
        enclave.stop()


if __name__ == "__main__":
    main()
