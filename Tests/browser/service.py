"""A whole Sekisho on loopback for the tests: a home, people, policies, a small data set, a node, the service."""

import array
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import struct
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = pathlib.Path(os.environ.get("SEKISHO_BIN", ROOT / ".build" / "release"))
PASSWORD = "correct horse battery"
PEOPLE = {
    "olga": ["operator"], "alice": ["researcher"], "bob": ["researcher"], "dai": ["dac"], "chika": ["data-custodian"],
    "mika": ["data-custodian"], "pia": ["policy-administrator"], "aoi": ["compliance-officer"],
}
DATASET = "demo:kg1-ancestry"
SPECIFICATION = "model: gcn\nhidden: [8]\nepochs: {epochs}\nlearning_rate: 0.01\nfeatures: standard\n"


def write_data(folder, people=300, features=6, groups=3, seed=7):
    """People in `groups` groups, linked mostly within their group."""
    folder.mkdir(parents=True)
    random.seed(seed)
    ids = [f"DEMO:P{number:04}" for number in range(people)]
    splits = ["train", "train", "train", "val", "test"]
    with open(folder / "nodes.tsv", "w") as file:
        file.write("id\tcategory\tname\tlabel\tlabel_name\tsplit\n")
        for number, name in enumerate(ids):
            group = number % groups
            split = splits[number // groups % 5]
            file.write(f"{name}\tbiolink:IndividualOrganism\tperson {number}\t{group}\tG{group}\t{split}\n")
    pairs = set()
    while len(pairs) < people * 4:
        one, other = random.randrange(people), random.randrange(people)
        if one < other and (one % groups == other % groups or random.random() < 0.1):
            pairs.add((one, other))
    with open(folder / "edges.tsv", "w") as file:
        file.write("subject\tpredicate\tobject\n")
        for one, other in sorted(pairs):
            file.write(f"{ids[one]}\tbiolink:genetically_similar_to\t{ids[other]}\n")
    values = array.array("f")
    for number in range(people):
        values.extend(random.gauss(1.5 if column % groups == number % groups else 0, 1) for column in range(features))
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({people}, {features}), }}".ljust(117) + "\n"
    (folder / "features.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + values.tobytes())
    with open(folder / "consent.tsv", "w") as file:
        file.write("subject\tstate\n" + "".join(f"{name}\tgiven\n" for name in ids))


@dataclasses.dataclass
class Service:
    folder: pathlib.Path
    url: str = ""

    def __post_init__(self):
        self.processes = []
        self.environment = {**os.environ, "SEKISHO_HOME": str(self.folder / "home"),
                            "SEKISHO_KEY_FILE": str(self.folder / "home.key"), "LC_ALL": "C.UTF-8"}

    def sekisho(self, *arguments, status=0):
        done = subprocess.run([BIN / "sekisho", *map(str, arguments)], env=self.environment, capture_output=True,
                              text=True, timeout=120)
        assert done.returncode == status, f"sekisho {arguments[:2]}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def start(self):
        folder = self.folder
        (folder / "home.key").write_bytes(os.urandom(32))
        os.chmod(folder / "home.key", 0o600)
        self.sekisho("audit", "keygen", "--out", folder / "auditor.key")
        self.sekisho("audit", "keygen", "--out", folder / "recovery.key")
        self.trail = json.loads(self.sekisho(
            "init", "--anchor", folder / "anchor", "--auditor", folder / "auditor.key.pub", "--recovery",
            folder / "recovery.key.pub", "--json"))["trail"]
        self.sekisho("person", "add", "olga", "--role", "operator")
        for person, roles in PEOPLE.items():
            if person != "olga":
                self.sekisho("person", "add", person, "--role", *roles, "--as", "olga")
        (folder / "password").write_text(PASSWORD + "\n")
        for person in PEOPLE:
            self.sekisho("person", "password", person, "--file", folder / "password", "--as", "olga")
        self.sekisho("pki", "init", "--as", "olga")
        self.start_node("campus-1")
        bundle = json.loads(self.sekisho("policy", "propose", ROOT / "policies", "--as", "pia", "--json"))["number"]
        for person in ("dai", "chika"):
            key = folder / f"policy-{person}.key"
            self.sekisho("policy", "keygen", "--out", key)
            self.sekisho("policy", "key", f"{key}.pub", "--as", person)
            self.sekisho("policy", "sign", bundle, "--key", key, "--as", person)
        self.sekisho("policy", "activate", bundle, "--as", "pia")
        write_data(folder / "data")
        self.sekisho("dataset", "import", DATASET, "--nodes", folder / "data/nodes.tsv", "--edges",
                     folder / "data/edges.tsv", "--features", folder / "data/features.npy", "--consent",
                     folder / "data/consent.tsv", "--as", "mika")
        self.serve()

    def start_node(self, name):
        folder, port_file = self.folder, self.folder / f"{name}.port"
        self.sekisho("pki", "node", name, "--out", folder / name, "--as", "olga")
        options = ["--identity", folder / name, "--state", folder / f"{name}.state", "--device-memory", "256MiB",
                   "--threads", "1"]
        measured = subprocess.run([BIN / "sekisho-node", *map(str, options), "--measure"], capture_output=True,
                                  text=True, check=True)
        (folder / f"{name}.measurements").write_text(measured.stdout)
        self.launch("sekisho-node", *options, "--listen", "127.0.0.1:0", "--port-file", port_file, log=name)
        self.sekisho("fabric", "add", name, "--address", f"127.0.0.1:{wait_for(port_file)}", "--pool", "campus",
                     "--measurements", folder / f"{name}.measurements", "--as", "olga")

    def serve(self, *options):
        port_file = self.folder / "serve.port"
        port_file.unlink(missing_ok=True)
        process = self.launch(
            "sekisho", "serve", "--port", "0", "--port-file", port_file, *options, log="serve")
        self.url = f"https://127.0.0.1:{wait_for(port_file, process)}"
        return process

    def launch(self, program, *arguments, log):
        out = open(self.folder / f"{log}.log", "ab")
        process = subprocess.Popen([BIN / program, *map(str, arguments)], env=self.environment, stdout=out, stderr=out)
        self.processes.append(process)
        return process

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(port_file, process=None, seconds=60):
    """The port that a program wrote, once it did."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if port_file.exists() and (text := port_file.read_text().strip()):
            return int(text)
        assert process is None or process.poll() is None, "the service ended before it listened"
        time.sleep(0.05)
    raise AssertionError(f"{port_file.name} was not written")


class Words:
    """The message catalogue of one language, as the pages have it."""

    def __init__(self, language):
        self.language = language
        path = ROOT / "Sources" / "WebResources" / f"messages.{language}.json"
        self.texts = json.loads(path.read_text())

    def __call__(self, key, **values):
        return self.texts[key].format(**values)

    def pattern(self, key):
        """A text with anything in its places."""
        return re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(self.texts[key])))
