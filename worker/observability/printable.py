"""Texts of others as a terminal may have them: what would steer it, or hide what stands there, is written out.

Producers choose identifiers, symbols, payloads, and words in errors. Raw, an escape sequence in one of them moves the
cursor, sets the window's title, or writes to the clipboard; a direction mark turns what is read around; a line end
forges a line.
"""

from __future__ import annotations

import codecs

#: What our own texts say in signs that a terminal without Unicode does not have.
_PLAIN = {"→": "->", "●": "*", "○": "o", "…": "...", "·": "-", "±": "+/-", "≥": ">=", "≤": "<="}
#: Name of the error handler for streams whose encoding lacks a sign.
READABLE = "refinery.readable"


def printable(text: str) -> str:
    """`text` on one line, whatever is no visible sign or blank in it written out, as `\\x1b`, `\\n` and `\\u202e`."""
    return text if text.isprintable() else "".join(map(_written_out, text))


def printable_lines(text: str) -> str:
    """The same for a text of several lines: their ends stay, and a tab is blanks."""
    return "\n".join(map(printable, text.expandtabs(4).split("\n")))


def printable_json(text: str) -> str:
    """JSON that says the same, with whatever is no visible sign in a string as its `\\u` escape."""
    if text.isascii() and "\x7f" not in text:
        return text  # what ASCII has of the kind, JSON escapes by itself
    return "".join(sign if sign.isprintable() or sign == "\n" else _as_json(sign) for sign in text)


def counted(number: int, one: str, several: str = "") -> str:
    """How many there are, with their noun: `1 event`, `2,000 events`."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def _written_out(sign: str) -> str:
    return sign if sign.isprintable() else sign.encode("unicode_escape").decode()


def _as_json(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _readable(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    said = "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking)
    return said, error.end


codecs.register_error(READABLE, _readable)
