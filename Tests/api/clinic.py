"""A made data set of 61 people in three classes, with the policy, the form and the specification that use it.

usage: clinic.py FOLDER [EPOCHS]
"""
import pathlib
import random
import struct
import sys

PEOPLE, FEATURES = 61, 6
DATASET = "test:clinic"

POLICY = f"""version: 1
dataset: {DATASET}
level: standard
permission: DUO:0000042
access:
  approvals: {{ required: 2, roles: [dac, data-custodian] }}
training:
  device: {{ pools: [campus], evidence: software, hours_max: 1000 }}
  targets: {{ label: [DUO:0000042] }}
progress: {{ losses: true, metrics: true, cohort_min: 60, round_thousandths: 10 }}
release:
  cohort_min: 60
  checks: [artefact, shape, cohort]
  reviewers: 2
  roles: [dac, data-custodian]
"""

FORM = f"""{{
  "dataset": "{DATASET}",
  "purpose": {{
    "codes": ["DUO:0000042"], "ancestry": false, "methods": false, "commercial": false, "notForProfit": true,
    "genetic": true
  }},
  "termMonths": 6, "country": "JP", "institution": "test-university", "project": "test-project"
}}
"""


def specification(epochs):
    return f"""model: gcn
hidden: [8]
dropout: 0.5
learning_rate: 0.05
weight_decay: 5e-4
weight_decay_layers: first
epochs: {epochs}
features: none
label: label
"""


def write(folder, epochs=3):
    folder = pathlib.Path(folder)
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    rng = random.Random(20)
    nodes, edges, consent, values = ["id\tcategory\tlabel\tsplit"], ["subject\tpredicate\tobject"], ["subject\tstate"], []
    for person in range(PEOPLE):
        label = person % 3
        nodes.append(f"P:{person}\tbiolink:Case\t{label}\t{['train', 'train', 'val', 'test'][person // 3 % 4]}")
        consent.append(f"P:{person}\t{'withdrawn' if person == 7 else 'given'}")
        for other in (person + 3, person + 9):
            if other < PEOPLE:
                edges.append(f"P:{person}\tbiolink:related_to\tP:{other}")
                edges.append(f"P:{other}\tbiolink:related_to\tP:{person}")
        values += [float(column % 3 == label) + rng.uniform(-0.3, 0.3) for column in range(FEATURES)]
    for name, lines in (("nodes", nodes), ("edges", edges), ("consent", consent)):
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({PEOPLE}, {FEATURES}), }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    (folder / "features.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<{len(values)}f", *values))
    (folder / "policies" / "clinic.yaml").write_text(POLICY)
    (folder / "form.json").write_text(FORM)
    (folder / "spec.yaml").write_text(specification(epochs))


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
