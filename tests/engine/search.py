"""The part of the engine's search language that disk clients use: `key=value` terms, joined by `and`.

Behind them may stand `sortby FIELD asc` (or `desc`) and `page N`; a page has `max` objects. A value may be
quoted and may contain `*`. Each object's searchable facts are a flat dictionary, in which `storage.name` and
`hw_id` are plain keys. As in the engine, names compare without case unless the query says
`case_sensitive=true`.
"""

import fnmatch
import re

from wire import Refused

_TAIL = re.compile(r"(?:^|\s+)(?:sortby\s+(\w+)\s+(asc|desc))?(?:\s*page\s+(\d+))?$", re.IGNORECASE)
_TERM = re.compile(r"""\s*([A-Za-z_.]+)\s*=\s*("[^"]*"|\S+)\s*$""")


def _terms(text):
    for part in re.split(r"\s+and\s+", text.strip(), flags=re.IGNORECASE):
        found = _TERM.match(part)
        if not found:
            raise Refused(400, f"The search expression is not valid: {text}")
        yield found[1].lower(), found[2].strip('"')


def select(objects, facts, query, has_pages=True):
    """Returns those of `objects` whose `facts(object)` match the query's `search`: the page that it asks for,
    of `max` objects.

    Without `has_pages` it does what the engine does with disks: `max` counts only beside a search, and only
    after the page was taken, so that every page but the first is empty.
    """
    text, number = query.get("search", ""), 1
    found = list(objects)
    if set(text) & set("';"):
        raise Refused(400, f"The search expression has a character that is not allowed: {text}")
    tail = _TAIL.search(text)
    if tail:
        text, field, direction, number = text[: tail.start()], tail[1], tail[2], int(tail[3] or 1)
        if field:
            found.sort(key=lambda one: facts(one)[field.lower()], reverse=direction.lower() == "desc")
    if text.strip():
        exact = query.get("case_sensitive", "false") == "true"
        found = [
            one for one in found if all(_fits(facts(one), key, value, exact) for key, value in _terms(text))
        ]
    limit = query.get("max", "")
    size = int(limit) if limit.isdigit() else len(found)
    if has_pages:
        return found[(number - 1) * size : number * size]
    if "search" not in query:
        return found
    return found[:size] if number == 1 else []


def _fits(facts, key, pattern, exact):
    if key not in facts:
        raise Refused(400, f"The search key {key} is not known here")
    for value in facts[key] if isinstance(facts[key], list) else [facts[key]]:
        if key == "status" or not exact:
            value, pattern = value.lower(), pattern.lower()
        if fnmatch.fnmatchcase(value, re.sub(r"([\[?])", r"[\1]", pattern)):
            return True
    return False
