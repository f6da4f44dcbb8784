"""Says what a JSON schema thinks of YAML files.

usage: schema.py SCHEMA FILE…

Prints `NAME ok` or `NAME refused: WHY` for each file. Dates stay text, as YAML 1.2 reads them.
"""

import json
import pathlib
import sys

import jsonschema
import yaml


class Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


schema = json.loads(pathlib.Path(sys.argv[1]).read_text())
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for name in sys.argv[2:]:
    path = pathlib.Path(name)
    error = jsonschema.exceptions.best_match(validator.iter_errors(yaml.load(path.read_text(), Loader)))
    print(f"{path.name} {'ok' if error is None else 'refused: ' + error.message.splitlines()[0][:200]}")
