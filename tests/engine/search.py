"""The part of the engine's search language that disk clients use: `key=value` terms, joined by `and`.

A value may be quoted and may contain `*`. Each object's searchable facts are a flat dictionary, in which
`storage.name` and `hw_id` are plain keys. Names compare with case unless the query says
`case_sensitive=false`.
"""

import fnmatch
import re

from wire import Refused

_TERM = re.compile(r"""\s*([A-Za-z_.]+)\s*=\s*("[^"]*"|\S+)\s*$""")


def _terms(text):
    for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE):
        found = _TERM.match(part)
        if not found:
            raise Refused(400, f"The search expression is not valid: {text}")
        yield found[1].lower(), found[2].strip('"')


def select(objects, facts, query):
    """Returns those of `objects` whose `facts(object)` match the query's `search`, at most its `max`."""
    text = query.get("search")
    found = list(objects)
    if text:
        exact = query.get("case_sensitive", "true") != "false"
        found = [
            one for one in found if all(_fits(facts(one), key, value, exact) for key, value in _terms(text))
        ]
    limit = query.get("max", "")
    return found[: int(limit)] if limit.isdigit() else found


def _fits(facts, key, pattern, exact):
    if key not in facts:
        raise Refused(400, f"The search key {key} is not known here")
    for value in facts[key] if isinstance(facts[key], list) else [facts[key]]:
        if key == "status" or not exact:
            value, pattern = value.lower(), pattern.lower()
        if fnmatch.fnmatchcase(value, re.sub(r"([\[?])", r"[\1]", pattern)):
            return True
    return False
