"""The formats of JSON strings that grammars can hold texts to."""

from __future__ import annotations

from ._languages import Languages, Term
from ._regex import parse

__all__ = ["FORMATS", "of_format"]

_LEAP = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    r"(?:\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))|" + _LEAP + "-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_H = "[0-9a-fA-F]{1,4}"
_IPV6 = "|".join(
    [
        f"(?:{_H}:){{7}}{_H}",
        f"(?:{_H}:){{1,7}}:",
        *(f"(?:{_H}:){{1,{7 - n}}}(?::{_H}){{1,{n}}}" for n in range(1, 7)),
        f":(?::{_H}){{1,7}}",
        "::",
    ]
)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?"
_HOST = rf"{_LABEL}(?:\.[a-z][a-z0-9]{{0,20}}){{1,4}}"
_SPAN = r"(?:\d{1,6}H(?:\d{1,6}M(?:\d{1,6}S)?)?|\d{1,6}M(?:\d{1,6}S)?|\d{1,6}S)"

# Where a format has unusual forms too (comments in addresses, leap seconds), the common ones are written.
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": r"P(?:(?:\d{1,6}D|\d{1,6}M(?:\d{1,6}D)?|\d{1,6}Y(?:\d{1,6}M(?:\d{1,6}D)?)?)"
    rf"(?:T{_SPAN})?|T{_SPAN}|\d{{1,6}}W)",
    "uuid": "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "ipv4": rf"{_OCTET}(?:\.{_OCTET}){{3}}",
    "ipv6": f"(?:{_IPV6})",
    "email": rf"[A-Za-z0-9_+-]{{1,30}}(?:\.[A-Za-z0-9_+-]{{1,30}})?@{_HOST}",
    "uri": rf"https?://{_HOST}(?::[1-9]\d{{0,3}})?(?:/[A-Za-z0-9._~-]*)*(?:\?[A-Za-z0-9._~=&-]*)?(?:#[A-Za-z0-9._~-]*)?",
}


def of_format(name: str, languages: Languages) -> Term:
    """The strings of a format; ``name`` must be one of ``FORMATS``."""
    term = parse(f"^{FORMATS[name]}$", languages)
    if name in ("date", "date-time"):
        # There was no year 0, and Python's datetime begins with 1.
        term = languages.both(term, languages.negate(languages.cat(languages.literal("0000"), languages.everything)))
    return term
